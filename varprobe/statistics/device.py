"""Moments of dense memory on an accelerator, without a host synchronisation.

A reading is a vector on the tensor's device and is merged there; it reaches the host when it is
read. Branches on values are forbidden, since each would wait for the device. Where Triton runs, a
tensor is read once (`varprobe.statistics.fused`); elsewhere by operations of torch (`masked`).
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

import torch

from varprobe.errors import VarprobeWarning
from varprobe.statistics import masked
from varprobe.statistics.exponents import list_bins, shift
from varprobe.statistics.quiet import quiet
from varprobe.statistics.reading import HostReading, find_power_of_two
from varprobe.statistics.streams import find_stream, follow
from varprobe.statistics.tensors import flatten, require_storage


@dataclass(frozen=True, slots=True)
class DeviceReading:
    """Seven float64 numbers on the device: finite, mean, m2, abs_max, zeros, nan, inf."""

    numbers: torch.Tensor
    bins: torch.Tensor | None
    """The histogram, as in `varprobe.statistics.exponents`."""
    has_zeros: bool
    stream: Any = field(init=False)
    """The stream that computes them: the current one of whoever makes the reading."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "stream", find_stream(self.numbers.device))

    def _follow(self) -> None:
        # A model may run on a stream of its own, while whoever reads is on another.
        parts = (self.numbers,) if self.bins is None else (self.numbers, self.bins)
        follow(self.stream, *parts)

    def merge(self, other: DeviceReading) -> DeviceReading:
        """Return the reading of both sets of elements together (Chan's merge), on the device."""
        with quiet(self.numbers):
            self._follow()
            other._follow()
            numbers = _merge(self.numbers, other.numbers.to(self.numbers.device))
            bins = None
            if self.bins is not None and other.bins is not None:
                bins = self.bins + other.bins.to(self.bins.device)
        return DeviceReading(numbers, bins, self.has_zeros and other.has_zeros)

    def divide(self, scale: float) -> DeviceReading:
        """Return the reading of the elements divided by ``scale``, on the device."""
        with quiet(self.numbers):
            self._follow()
            numbers = self.numbers.clone()
            numbers[1:4] /= scale
            numbers[2] /= scale
            power = find_power_of_two(scale)
            bins = None if self.bins is None or power is None else shift(self.bins, power)
        return DeviceReading(numbers, bins, self.has_zeros)

    def extrapolate(self, numel: int) -> DeviceReading:
        """Return the reading of ``numel`` elements of which these are a sample, on the device.

        The largest magnitude remains that of the sample.
        """
        with quiet(self.numbers):
            self._follow()
            finite, mean, m2, abs_max, zeros, nan, inf = self.numbers.unbind()
            factor = numel / (finite + nan + inf)
            scaled = [m2 * factor, abs_max, *torch.stack([zeros, nan, inf]).mul(factor).round()]
            numbers = torch.stack([numel - scaled[3] - scaled[4], mean, *scaled])
            bins = None if self.bins is None else (self.bins * factor).round().long()
        return DeviceReading(numbers, bins, self.has_zeros)

    def read(self) -> HostReading:
        """Bring the numbers to the host; this is the one place that waits for the device."""
        self._follow()
        finite, mean, m2, abs_max, zeros, nan, inf = self.numbers.tolist()
        return HostReading(
            finite=int(finite),
            mean=mean,
            m2=m2,
            abs_max=abs_max,
            nan=int(nan),
            inf=int(inf),
            zeros=int(zeros) if self.has_zeros else None,
            exponents=None if self.bins is None else list_bins(self.bins),
        )


def measure(values: torch.Tensor, *, implicit_zeros: int, full: bool) -> DeviceReading:
    """Return the reading of a plain tensor; ``full`` adds zeros and the exponents' histogram.

    Raises
    ------
    Unmeasurable
        If its storage was freed.
    """
    require_storage(values)
    flat = flatten(values).contiguous()  # flat may be every other element, too
    limit, measure_part = _choose(flat.device, flat.dtype, full)
    parts = [
        DeviceReading(*measure_part(part, full=full), full) for part in torch.split(flat, limit)
    ]
    if implicit_zeros:
        absent = torch.zeros_like(parts[0].numbers)
        absent[0] = absent[4] = implicit_zeros
        bins = torch.zeros_like(parts[0].bins) if parts[0].bins is not None else None
        parts.append(DeviceReading(absent, bins, full))
    return functools.reduce(DeviceReading.merge, parts)


MeasureFlat = Callable[..., tuple[torch.Tensor, torch.Tensor | None]]


def _choose(device: torch.device, dtype: torch.dtype, full: bool) -> tuple[int, MeasureFlat]:
    """Return how many elements are read together, and what reads them."""
    if device.type == "cuda" and _is_fusible(device, dtype, full):  # ROCm's are called cuda, too
        from varprobe.statistics import fused

        return fused.MAX_ELEMENTS, fused.measure
    return masked.MAX_ELEMENTS, masked.measure


@functools.cache
def _is_fusible(device: torch.device, dtype: torch.dtype, full: bool) -> bool:
    """Tell whether the kernels can be compiled for this; without Triton nobody is told of it."""
    if find_spec("triton") is None:
        return False
    try:
        from varprobe.statistics import fused

        fused.measure(torch.zeros(16, dtype=dtype, device=device), full=full)
    except Exception as error:  # of any kind: no compiler for C, a device too old, a driver too new
        first_line = str(error).partition("\n")[0].rstrip(".")
        warnings.warn(
            f"Triton cannot compile for {device}: {type(error).__name__}: {first_line}. Tensors "
            "there are read by operations of torch instead: the numbers are as exact, and take "
            "longer. Repair or uninstall triton to be rid of this.",
            VarprobeWarning,
            stacklevel=2,
        )
        return False
    return True


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
