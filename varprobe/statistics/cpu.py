"""Moments of a plain tensor on the CPU: by the compiled kernel, or without it by torch's pieces.

The kernel is compiled when varprobe is installed. Where that was not possible, for want of a
compiler or of Python's headers, the pieces take its place: as exact, and several times as slow.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Literal, Protocol

import torch

from varprobe.statistics.reading import HostReading
from varprobe.statistics.tensors import flatten, is_bare, require_storage


class MeasureDense(Protocol):
    """What the kernel and the pieces are: the reading of a contiguous tensor."""

    def __call__(self, dense: torch.Tensor, *, full: bool) -> HostReading:
        """Return the moments; ``full`` adds zeros and a histogram."""


def _choose() -> tuple[Literal["kernel", "pieces"], MeasureDense]:
    if find_spec("varprobe.statistics._kernel"):
        from varprobe.statistics import kernel

        return "kernel", kernel.measure
    from varprobe.statistics import pieces

    return "pieces", pieces.measure


IMPLEMENTATION, _measure_dense = _choose()


def measure_bare(tensor: torch.Tensor, *, full: bool) -> HostReading | None:
    """Return what `measure` does where the kernel can read the memory as it lies, else None.

    The tensor may be any, and require a gradient; any mode may be active.
    """
    if IMPLEMENTATION == "kernel" and is_bare(tensor):
        require_storage(tensor)
        return _measure_dense(tensor, full=full)
    return None


def measure(values: torch.Tensor, *, full: bool) -> HostReading:
    """Return the reading of a plain, detached tensor; ``full`` adds zeros and a histogram.

    The histogram counts the elements with 2**(e-1) <= abs(x) < 2**e, by e. Zeros and non-finite
    elements are left out; subnormal elements of float32, bfloat16 and float64 share the lowest bin.
    """
    require_storage(values)
    # A row of every other element is flat, and is no dense memory.
    return _measure_dense(flatten(values).contiguous(), full=full)
