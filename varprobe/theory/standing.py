"""How much a law may be trusted, and what stands between two arrays that meet."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal


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
    place : tuple of int
        Of a gradient: in which part of a joined array it arrived, the last that was joined first.
    """

    status: Literal["exact", "approximate"] = "exact"
    reason: str = ""
    touched: int = 0
    fresh: int = 0
    terms: tuple[int, ...] = ()
    place: tuple[int, ...] = ()

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

    def set_apart(self, part: int) -> Standing:
        """Return the same for one part of a joined array, whose features the others do not have."""
        return replace(self, place=(*self.place, part))

    def is_uncorrelated(self, other: Standing) -> bool:
        """Return whether a weight of mean zero, or a joint of features, stands between the two."""
        apart = any(one != two for one, two in zip(self.place, other.place, strict=False))
        return apart or self._differs_from(other) or other._differs_from(self)

    def _differs_from(self, other: Standing) -> bool:
        return all(term & ~other.touched for term in self.terms or (self.fresh,))
