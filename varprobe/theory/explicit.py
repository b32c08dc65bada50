"""All pairs of positions told apart: every sum is explicit, no border is a special case."""

# ruff: noqa: D102 - what the methods do is said where `Pairs` declares them.

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from varprobe.theory.pairs import MOST_EXPLICIT, Pairs, choose_dtype
from varprobe.theory.positions import LinearMap, Window


@dataclass(frozen=True, slots=True)
class ExplicitPairs(Pairs):
    """Second moments of all pairs; ``values`` has shape (2, P, P)."""

    @property
    def positions(self) -> int:
        return self.values.shape[-1]

    @property
    def second_moments(self) -> Tensor:
        return self.values[1].diagonal()

    def broadcast(self, first: Tensor, second: Tensor) -> Tensor:
        return torch.outer(first, second).to(self.values.dtype)

    def outer(self, first: Tensor, second: Tensor) -> Tensor:
        return (first @ second.mT).to(self.values.dtype)

    def row_sums(self) -> Tensor:
        return self.values[1].sum(1) + (self.samples - 1) * self.values[0].sum(1)

    def column_sums(self) -> Tensor:
        return self.values[1].sum(0) + (self.samples - 1) * self.values[0].sum(0)

    def transpose(self) -> Self:
        return replace(self, values=self.values.mT)

    def centre(self) -> Self:
        rows, columns = self.row_sums() / self.size, self.column_sums() / self.size
        return replace(self, values=self.values - rows[:, None] - columns + rows.mean())

    def subtract_columns(self, means: Tensor) -> Self:
        return replace(self, values=self.values - means)

    def __matmul__(self, other: Self) -> Self:
        count, first, second = self.samples, self.values, other.values
        # Exchangeable samples: the sample mean and the differences from it multiply apart.
        common = (first[1] + (count - 1) * first[0]) @ (second[1] + (count - 1) * second[0])
        apart = (first[1] - first[0]) @ (second[1] - second[0])
        same = (common + (count - 1) * apart) / count
        return replace(self, values=torch.stack([(common - apart) / count, same]))

    def sample_pairs(self, most: int) -> tuple[Tensor, Tensor, Tensor]:
        stride = math.ceil(self.positions / most)
        values = self.values[:, ::stride, ::stride].double()
        spreads = values[1].diagonal().clamp_min(1e-300).sqrt()
        scales = torch.outer(spreads, spreads)
        kept, count = len(spreads), self.positions
        apart = ~torch.eye(kept, dtype=torch.bool)
        same = torch.full((kept * (kept - 1),), count * (count - 1) / max(1, kept * (kept - 1)))
        differ = torch.full((kept * kept,), (self.samples - 1) * (count / kept) ** 2)
        return (
            torch.cat([values[1][apart], values[0].flatten()]),
            torch.cat([scales[apart], scales.flatten()]),
            torch.cat([same, differ]).double() * self.samples,
        )

    def to_explicit(self) -> Pairs:
        return self

    def to_profile(self) -> Pairs:
        from varprobe.theory.profile import ProfilePairs

        diagonal = self.values.diagonal(dim1=1, dim2=2)
        others = (self.values.sum(2) - diagonal) / max(1, self.positions - 1)
        return ProfilePairs(torch.stack([diagonal, others], dim=1).double(), self.samples)

    def _gather(self, index: Tensor) -> Pairs:
        places = index.clamp_min(0)
        values = self.values.index_select(1, places).index_select(2, places)
        gone = index < 0
        if gone.any():
            values[:, gone] = 0
            values[:, :, gone] = 0
        return replace(self, values=values)

    def _scatter(self, index: Tensor, positions: int) -> Pairs:
        kept = torch.nonzero(index >= 0).squeeze(1)
        source = self.values
        if len(kept) < len(index):
            source = source.index_select(1, kept).index_select(2, kept)
        values = source.new_zeros(2, positions, len(kept)).index_add_(1, index[kept], source)
        values = values.new_zeros(2, positions, positions).index_add_(2, index[kept], values)
        return replace(self, values=values)

    def _transform(self, matrix: LinearMap) -> Pairs:
        dense = matrix.dense().to(self.values.dtype)
        return replace(self, values=dense @ self.values @ dense.mT)

    def _deal(self, shares: LinearMap) -> Pairs:
        dense = shares.dense().to(self.values.dtype)
        values = dense.mT @ self.values @ dense
        # Two positions of one window never get it both.
        values[1] -= dense.mT @ (self.second_moments[:, None] * dense)
        values[1].diagonal().copy_(dense.mT @ self.second_moments)
        return replace(self, values=values)

    def _reduce(self, outer: int, inner: int) -> Pairs:
        values = self.values.view(2, outer, inner, outer, inner)
        return replace(self, values=torch.einsum("bpsqs->bpq", values))

    def _repeat(self, inner: int) -> Pairs:
        kept = self.positions
        values = self.values.new_zeros(2, kept, inner, kept, inner)
        values.diagonal(dim1=2, dim2=4).copy_(self.values.unsqueeze(-1).expand(-1, -1, -1, inner))
        return replace(self, values=values.reshape(2, kept * inner, kept * inner))

    def _run_windows(
        self, sizes: Sequence[int], windows: Sequence[Window], *, coarse: bool
    ) -> Pairs:
        grid = list(sizes)
        values = self.values
        # A sum over taps factorizes over the axes, since both positions move by the same tap.
        for axis, window in enumerate(windows, start=len(grid) - len(windows)):
            outer, inner = math.prod(grid[:axis]), math.prod(grid[axis + 1 :])
            values = values.reshape(2, outer, grid[axis], inner, outer, grid[axis], inner)
            grid[axis] = window.coarse if coarse else window.fine
            moved = values.new_zeros(2, outer, grid[axis], inner, outer, grid[axis], inner)
            for near, far in window.slices():
                target, source = (near, far) if coarse else (far, near)
                moved[:, :, target, :, :, target] += values[:, :, source, :, :, source]
            values = moved
        positions = math.prod(grid)
        return replace(self, values=values.reshape(2, positions, positions))


def independent(positions: int, samples: int) -> Pairs:
    """Return the pairs of independent positions and samples of second moment 1."""
    from varprobe.theory.profile import ProfilePairs

    if positions > MOST_EXPLICIT:
        values = torch.zeros(2, 2, positions, dtype=torch.float64)
        values[1, 0] = 1
        return ProfilePairs(values, samples)
    values = torch.zeros(2, positions, positions, dtype=choose_dtype(positions))
    values[1].fill_diagonal_(1)
    return ExplicitPairs(values, samples)
