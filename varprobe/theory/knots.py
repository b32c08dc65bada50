"""Averages of functions of a sum over one summand, given the other."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from varprobe.theory.pointwise import Pointwise

KNOTS = 2000
"""Points of a branch at which the average over the other is taken, and steps of the other. None is
0, where rectified values pile up and slopes jump."""


@dataclass(frozen=True)
class Knots:
    """Values of one branch at even steps, and its sums with all values of the other.

    The sums stand on the same grid, between whose points a function of them is taken for linear:
    an average over the other branch is a convolution with its distribution.

    Parameters
    ----------
    reach : float
        The knots are from its negative to it.
    places : Tensor
        Where functions are asked for the sums of the grid, which increase.
    chances : Tensor
        How often the other branch moves a knot by so many steps, from the fewest on.
    """

    reach: float
    places: Tensor
    chances: Tensor

    @classmethod
    def of(
        cls, values: Tensor, other: Tensor, weights: Tensor, locate: Callable[[Tensor], Tensor]
    ) -> Knots:
        """Choose the grid.

        Parameters
        ----------
        values : Tensor
            Of the branch.
        other, weights : Tensor
            Of the other branch, and their probabilities.
        locate : callable
            Where functions are asked for a sum.
        """
        reach = float(values.abs().max().clamp_min(1e-300))
        step = max(2 * reach / (KNOTS - 1), float(other.max() - other.min()) / KNOTS)
        # As many on either side: none is 0.
        count = 2 * math.ceil(reach / step + 0.5)
        moves = other / step
        left = moves.floor()
        fewest = int(left.min())
        chances = torch.zeros(int(left.max()) - fewest + 2, dtype=torch.float64)
        index = (left - fewest).long()
        chances.index_add_(0, index, weights * (1 - (moves - left)))
        chances.index_add_(0, index + 1, weights * (moves - left))
        grid = torch.arange(count + len(chances) - 1, dtype=torch.float64)
        first = (count - 1) / 2
        return cls(first * step, locate((grid + (fewest - first)) * step), chances)

    def average(self, function: Pointwise) -> Tensor:
        """Return the average of a function at each knot."""
        return F.conv1d(function(self.places)[None, None], self.chances[None, None])[0, 0]
