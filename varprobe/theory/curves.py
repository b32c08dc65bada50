"""Functions given by their values at even steps: quantiles, averages over a branch."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Curve:
    """A function that is linear between nodes, and goes on beyond them with its last slopes.

    Parameters
    ----------
    first, last : float
        Where it begins and ends.
    values : Tensor
        At nodes of even distance between these, shape (n,).
    """

    first: float
    last: float
    values: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """Return the function at ``x``."""
        cells = len(self.values) - 1
        place = (x - self.first) * (cells / (self.last - self.first))
        # What is no number falls into the first cell, and comes out as none.
        left = place.floor().nan_to_num_(0.0).clamp_(0, cells - 1)
        index = left.long()
        value = self.values[index]
        return torch.addcmul(value, place - left, self.values.diff()[index])


def interpolate(x: Tensor, nodes: Tensor, values: Tensor) -> Tensor:
    """Return values linear between increasing nodes, continued beyond with the last slopes."""
    right = torch.searchsorted(nodes, x.contiguous()).clamp(1, len(nodes) - 1)
    left = right - 1
    slope = (values[right] - values[left]) / (nodes[right] - nodes[left])
    return values[left] + slope * (x - nodes[left])
