"""Many positions: each is paired with itself and with an average other position.

An approximation. What a border does to a position is kept; how the correlation of two positions
depends on their distance is not. With independent pixels a convolution makes no difference between
near and far, so that little is lost; photographs lose more.
"""

# ruff: noqa: D102 - what the methods do is said where `Pairs` declares them.

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from varprobe.theory.pairs import Pairs
from varprobe.theory.positions import LinearMap, Window

REASON = "more positions than can be told apart in pairs"


@dataclass(frozen=True, slots=True)
class ProfilePairs(Pairs):
    """Second moments; ``values`` has shape (2, 2, P): the position itself, an average other one."""

    @property
    def positions(self) -> int:
        return self.values.shape[-1]

    @property
    def second_moments(self) -> Tensor:
        return self.values[1, 0]

    @property
    def others(self) -> int:
        """Number of other positions, at least 1."""
        return max(1, self.positions - 1)

    def _average_others(self, vector: Tensor) -> Tensor:
        return (vector.sum() - vector) / self.others

    def broadcast(self, first: Tensor, second: Tensor) -> Tensor:
        apart = first * self._average_others(second) + second * self._average_others(first)
        return torch.stack([first * second, apart / 2]).to(self.values.dtype)

    def outer(self, first: Tensor, second: Tensor) -> Tensor:
        columns = zip(first.unbind(1), second.unbind(1), strict=True)
        return torch.stack([self.broadcast(u, v) for u, v in columns]).sum(0)

    def row_sums(self) -> Tensor:
        weights = torch.tensor([1.0, self.positions - 1], dtype=self.values.dtype)
        rows = torch.einsum("w,bwp->bp", weights, self.values)
        return rows[1] + (self.samples - 1) * rows[0]

    def column_sums(self) -> Tensor:
        return self.row_sums()

    def transpose(self) -> Self:
        return self

    def centre(self) -> Self:
        rows = self.row_sums() / self.size
        both = torch.stack([2 * rows, rows + self._average_others(rows)])
        return replace(self, values=self.values - both + rows.mean())

    def subtract_columns(self, means: Tensor) -> Self:
        return replace(self, values=self.values - torch.stack([means, self._average_others(means)]))

    def __matmul__(self, other: Self) -> Self:
        left, right = self.values, other.values

        def product(a: int, b: int) -> Tensor:
            """Multiply over the positions, samples of kind a in the left and b in the right."""
            (d, o), (e, u) = left[a], right[b]
            same = d * e + (self.positions - 1) * o * u
            apart = d * u + o * e + (self.positions - 2) * o * u
            return torch.stack([same, apart])

        same = product(1, 1) + (self.samples - 1) * product(0, 0)
        differ = product(1, 0) + product(0, 1) + (self.samples - 2) * product(0, 0)
        return replace(self, values=torch.stack([differ, same]))

    def sample_pairs(self, most: int) -> tuple[Tensor, Tensor, Tensor]:
        stride = math.ceil(self.positions / most)
        kept = self.values[:, :, ::stride].double()
        scales = kept[1, 0].clamp_min(1e-300)
        count = torch.full_like(scales, self.size / len(scales))
        between = self.samples - 1
        return (
            torch.cat([kept[1, 1], kept[0, 0], kept[0, 1]]),
            torch.cat([scales, scales, scales]),
            torch.cat(
                [
                    count * (self.positions - 1),
                    count * between,
                    count * between * (self.positions - 1),
                ]
            ),
        )

    def to_explicit(self) -> Pairs:
        from varprobe.theory.explicit import ExplicitPairs

        own, others = self.values[:, 0], self.values[:, 1]
        apart = others[:, :, None] + others[:, None] - others.mean(1)[:, None, None]
        apart.diagonal(dim1=1, dim2=2).copy_(own)
        return ExplicitPairs(apart, self.samples)

    def to_profile(self) -> Pairs:
        return self

    def _gather(self, index: Tensor) -> Pairs:
        values = self.values.index_select(2, index.clamp_min(0)) * (index >= 0)
        return replace(self, values=values)

    def _scatter(self, index: Tensor, positions: int) -> Pairs:
        kept = index >= 0
        values = self.values.new_zeros(2, 2, positions)
        values.index_add_(2, index[kept], self.values[:, :, kept])
        counts = torch.bincount(index[kept], minlength=positions).to(values.dtype)
        own = values[:, 0] + (counts - 1).clamp_min(0) * values[:, 1]
        share = kept.sum() / positions
        return replace(self, values=torch.stack([own, values[:, 1] * share], dim=1))

    def _transform(self, matrix: LinearMap) -> Pairs:
        own, apart = self.values[:, 0], self.values[:, 1]
        sums = matrix @ torch.ones(self.positions, dtype=self.values.dtype)
        mixed = matrix @ apart
        values = [matrix.squared @ (own - apart) + sums * mixed, sums.mean() * mixed]
        return replace(self, values=torch.stack(values, dim=1))

    def _deal(self, shares: LinearMap) -> Pairs:
        dealt = self._transform(shares.adjoint)
        own = dealt.values.clone()
        own[1, 0] = shares.adjoint @ self.second_moments
        return replace(dealt, values=own)

    def _reduce(self, outer: int, inner: int) -> Pairs:
        return replace(self, values=self.values.view(2, 2, outer, inner).sum(3))

    def _repeat(self, inner: int) -> Pairs:
        values = self.values.repeat_interleave(inner, dim=2)
        # Only equal inner parts are correlated.
        share = (self.positions - 1) / max(1, self.positions * inner - 1)
        scaled = torch.tensor([1.0, share], dtype=values.dtype)[:, None] * values
        return replace(self, values=scaled)

    def _run_windows(
        self, sizes: Sequence[int], windows: Sequence[Window], *, coarse: bool
    ) -> Pairs:
        grid = list(sizes)
        values = self.values
        for axis, window in enumerate(windows, start=len(grid) - len(windows)):
            outer, inner = math.prod(grid[:axis]), math.prod(grid[axis + 1 :])
            values = values.reshape(2, 2, outer, grid[axis], inner)
            grid[axis] = window.coarse if coarse else window.fine
            moved = values.new_zeros(2, 2, outer, grid[axis], inner)
            for near, far in window.slices():
                target, source = (near, far) if coarse else (far, near)
                part = values[:, :, :, source]
                # The other position has this tap, too, only if it lies inside.
                inside = torch.tensor([1.0, part.shape[3] / grid[axis]], dtype=part.dtype)
                moved[:, :, :, target] += part * inside[:, None, None, None]
            values = moved
        return replace(self, values=values.reshape(2, 2, math.prod(grid)))
