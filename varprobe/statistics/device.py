"""Moments of a dense tensor on an accelerator, without a host synchronisation.

A reading is a vector on the tensor's device and is merged there; it reaches the host when it is
read. Branches on values are forbidden (each would wait for the device), so that the masked,
shifted two-pass form serves every case.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from varprobe.statistics.quiet import quiet
from varprobe.statistics.reading import HostReading, find_power_of_two

EXPONENT_RANGE = (-1080, 1030)
"""Exponents that frexp can return for float64; the histogram has one bin for each."""


@dataclass(frozen=True, slots=True)
class DeviceReading:
    """Seven float64 numbers on the device: finite, mean, m2, abs_max, zeros, nan, inf."""

    numbers: torch.Tensor
    bins: torch.Tensor | None
    has_zeros: bool

    def merge(self, other: DeviceReading) -> DeviceReading:
        """Return the reading of both sets of elements together (Chan's merge), on the device."""
        with quiet(self.numbers):
            numbers = _merge(self.numbers, other.numbers.to(self.numbers.device))
            bins = None
            if self.bins is not None and other.bins is not None:
                bins = self.bins + other.bins.to(self.bins.device)
        return DeviceReading(numbers, bins, self.has_zeros and other.has_zeros)

    def divide(self, scale: float) -> DeviceReading:
        """Return the reading of the elements divided by ``scale``, on the device."""
        with quiet(self.numbers):
            numbers = self.numbers.clone()
            numbers[1:4] /= scale
            numbers[2] /= scale
            power = find_power_of_two(scale)
            bins = None if self.bins is None or power is None else _shift(self.bins, power)
        return DeviceReading(numbers, bins, self.has_zeros)

    def extrapolate(self, numel: int) -> DeviceReading:
        """Return the reading of ``numel`` elements of which these are a sample, on the device.

        The largest magnitude remains that of the sample.
        """
        with quiet(self.numbers):
            finite, mean, m2, abs_max, zeros, nan, inf = self.numbers.unbind()
            factor = numel / (finite + nan + inf)
            scaled = [m2 * factor, abs_max, *torch.stack([zeros, nan, inf]).mul(factor).round()]
            numbers = torch.stack([numel - scaled[3] - scaled[4], mean, *scaled])
            bins = None if self.bins is None else (self.bins * factor).round().long()
        return DeviceReading(numbers, bins, self.has_zeros)

    def read(self) -> HostReading:
        """Bring the numbers to the host; this is the one place that waits for the device."""
        finite, mean, m2, abs_max, zeros, nan, inf = self.numbers.tolist()
        return HostReading(
            finite=int(finite),
            mean=mean,
            m2=m2,
            abs_max=abs_max,
            nan=int(nan),
            inf=int(inf),
            zeros=int(zeros) if self.has_zeros else None,
            exponents=None if self.bins is None else _list_bins(self.bins),
        )


def measure(values: torch.Tensor, *, implicit_zeros: int, full: bool) -> DeviceReading:
    """Return the reading of a plain tensor; ``full`` adds zeros and the exponents' histogram."""
    numbers = values.reshape(-1).to(torch.float64)
    numel = numbers.numel() + implicit_zeros
    finite = torch.isfinite(numbers)
    clean = torch.where(finite, numbers, 0.0)
    nan = torch.isnan(numbers).sum(dtype=torch.float64)
    inf = torch.isinf(numbers).sum(dtype=torch.float64)
    count = numel - nan - inf
    mean = clean.sum() / count.clamp(min=1)
    deviations = torch.where(finite, numbers - mean, 0.0)
    m2 = deviations.square().sum() + implicit_zeros * mean * mean
    abs_max = clean.abs().max() if numbers.numel() else torch.zeros_like(count)
    zeros = (numbers == 0).sum(dtype=torch.float64) + implicit_zeros
    vector = torch.stack([count, mean, m2, abs_max, zeros, nan, inf])
    return DeviceReading(vector, _count_exponents(clean) if full else None, full)


def _shift(bins: torch.Tensor, power: int) -> torch.Tensor:
    # Exponents that leave the range share its end, as they do when they are counted.
    lowest, highest = EXPONENT_RANGE
    index = torch.arange(lowest, highest + 1, device=bins.device).sub_(power)
    return torch.zeros_like(bins).scatter_add_(0, index.clamp_(lowest, highest).sub_(lowest), bins)


def _list_bins(bins: torch.Tensor) -> dict[int, int]:
    return {e: count for e, count in enumerate(bins.tolist(), EXPONENT_RANGE[0]) if count}


def _merge(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    finite, mean, m2, abs_max = first[:4]
    more, other_mean, other_m2, other_max = second[:4]
    total = finite + more
    share = more / total.clamp(min=1)
    delta = torch.where((finite > 0) & (more > 0), other_mean - mean, 0.0)
    moments = [
        total,
        torch.where(finite > 0, mean + delta * share, other_mean),
        m2 + other_m2 + delta * delta * finite * share,
        torch.maximum(abs_max, other_max),
    ]
    return torch.cat([torch.stack(moments), first[4:] + second[4:]])


def _count_exponents(clean: torch.Tensor) -> torch.Tensor:
    lowest, highest = EXPONENT_RANGE
    bins = torch.zeros(highest - lowest + 1, dtype=torch.int64, device=clean.device)
    index = torch.frexp(clean).exponent.long().clamp(lowest, highest) - lowest
    return bins.scatter_add_(0, index, (clean != 0).long())
