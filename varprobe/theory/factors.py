"""What a gradient was multiplied with on its way: slopes, masks, what a branch lets through."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch

from varprobe.theory.expectations import Field
from varprobe.theory.pairs import Pairs
from varprobe.theory.pointwise import Pointwise

FLAT = 1e-6
"""Share of its largest value below which an expected factor is rounding."""


@dataclass(frozen=True, kw_only=True)
class Factor:
    """What a gradient was multiplied with on its way: a random factor that depends on a field.

    Parameters
    ----------
    field : Field
        The field whose elements the factor depends on.
    mean : Pointwise
        Expected factor, given the element.
    square : Pointwise or None
        Expected squared factor, given the element; None for a factor that is not random.
    growing : pairs of Field and Pointwise
        Functions of fields whose averages the average of the square follows as these grow.
    """

    field: Field
    mean: Pointwise
    square: Pointwise | None = None
    growing: tuple[tuple[Field, Pointwise], ...] = ()

    @cached_property
    def growth(self) -> float:
        """Return d ln (mean square) / d ln q, q the second moment of all that it depends on."""
        return sum(sum(field.grow(function)) for field, function in self.growing)

    def times(self, other: Factor) -> Factor:
        """Return the product of two factors of the same field, independent given its elements."""
        square = None
        if self.square is not None or other.square is not None:
            square = (self.square or self.mean * self.mean) * (
                other.square or other.mean * other.mean
            )
        return Factor(
            field=self.field,
            mean=self.mean * other.mean,
            square=square,
            growing=(*self.growing, *other.growing),
        )

    @cached_property
    def pairs(self) -> Pairs:
        """E of the product of the factors at all pairs of positions."""
        return self.weigh(None)

    def divide(self, pairs: Pairs) -> Pairs:
        """Return the signal that has these pairs once it is multiplied with the factor."""
        expected = self.pairs.values
        floor = FLAT * float(expected.abs().max().clamp_min(1e-300))
        kept = torch.where(expected.abs() < floor, floor, expected)
        return pairs.map(lambda values: values / kept)

    def weigh(self, by: Pointwise | None) -> Pairs:
        """Return `pairs` with each factor multiplied by a function of its element."""
        mean = self.mean if by is None else self.mean * by
        pairs = self.field.expect_pairs(mean)
        if self.square is None:
            return pairs
        square = self.square if by is None else self.square * by * by
        return pairs.with_diagonal(self.field.expect(square))
