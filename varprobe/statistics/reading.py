"""What a measurement of one tensor yields, before it is a Record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from varprobe.moments import Moments, merge_exponents


@dataclass(frozen=True, slots=True)
class HostReading:
    """Moments, and the histogram over powers of two where it was asked for, on the host."""

    moments: Moments
    exponents: Mapping[int, int] | None = None

    def merge(self, other: HostReading) -> HostReading:
        """Return the reading of both sets of elements together."""
        exponents = merge_exponents(self.exponents, other.exponents)
        return HostReading(self.moments.merge(other.moments), exponents)
