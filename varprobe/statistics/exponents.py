"""The histogram over powers of two on a device: int64 counts, one for each exponent of float64.

An element belongs to e if 2**(e-1) <= abs(x) < 2**e. Zeros and what is not finite belong nowhere,
and what is subnormal in float32, bfloat16 or float64 to the lowest exponent of that.
"""

from __future__ import annotations

import torch

EXPONENT_RANGE = (-1080, 1030)
"""Exponents with a bin: those of float64, and room to shift them."""

_LOWEST = {torch.float64: -1022}
_LOWEST_FLOAT32 = -126
"""Half precision is read as float32, where its subnormal numbers are ordinary ones."""


def find_lowest(dtype: torch.dtype) -> int:
    """Return the exponent that subnormal numbers share."""
    return _LOWEST.get(dtype, _LOWEST_FLOAT32)


def make_bins(device: torch.device) -> torch.Tensor:
    """Return counts of zero."""
    lowest, highest = EXPONENT_RANGE
    return torch.zeros(highest - lowest + 1, dtype=torch.int64, device=device)


def count_by_exponent(clean: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return the counts of finite float64 numbers that were of ``dtype``."""
    exponents = torch.frexp(clean).exponent.long().clamp_(min=find_lowest(dtype))
    index = exponents.sub_(EXPONENT_RANGE[0])
    return make_bins(clean.device).scatter_add_(0, index, (clean != 0).long())


def shift(bins: torch.Tensor, power: int) -> torch.Tensor:
    """Return the counts of the elements divided by 2**``power``.

    What leaves the range shares its end.
    """
    lowest, highest = EXPONENT_RANGE
    index = torch.arange(lowest, highest + 1, device=bins.device).sub_(power)
    return torch.zeros_like(bins).scatter_add_(0, index.clamp_(lowest, highest).sub_(lowest), bins)


def list_bins(bins: torch.Tensor) -> dict[int, int]:
    """Bring the counts to the host, by exponent, those that are not zero."""
    return {e: count for e, count in enumerate(bins.tolist(), EXPONENT_RANGE[0]) if count}
