"""Maps between grids of positions: windows of a convolution, and fixed linear maps (pooling)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Window:
    """How a convolution runs along one axis.

    ``coarse`` is its output side, ``fine`` its input side; a transposed convolution swaps them.
    """

    fine: int
    coarse: int
    taps: int
    stride: int
    padding: int
    dilation: int

    def slices(self) -> list[tuple[slice, slice]]:
        """Return for each tap which coarse indices read which fine indices."""
        found = []
        for tap in range(self.taps):
            shift = tap * self.dilation - self.padding
            first = max(0, math.ceil(-shift / self.stride))
            last = min(self.coarse - 1, (self.fine - 1 - shift) // self.stride)
            if last >= first:
                start, stop = first * self.stride + shift, last * self.stride + shift
                found.append((slice(first, last + 1), slice(start, stop + 1, self.stride)))
        return found


@dataclass(frozen=True, slots=True)
class LinearMap:
    """A fixed linear map over positions, y = A x.

    Parameters
    ----------
    factors : sequence of Tensor
        One matrix an axis of the grid of positions; A is their Kronecker product. A map that does
        not factorize has one.
    """

    factors: tuple[Tensor, ...]

    @property
    def sources(self) -> int:
        """Positions that it reads."""
        return math.prod(factor.shape[1] for factor in self.factors)

    @property
    def targets(self) -> int:
        """Positions that it makes."""
        return math.prod(factor.shape[0] for factor in self.factors)

    @property
    def adjoint(self) -> LinearMap:
        """Return Aᵀ."""
        return LinearMap(tuple(factor.T for factor in self.factors))

    @property
    def squared(self) -> LinearMap:
        """Return the map with each weight squared."""
        return LinearMap(tuple(factor.square() for factor in self.factors))

    @property
    def normalized(self) -> LinearMap:
        """Return the map with the weights of each target adding up to 1."""
        return LinearMap(tuple(f / f.sum(1, keepdim=True) for f in self.factors))

    def dense(self) -> Tensor:
        """Return A, shape (targets, sources)."""
        return reduce(torch.kron, (factor.contiguous() for factor in self.factors))

    def __matmul__(self, vectors: Tensor) -> Tensor:
        """Return A x along the last dimension."""
        lead = vectors.shape[:-1]
        grid = vectors.reshape(*lead, *(factor.shape[1] for factor in self.factors))
        for axis, factor in enumerate(self.factors, start=len(lead)):
            grid = torch.tensordot(grid, factor.to(grid.dtype), dims=([axis], [1])).movedim(
                -1, axis
            )
        return grid.reshape(*lead, self.targets)


def count_targets(sizes: Sequence[int], windows: Sequence[Window], *, coarse: bool) -> int:
    """Return how many positions a grid has after the windows ran along its last axes."""
    kept = math.prod(sizes[: len(sizes) - len(windows)])
    return kept * math.prod(w.coarse if coarse else w.fine for w in windows)
