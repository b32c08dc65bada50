"""Pair moments over positions, whatever form they are held in.

K[b, p, p'] = E[x_p x_p'], same feature, b = 1 in the same sample. Up to `MOST_EXPLICIT` positions
all pairs are told apart (`varprobe.theory.explicit`); above, each position is paired with itself
and with an average other one (`varprobe.theory.profile`). Rules see this interface only.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from varprobe.theory.positions import LinearMap, Window, count_targets

MOST_EXPLICIT = 1300
"""Positions up to which all pairs are held: 32 x 32 pixels with a rim of circular padding."""

DOUBLE_UP_TO = 256
"""Positions up to which float64 costs less than it is worth."""


def choose_dtype(positions: int) -> torch.dtype:
    """Return float32 where all of many pairs are held (relative error 5e-4 over 30 layers)."""
    return torch.float32 if DOUBLE_UP_TO < positions <= MOST_EXPLICIT else torch.float64


@dataclass(frozen=True, slots=True)
class Pairs(ABC):
    """Second moments of all pairs of positions.

    Parameters
    ----------
    values : Tensor
        The numbers, in the form of the subclass; the first dimension is b.
    samples : int
        How many exchangeable samples a batch holds.
    """

    values: Tensor
    samples: int

    @property
    @abstractmethod
    def positions(self) -> int:
        """Number of positions P."""

    @property
    @abstractmethod
    def second_moments(self) -> Tensor:
        """E[x_p²] for each position, shape (P,), a view into the values."""

    @property
    def stand_ins(self) -> tuple[Tensor, Tensor] | None:
        """Positions that stand for all, and which of them stands for each; None if all do."""
        return None

    @abstractmethod
    def broadcast(self, first: Tensor, second: Tensor) -> Tensor:
        """Return u_p v_p' in the form of the values."""

    @abstractmethod
    def outer(self, first: Tensor, second: Tensor) -> Tensor:
        """Return Σ_c u_pc v_p'c in the form of the values."""

    @abstractmethod
    def row_sums(self) -> Tensor:
        """Return for each position the sum over all (sample, position) it is paired with."""

    @abstractmethod
    def column_sums(self) -> Tensor:
        """Return `row_sums` of the transpose."""

    @abstractmethod
    def transpose(self) -> Self:
        """Swap the two positions of each pair."""

    @abstractmethod
    def centre(self) -> Self:
        """Return the pairs after the mean over all samples and positions is taken off."""

    @abstractmethod
    def subtract_columns(self, means: Tensor) -> Self:
        """Take a number off each column."""

    @abstractmethod
    def __matmul__(self, other: Self) -> Self:
        """Return the matrix product over all (sample, position)."""

    @abstractmethod
    def sample_pairs(self, most: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return some pairs of different (sample, position) that stand for all.

        Parameters
        ----------
        most : int
            Positions to look at.

        Returns
        -------
        values, scales, shares : Tensor
            Second moment of each pair, the geometric mean of its two diagonals, and the number of
            pairs that it stands for; float64.
        """

    @abstractmethod
    def to_explicit(self) -> Pairs:
        """Return all pairs told apart."""

    @abstractmethod
    def to_profile(self) -> Pairs:
        """Return each position paired with itself and with an average other one."""

    @abstractmethod
    def _gather(self, index: Tensor) -> Pairs: ...

    @abstractmethod
    def _scatter(self, index: Tensor, positions: int) -> Pairs: ...

    @abstractmethod
    def _transform(self, matrix: LinearMap) -> Pairs: ...

    @abstractmethod
    def _deal(self, shares: LinearMap) -> Pairs: ...

    @abstractmethod
    def _reduce(self, outer: int, inner: int) -> Pairs: ...

    @abstractmethod
    def _repeat(self, inner: int) -> Pairs: ...

    @abstractmethod
    def _run_windows(
        self, sizes: Sequence[int], windows: Sequence[Window], *, coarse: bool
    ) -> Pairs: ...

    @property
    def size(self) -> int:
        """Number of (sample, position) pairs in a batch."""
        return self.samples * self.positions

    @property
    def mean(self) -> float:
        """E[x²] pooled over the positions."""
        return float(self.second_moments.double().mean())

    def map(self, function: Callable[[Tensor], Tensor]) -> Self:
        """Apply an elementwise function."""
        return replace(self, values=function(self.values))

    def __add__(self, other: Pairs) -> Self:
        return replace(self, values=self.values + other.values)

    def __sub__(self, other: Pairs) -> Self:
        return replace(self, values=self.values - other.values)

    def __mul__(self, other: Pairs | float) -> Self:
        factor = other.values if isinstance(other, Pairs) else other
        return replace(self, values=self.values * factor)

    def add_product(self, first: Tensor, second: Tensor, scale: float = 1.0) -> Self:
        """Add scale u_p v_p' to every pair."""
        return replace(self, values=self.values + self.broadcast(first, second) * scale)

    def scale(self, vector: Tensor) -> Self:
        """Multiply every pair by v_p v_p'."""
        return replace(self, values=self.values * self.broadcast(vector, vector))

    def add_diagonal(self, vector: Tensor) -> Self:
        """Add v_p to the pair of each position with itself in the same sample."""
        changed = replace(self, values=self.values.clone())
        changed.second_moments.add_(vector)
        return changed

    def with_diagonal(self, vector: Tensor) -> Self:
        """Set the pair of each position with itself in the same sample."""
        changed = replace(self, values=self.values.clone())
        changed.second_moments.copy_(vector)
        return changed

    def total(self) -> float:
        """Return the sum over all pairs of (sample, position) in a batch."""
        return self.samples * float(self.row_sums().sum(dtype=torch.float64))

    def size_apart(self) -> float:
        """Return the root mean square over pairs of different (sample, position), times a count."""
        squares = self.map(torch.square)
        alone = self.samples * float(squares.second_moments.sum(dtype=torch.float64))
        return math.sqrt(max(0.0, squares.total() - alone))

    def average(self) -> float:
        """Return the mean over all pairs of (sample, position) in a batch."""
        return self.total() / self.size**2

    def gather(self, index: Tensor) -> Pairs:
        """Return the pairs of the positions ``index``; -1 stands for a constant zero."""
        return self._fit(len(index))._gather(index)._settle()

    def scatter(self, index: Tensor, positions: int) -> Pairs:
        """Return the adjoint of `gather`: pairs whose place is the same are summed."""
        return self._fit(positions)._scatter(index, positions)._settle()

    def transform(self, matrix: LinearMap) -> Pairs:
        """Return A K Aᵀ, the pairs of y = A x."""
        return self._fit(matrix.targets)._transform(matrix)._settle()

    def deal(self, shares: LinearMap) -> Pairs:
        """Return the pairs after each window hands its value to just one of its positions.

        ``shares`` are the chances within each window, (windows, positions).
        """
        return self._fit(shares.sources)._deal(shares)._settle()

    def take_back(self, signal: Pairs, index: Tensor) -> Pairs:
        """Return the adjoint of `gather`, in the form of these pairs."""
        return signal.scatter(index, self.positions)

    def unit(self) -> Pairs:
        """Return the pairs of independent positions and samples of second moment 1."""
        from varprobe.theory.explicit import independent

        return independent(self.positions, self.samples)

    def reduce(self, outer: int, inner: int) -> Pairs:
        """Sum over equal indices of the inner part of positions numbered outer x inner."""
        return self._reduce(outer, inner)._settle()

    def repeat(self, inner: int) -> Pairs:
        """Return the adjoint of `reduce`."""
        return self._fit(self.positions * inner)._repeat(inner)._settle()

    def gather_windows(self, sizes: Sequence[int], windows: Sequence[Window]) -> Pairs:
        """Sum for each pair of windows over equal taps.

        Parameters
        ----------
        sizes : sequence of int
            The positions as a grid; the last ``len(windows)`` axes are the windows'.
        windows : sequence of Window
            One an axis.
        """
        fitting = self._fit(count_targets(sizes, windows, coarse=True))
        return fitting._run_windows(sizes, windows, coarse=True)._settle()

    def scatter_windows(self, sizes: Sequence[int], windows: Sequence[Window]) -> Pairs:
        """Return the adjoint of `gather_windows`."""
        fitting = self._fit(count_targets(sizes, windows, coarse=False))
        return fitting._run_windows(sizes, windows, coarse=False)._settle()

    def _fit(self, positions: int) -> Pairs:
        return self.to_profile() if positions > MOST_EXPLICIT else self

    def _settle(self) -> Pairs:
        found = self if self.positions > MOST_EXPLICIT else self.to_explicit()
        dtype = choose_dtype(found.positions)
        return found if found.values.dtype == dtype else found.map(lambda values: values.to(dtype))
