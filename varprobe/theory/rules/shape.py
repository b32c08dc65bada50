"""Operations that move elements and change none: views, permutations, slices, padding."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch._ops import OpOverloadPacket

from varprobe.errors import MissingRuleError
from varprobe.theory.expectations import Field
from varprobe.theory.law import Downstream, Gradient, Law, Noise, Step, Value, Weight
from varprobe.theory.layout import Layout, Role
from varprobe.theory.rules.reading import default_feature_dim, read_law
from varprobe.theory.rules.registry import rule

aten = torch.ops.aten

VIEWS = (
    aten.view,
    aten._unsafe_view,
    aten.reshape,
    aten.flatten,
    aten.unflatten,
    aten.squeeze,
    aten.unsqueeze,
    aten.view_as,
)
PERMUTATIONS = (aten.permute, aten.transpose, aten.t, aten.movedim)
RELOCATIONS = (aten.slice, aten.select, aten.flip, aten.roll, aten.pad, aten.constant_pad_nd)
COPIES = (aten.contiguous, aten.clone, aten.alias, aten.to, aten._to_copy, aten.lift_fresh)


@rule(*COPIES)
def copy(x: Value, *_: Any, **__: Any) -> Value:
    """Return the same array."""
    return x


@rule(aten.detach)
def detach(x: Value) -> Value | Step:
    """Return the same array, through which no gradient goes back."""
    if isinstance(x, Law):
        return Step(replace(x), lambda _: [None])
    return x


def result_shape(op: OpOverloadPacket, shape: Sequence[int], *args: Any) -> tuple[int, ...]:
    """Return the shape that the operation gives a tensor of ``shape``."""
    result: torch.Tensor = op(torch.empty(tuple(shape), device="meta"), *args)
    return tuple(result.shape)


def _view(op: OpOverloadPacket, x: Value, *args: Any) -> Value | Step:
    if isinstance(x, Noise):
        return Noise(result_shape(op, x.shape, *args))
    if isinstance(x, Weight):
        return Step(replace(x, shape=result_shape(op, x.shape, *args)), lambda gradient: [gradient])
    if not isinstance(x, Law):
        raise MissingRuleError("not an array with a law")
    output = replace(x, layout=x.layout.view(result_shape(op, x.layout.shape, *args)))

    def backward(gradient: Gradient) -> Sequence[Downstream]:
        return [replace(gradient, layout=x.layout)]

    return Step(output, backward)


def _permute(op: OpOverloadPacket, x: Value, *args: Any) -> Value | Step:
    if not isinstance(x, Law):
        return _view(op, x, *args)
    marked = torch.empty([2 + d for d in range(len(x.layout.dims))], device="meta")
    order = [size - 2 for size in op(marked, *args).shape]
    layout, index = x.layout.permute(order)
    if bool((index == torch.arange(len(index))).all()):
        back = [order.index(d) for d in range(len(order))]
        return Step(
            replace(x, layout=layout),
            lambda gradient: [replace(gradient, layout=gradient.layout.permute(back)[0])],
        )
    return relocate(x, layout, index)


def relocate(x: Law, layout: Layout, index: torch.Tensor) -> Step:
    """Return the array whose position p is position ``index[p]`` of x; -1 stands for a zero."""
    # Padding comes before convolutions, which ask for the moments and not for the function.
    padded = len(index) > x.field.pairs.positions or bool((index < 0).any())
    source = x.settle() if padded else x.field
    means = torch.where(index < 0, 0.0, source.means[index.clamp_min(0)])
    field = Field(source.pairs.gather(index), means, source.gaussian)
    moved = replace(x, layout=layout, field=field)
    if padded:
        moved = Law(layout=layout, field=field, standing=x.standing, field_spread=x.spread)
    positions = x.pairs.positions

    def backward(gradient: Gradient) -> Sequence[Downstream]:
        settled = gradient.settle()
        signal = settled.signal.scatter(index, positions)
        return [replace(settled, layout=x.layout, signal=signal)]

    return Step(moved, backward)


def _relocate(op: OpOverloadPacket, x: Value, *args: Any) -> Step:
    """Run the operation on the numbers of the positions."""
    if isinstance(x, Noise):
        x = read_law(x, default_feature_dim(x.shape))
    if not isinstance(x, Law):
        raise MissingRuleError("not an array with a law")
    shape = result_shape(op, x.layout.shape, *args)
    places = x.layout.index_positions().double() + 1
    if _touches_positions(op, x.layout, args):
        moved = op(places, *args)
        index = moved.reshape(-1).long() - 1
        layout = x.layout
        if len(shape) < len(layout.dims):
            layout = layout.replace(args[0], ())
            return relocate(x, Layout(_drop(layout.dims, args[0])), index)
        return relocate(x, layout.with_positions(shape), index)
    return _resize_exchangeable(x, shape, args)


def _drop(dims: tuple[Any, ...], dim: int) -> tuple[Any, ...]:
    return tuple(kept for d, kept in enumerate(dims) if d != dim % len(dims))


def _touches_positions(op: OpOverloadPacket, layout: Layout, args: Sequence[Any]) -> bool:
    if op not in (aten.slice, aten.select):
        return True
    dim = args[0] if args else 0
    return layout.only(dim, Role.POSITION)


def _resize_exchangeable(x: Law, shape: tuple[int, ...], args: Sequence[Any]) -> Step:
    dim = (args[0] if args else 0) % len(x.layout.dims)
    dims = x.layout.dims
    if len(shape) < len(dims) or len(dims[dim]) != 1:
        raise MissingRuleError("an index into samples or features")
    (axis,) = dims[dim]
    share = shape[dim] / axis.size
    kept = () if shape[dim] == 1 else (replace(axis, size=shape[dim]),)
    output = replace(x, layout=x.layout.replace(dim, kept))
    if share != 1:
        raise MissingRuleError("a slice of samples or features")
    return Step(output, lambda gradient: [replace(gradient, layout=x.layout)])


def _file(ops: Sequence[OpOverloadPacket], body: Callable[..., Value | Step]) -> None:
    for op in ops:
        rule(op)(partial(body, op))


_file(VIEWS, _view)
_file(PERMUTATIONS, _permute)
_file(RELOCATIONS, _relocate)
