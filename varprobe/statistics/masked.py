"""Moments of dense memory on any device by torch's own operations, two passes under masks.

It runs where there is no Triton: some thirty kernels and a few float64 copies, but no question to
the values, and so nothing to wait for.
"""

from __future__ import annotations

import torch

from varprobe.statistics.exponents import count_by_exponent

MAX_ELEMENTS = 2**24
"""Elements that are read together: each of the float64 copies takes 128 MiB at most."""


def measure(flat: torch.Tensor, *, full: bool) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return seven float64 numbers and, if ``full``, the histogram.

    The numbers are those of `varprobe.statistics.device.DeviceReading`.
    """
    numbers = flat.double()
    finite = torch.isfinite(numbers)
    clean = torch.where(finite, numbers, 0.0)
    nan = torch.isnan(numbers).sum(dtype=torch.float64)
    inf = torch.isinf(numbers).sum(dtype=torch.float64)
    count = numbers.numel() - nan - inf
    mean = clean.sum() / count.clamp(min=1)
    deviations = torch.where(finite, numbers - mean, 0.0)
    m2 = deviations.square().sum()
    abs_max = clean.abs().max() if numbers.numel() else torch.zeros_like(count)
    zeros = (numbers == 0).sum(dtype=torch.float64)
    vector = torch.stack([count, mean, m2, abs_max, zeros, nan, inf])
    return vector, count_by_exponent(clean, flat.dtype) if full else None
