"""How the axes of a tensor are read: samples, features, positions.

Samples and features are exchangeable: only whether two indices agree matters. Positions (pixels,
tokens, and the samples of a given batch) are told apart one by one. A dimension of a tensor is a
tuple of axes, so that views, flattening and splits are bookkeeping and nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

import torch

from varprobe.errors import MissingRuleError


class Role(Enum):
    """What the index of an axis stands for."""

    SAMPLE = "sample"
    FEATURE = "feature"
    POSITION = "position"


@dataclass(frozen=True, slots=True)
class Axis:
    """One atomic axis. Axes of size 1 are not written down."""

    role: Role
    size: int


Dim = tuple[Axis, ...]


@dataclass(frozen=True, slots=True)
class Layout:
    """The axes of each dimension, outermost first.

    The positions of the whole tensor are numbered in row-major order of its position axes.
    """

    dims: tuple[Dim, ...]

    @classmethod
    def of(cls, roles: Sequence[Role], shape: Sequence[int]) -> Layout:
        """Give each dimension of ``shape`` one role."""
        pairs = zip(roles, shape, strict=True)
        return cls(tuple((Axis(role, size),) if size != 1 else () for role, size in pairs))

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the tensor."""
        return tuple(math.prod(axis.size for axis in dim) for dim in self.dims)

    @property
    def axes(self) -> list[Axis]:
        """All axes, outermost first."""
        return [axis for dim in self.dims for axis in dim]

    def count(self, role: Role) -> int:
        """Return how many indices of this role there are."""
        return math.prod(axis.size for axis in self.axes if axis.role is role)

    def positions_of(self, dim: int) -> int:
        """Return how many positions dimension ``dim`` holds."""
        return math.prod(a.size for a in self.dims[dim] if a.role is Role.POSITION)

    def only(self, dim: int, role: Role) -> bool:
        """Return whether dimension ``dim`` has no axis of another role."""
        return all(axis.role is role for axis in self.dims[dim])

    def view(self, shape: Sequence[int]) -> Layout:
        """Return the layout after a view: the same axes in the same order, cut anew.

        Raises
        ------
        MissingRuleError
            If an axis is cut across a boundary that does not divide it.
        """
        pending = list(reversed(self.axes))
        dims: list[Dim] = []
        for size in shape:
            dim: list[Axis] = []
            missing = size
            while missing > 1:
                axis = pending.pop()
                if missing % axis.size:
                    inner, rest = divmod(axis.size, missing)
                    if rest:
                        raise MissingRuleError(f"view cuts an axis of {axis.size} by {missing}")
                    pending.append(Axis(axis.role, inner))
                    axis = Axis(axis.role, missing)
                missing //= axis.size
                # Features are told apart by their number alone: two axes of them are one.
                if dim and dim[-1].role is axis.role is Role.FEATURE:
                    axis = Axis(Role.FEATURE, dim.pop().size * axis.size)
                dim.append(axis)
            dims.append(tuple(dim))
        return Layout(tuple(dims))

    def permute(self, order: Sequence[int]) -> tuple[Layout, torch.Tensor]:
        """Return the layout with its dimensions in ``order``, and where each position came from."""
        layout = Layout(tuple(self.dims[d] for d in order))
        sizes = [self.positions_of(d) for d in range(len(self.dims))]
        index = torch.arange(math.prod(sizes)).view(sizes).permute(*order)
        return layout, index.reshape(-1)

    def index_positions(self) -> torch.Tensor:
        """Return the number of each position, shaped like the tensor with other dimensions 1."""
        for dim in self.dims:
            if len({axis.role for axis in dim}) > 1 and any(
                axis.role is Role.POSITION for axis in dim
            ):
                raise MissingRuleError("a dimension mixes positions with samples or features")
        sizes = [self.positions_of(d) for d in range(len(self.dims))]
        return torch.arange(math.prod(sizes)).view(sizes)

    def number_features(self) -> torch.Tensor:
        """Return the number of each feature, shaped like the tensor with other dimensions 1."""
        sizes = [math.prod(a.size for a in dim if a.role is Role.FEATURE) for dim in self.dims]
        return torch.arange(math.prod(sizes)).view(sizes)

    def replace(self, dim: int, axes: Dim) -> Layout:
        """Return the layout with other axes in dimension ``dim``."""
        return Layout((*self.dims[:dim], axes, *self.dims[dim + 1 :]))

    def with_positions(self, shape: Sequence[int]) -> Layout:
        """Return the layout of a tensor of ``shape`` whose position dimensions were resized."""
        dims = []
        for dim, size in zip(self.dims, shape, strict=True):
            if math.prod(axis.size for axis in dim) == size:
                dims.append(dim)
            elif any(axis.role is not Role.POSITION for axis in dim):
                raise MissingRuleError("the operation resizes samples or features")
            else:
                dims.append((Axis(Role.POSITION, size),) if size != 1 else ())
        return Layout(tuple(dims))
