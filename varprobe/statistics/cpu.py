"""Moments of a dense tensor on the CPU, in three fast reads.

``aminmax`` and ``sum`` (cascaded) are torch's own; the squares are summed by BLAS through numpy,
row by row. They cost about 2, 1 and 1.4 plain reads; ``var_mean`` alone costs 35 to 110. Float32
arithmetic holds where squares stay in range and the mean does not dwarf the deviations: elsewhere
the numbers are brought there first, by a factor or a shift that loses nothing.
"""

from __future__ import annotations

import math
from functools import reduce

import numpy as np
import torch
from torch.utils.dlpack import to_dlpack  # type: ignore[attr-defined]

from varprobe.statistics import reference
from varprobe.statistics.reading import HostReading
from varprobe.statistics.tensors import flatten

BLOCK = 2**18
"""Elements that are read together: as float32 they stay in a core's second-level cache from one
read to the next, and temporary copies are never larger."""

ROW = 4096
"""Elements to one float32 dot product; the products are added in float64. Its running sums lose
3e-7 of the total at most, also where the elements are alike (±c, rows that repeat, bfloat16 numbers
in float32) and their roundings all go one way: one product of 32,768 loses up to 3e-5 of those."""

SQUARE_RANGE = (1e-10, 1e15)
"""Largest magnitudes whose squares, and sums of a row of them, are normal float32 numbers, and so
are the squares of deviations as small as float32 can tell from a mean of this size (6e-8 of it)."""

MAX_MEAN_SHARE = 1.0
"""Largest mean²/variance at which E[x²] - mean² is used: the subtraction then magnifies the 2e-7
relative errors of its terms at most threefold, inside the promised 1e-6. After a ReLU it is 0.47.
"""

MAX_SCALE = {torch.float32: 120, torch.float64: 1000}
"""Largest power of two to scale by: the factor is itself a number of that dtype."""

EXPONENT_BITS = {
    torch.float32: (torch.int32, 23, 0xFF, 126, torch.uint8),
    torch.float64: (torch.int64, 52, 0x7FF, 1022, torch.int16),
}
"""dtype: (integer of the same size, bits of the mantissa, mask of the exponent, IEEE bias - 1,
smallest integer for the exponent)."""


def measure(values: torch.Tensor, *, full: bool) -> HostReading:
    """Return the reading of a plain CPU tensor; ``full`` adds zeros and the exponents' histogram.

    The histogram counts the elements with 2**(e-1) <= abs(x) < 2**e, by e. Zeros and non-finite
    elements are left out; subnormal ones share the lowest bin.
    """
    flat = flatten(values)
    if flat.numel() <= BLOCK:
        return _measure_block(flat, full=full)
    blocks = torch.split(flat, BLOCK)
    return reduce(HostReading.merge, (_measure_block(block, full=full) for block in blocks))


def _measure_block(block: torch.Tensor, *, full: bool) -> HostReading:
    # Half precision goes to double: squares of so few digits end in zeros, and when float32 sums
    # of them are rounded it is one way rather than the other (4e-6 of the total).
    reading = _read_moments(block if block.dtype in MAX_SCALE else block.double())
    if not full:
        return reading
    bits = block if block.dtype in MAX_SCALE else block.float()
    zeros = bits.numel() - int(np.count_nonzero(_share(bits)))
    return reading._replace(zeros=zeros, exponents=_count_exponents(bits, zeros))


def _read_moments(flat: torch.Tensor) -> HostReading:
    numel = flat.numel()
    if numel == 0:
        return HostReading(0, 0.0, 0.0, 0.0)
    low, high = flat.aminmax()
    abs_max = max(-low.item(), high.item())
    if SQUARE_RANGE[0] < abs_max < SQUARE_RANGE[1]:
        mean, m2 = _sum_up(flat)
    elif abs_max == 0.0:
        mean, m2 = 0.0, 0.0
    elif math.isfinite(abs_max):
        mean, m2 = _sum_up_scaled(flat, abs_max)
    else:
        return HostReading.of(reference.measure(flat, zeros=False))
    return HostReading(numel, mean, m2, abs_max)


def _sum_up(flat: torch.Tensor) -> tuple[float, float]:
    numel, total = flat.numel(), flat.sum()
    mean = total.item() / numel
    m2 = _sum_squares(flat) - numel * mean * mean
    if numel * mean * mean <= MAX_MEAN_SHARE * m2:
        return mean, m2
    # Subtracting what the mean is in this dtype is exact, or good to a rounding of the deviation.
    # What it missed is the deviations' own mean; where they are all equal, they have to shrink
    # once more.
    centre = total / numel
    rest = _read_moments(flat - centre)
    return centre.item() + rest.mean, rest.m2


def _sum_up_scaled(flat: torch.Tensor, abs_max: float) -> tuple[float, float]:
    # Powers of two change no digit but of elements that are nothing beside the largest.
    limit = MAX_SCALE[flat.dtype]
    scale = 2.0 ** max(-limit, min(limit, -math.frexp(abs_max)[1]))
    scaled = _read_moments(flat * scale)
    return scaled.mean / scale, scaled.m2 / scale / scale


def _sum_squares(flat: torch.Tensor) -> float:
    if flat.numel() <= ROW:
        return torch.dot(flat, flat).item()
    numbers = _share(flat)
    parts = (numbers[start : start + ROW] for start in range(0, len(numbers), ROW))
    return math.fsum([float(part.dot(part)) for part in parts])


def _count_exponents(flat: torch.Tensor, zeros: int) -> dict[int, int]:
    # Read off the bits, which is many times as fast as ``frexp``.
    integer, shift, mask, bias, small = EXPONENT_BITS[flat.dtype]
    biased = ((flat.view(integer) >> shift) & mask).to(small)
    counts = torch.bincount(biased, minlength=mask + 1).tolist()
    counts[0] -= zeros
    return {index - bias: count for index, count in enumerate(counts[:mask]) if count}


class _Capsule:
    """A tensor's memory on its way to numpy.

    ``Tensor.numpy`` would forbid the user to resize the storage from then on.
    """

    __slots__ = ("_tensor",)

    def __init__(self, tensor: torch.Tensor) -> None:
        self._tensor = tensor

    def __dlpack__(self, **_: object) -> object:
        return to_dlpack(self._tensor)

    def __dlpack_device__(self) -> tuple[int, int]:
        return 1, 0  # kDLCPU


def _share(flat: torch.Tensor) -> np.ndarray:
    return np.from_dlpack(_Capsule(flat))  # type: ignore[arg-type]
