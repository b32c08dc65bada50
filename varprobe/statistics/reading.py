"""What a measurement of one tensor yields, before it is a Record."""

from __future__ import annotations

import math
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

    def divide(self, scale: float) -> HostReading:
        """Return the reading of the elements divided by ``scale``."""
        return self._replace(
            mean=self.mean / scale,
            m2=self.m2 / scale / scale,
            abs_max=self.abs_max / scale,
            exponents=_shift(self.exponents, find_power_of_two(scale)),
        )

    def extrapolate(self, numel: int) -> HostReading:
        """Return the reading of ``numel`` elements of which these are a sample.

        The largest magnitude remains that of the sample.
        """
        factor = numel / (self.finite + self.nan + self.inf)
        nan, inf = round(self.nan * factor), round(self.inf * factor)
        finite = numel - nan - inf
        exponents = self.exponents
        return self._replace(
            finite=finite,
            m2=self.m2 * (finite / max(self.finite, 1)),
            nan=nan,
            inf=inf,
            zeros=None if self.zeros is None else round(self.zeros * factor),
            exponents=None
            if exponents is None
            else {exponent: round(count * factor) for exponent, count in exponents.items()},
        )


def find_power_of_two(scale: float) -> int | None:
    """Return e with scale = 2**e; None if there is none."""
    mantissa, exponent = math.frexp(scale)
    return exponent - 1 if mantissa == 0.5 else None


def _shift(exponents: Mapping[int, int] | None, power: int | None) -> dict[int, int] | None:
    # A histogram over powers of two can be moved by whole powers only; those of AMP are.
    if exponents is None or power is None:
        return None
    return {exponent - power: count for exponent, count in exponents.items()}
