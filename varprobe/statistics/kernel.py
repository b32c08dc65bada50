"""Moments of dense memory on the CPU by the compiled kernel, which reads it once."""

from __future__ import annotations

import torch

from varprobe.statistics import _kernel
from varprobe.statistics.reading import HostReading

FORMATS = {
    torch.float32: _kernel.FLOAT32,
    torch.float64: _kernel.FLOAT64,
    torch.bfloat16: _kernel.BFLOAT16,
    torch.float16: _kernel.FLOAT16,
}


def measure(dense: torch.Tensor, *, full: bool) -> HostReading:
    """Return the reading of a contiguous floating-point tensor on the CPU.

    No operation of torch is called: autograd, autocast and dispatch modes have nothing to see.
    """
    return HostReading._make(
        _kernel.measure(dense.data_ptr(), dense.numel(), FORMATS[dense.dtype], full)
    )
