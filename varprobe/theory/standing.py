"""How much a law may be trusted, and what stands between two arrays that meet."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import count
from typing import Literal

_PARTS: Iterator[int] = count(2**14)
"""Places of bits that belong to no weight, beyond those of any model's parameters."""


@dataclass(frozen=True, slots=True)
class Standing:
    """How much a law may be trusted, and what it was made of.

    Parameters
    ----------
    status : str
        "exact" (at infinite width) or "approximate".
    reason : str
        Why it is no better.
    touched, fresh : int
        Bit sets of the weights that the array depends on, and of those in which it is linear with
        mean zero: an array is uncorrelated with whatever did not touch one of its fresh weights.
    terms : tuple of int
        The fresh weights of each summand, where the array is a sum and each has some.
    """

    status: Literal["exact", "approximate"] = "exact"
    reason: str = ""
    touched: int = 0
    fresh: int = 0
    terms: tuple[int, ...] = ()

    def add(self, other: Standing) -> Standing:
        """Return the standing of the sum of both."""
        terms = (*(self.terms or (self.fresh,)), *(other.terms or (other.fresh,)))
        fresh = self.fresh & other.fresh
        return replace(self.merge(other), fresh=fresh, terms=terms if all(terms) else ())

    def merge(self, *others: Standing) -> Standing:
        """Return the standing of what depends on all of these."""
        every = (self, *others)
        worst = next((s for s in every if s.status == "approximate"), self)
        touched = 0
        for standing in every:
            touched |= standing.touched
        return Standing(worst.status, worst.reason, touched)

    def inherit(self, other: Standing) -> Standing:
        """Return the same, no more exact than ``other``."""
        return self.approximate(other.reason) if other.status == "approximate" else self

    def approximate(self, reason: str) -> Standing:
        """Return the same, no longer exact, for ``reason`` unless there was one before."""
        if self.status == "approximate":
            return self
        return replace(self, status="approximate", reason=reason)

    def set_apart(self) -> Standing:
        """Return the same for features of its own, uncorrelated with others whatever both met."""
        bit = 1 << next(_PARTS)
        return replace(
            self,
            touched=self.touched | bit,
            fresh=self.fresh | bit,
            terms=tuple(term | bit for term in self.terms),
        )

    def is_uncorrelated(self, other: Standing) -> bool:
        """Return whether a weight of mean zero stands between the two."""
        return self._differs_from(other) or other._differs_from(self)

    def _differs_from(self, other: Standing) -> bool:
        return all(term & ~other.touched for term in self.terms or (self.fresh,))
