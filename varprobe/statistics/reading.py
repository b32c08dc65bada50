"""What a measurement of one tensor yields, before it is a Record."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from varprobe.moments import Moments, merge_exponents


class HostReading(NamedTuple):
    """The numbers of `Moments`, and the histogram over powers of two where it was asked for.

    A step makes and merges hundreds of these, which is why they are tuples.
    """

    finite: int
    mean: float
    m2: float
    abs_max: float
    nan: int = 0
    inf: int = 0
    zeros: int | None = None
    exponents: Mapping[int, int] | None = None

    @classmethod
    def of(cls, moments: Moments, exponents: Mapping[int, int] | None = None) -> HostReading:
        """Return the reading with these moments."""
        return cls(
            finite=moments.finite,
            mean=moments.mean,
            m2=moments.m2,
            abs_max=moments.abs_max,
            nan=moments.nan,
            inf=moments.inf,
            zeros=moments.zeros,
            exponents=exponents,
        )

    @property
    def moments(self) -> Moments:
        """The reading as it is recorded."""
        return Moments(
            numel=self.finite + self.nan + self.inf,
            mean=self.mean,
            m2=self.m2,
            abs_max=self.abs_max,
            zeros=self.zeros,
            nan=self.nan,
            inf=self.inf,
        )

    def merge(self, other: HostReading) -> HostReading:
        """Return the reading of both sets of elements together, by Chan's merge as in `Moments`."""
        total = self.finite + other.finite
        share = other.finite / total if total else 0.0
        delta = other.mean - self.mean
        zeros = None if self.zeros is None or other.zeros is None else self.zeros + other.zeros
        return HostReading(
            total,
            self.mean + delta * share,
            self.m2 + other.m2 + delta * delta * self.finite * share,
            max(self.abs_max, other.abs_max),
            self.nan + other.nan,
            self.inf + other.inf,
            zeros,
            merge_exponents(self.exponents, other.exponents),
        )
