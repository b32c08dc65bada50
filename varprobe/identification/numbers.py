"""What is measured of a tensor before anything is concluded from it."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from varprobe.statistics import measure, read

Array = NDArray[np.float64]

MAX_VECTORS = 128
"""Rows (or columns, whichever are longer) that are compared with each other, evenly spread: their
8,128 products say enough, and all of those of a large matrix would take seconds."""

SAMPLE = 2**20
"""Elements that the form of a distribution is judged by. A form that a million numbers do not
contradict is the form; moments and extremes are of all elements."""

CENTRED_Z = 4.5
"""Standard errors that the mean of centred weights may be off: 1 in 150,000 strays further."""


@dataclass(frozen=True, eq=False)
class Numbers:
    """The elements of a tensor, as numbers without an order.

    Attributes
    ----------
    values : torch.Tensor
        Detached, floating-point, of any shape; finite, at least one.
    """

    values: torch.Tensor

    @property
    def count(self) -> int:
        """Number of elements."""
        return self.values.numel()

    @property
    def mean(self) -> float:
        """Mean."""
        return self._moments[0]

    @property
    def variance(self) -> float:
        """Mean squared deviation from the mean."""
        return self._moments[1]

    @property
    def second_moment(self) -> float:
        """Mean of squares."""
        return self.variance + self.mean**2

    @property
    def low(self) -> float:
        """Smallest element."""
        return self._extremes[0]

    @property
    def high(self) -> float:
        """Largest element."""
        return self._extremes[1]

    @property
    def centre(self) -> float:
        """0 for centred numbers, else their mean."""
        return 0.0 if self.is_centred else self.mean

    @property
    def reach(self) -> float:
        """Largest distance from the centre."""
        return max(self.high - self.centre, self.centre - self.low)

    @property
    def stray(self) -> float:
        """How far the centre may be off: nothing for centred numbers."""
        return 0.0 if self.is_centred else CENTRED_Z * math.sqrt(self.variance / self.count)

    @property
    def is_centred(self) -> bool:
        """Whether the measured mean is within chance of 0."""
        std = math.sqrt(self.variance)
        return abs(self.mean) <= (CENTRED_Z / math.sqrt(self.count) + self.precision) * std

    @property
    def precision(self) -> float:
        """Distance from 1 to the next number of the dtype: 1.2e-7 for float32, 1/128 for bfloat16.

        Weights that were drawn in a coarse dtype, or cast to it, are rounded by up to half of this.
        """
        return torch.finfo(self.values.dtype).eps

    @functools.cached_property
    def nonzeros(self) -> int:
        """Number of elements other than 0."""
        return int(torch.count_nonzero(self.values))

    @functools.cached_property
    def vectors(self) -> torch.Tensor:
        """Up to `MAX_VECTORS` vectors along the longer side, as rows, in float64, on the CPU.

        As torch.nn.init.orthogonal_ does, a tensor of more than two dimensions is flattened to
        rows. A tensor of fewer is one vector.
        """
        first = self.values.shape[0] if self.values.dim() > 1 else 1
        matrix = self.values.reshape(first, -1)
        along = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.mT
        count = along.shape[0]
        chosen = torch.linspace(0, count - 1, min(count, MAX_VECTORS), device=along.device)
        return along[chosen.long()].cpu().double()

    @functools.cached_property
    def sample(self) -> Array:
        """Up to `SAMPLE` of the elements, in float64, on the CPU: not every device has it."""
        flat = self.values.reshape(-1)
        # An odd stride shares no factor with a power of two, which most widths are multiples of.
        stride = max(1, flat.numel() // SAMPLE) | 1
        chosen: Array = flat[::stride].cpu().double().numpy()
        return chosen

    @functools.cached_property
    def kurtosis(self) -> float:
        """Fourth central moment over squared variance, at least 1."""
        deviation = self.sample - self.sample.mean()
        variance = np.square(deviation).mean()
        return float((deviation**4).mean() / variance**2) if variance else 1.0

    def round_up(self, numbers: Array) -> tuple[Array, Array]:
        """Return numbers of the dtype near these, and where the cells of those end.

        Every real number up to the end of the cell is rounded to the number itself or to a smaller
        one, so that elements up to the number are what was drawn up to the end of its cell.
        """
        rounded: Array = torch.from_numpy(numbers).to(self.values.dtype).double().numpy()
        info = torch.finfo(self.values.dtype)
        _, exponents = np.frexp(np.maximum(np.abs(rounded), info.tiny))
        return rounded, rounded + np.ldexp(info.eps / 2, exponents - 1)

    @functools.cached_property
    def _moments(self) -> tuple[float, float]:
        moments = read(measure(self.values, full=False)).moments
        return moments.mean, moments.variance

    @functools.cached_property
    def _extremes(self) -> tuple[float, float]:
        low, high = torch.aminmax(self.values)
        return low.item(), high.item()
