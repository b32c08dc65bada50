"""Operations that move elements and change none: views, permutations, slices, padding."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch._ops import OpOverloadPacket

from varprobe.errors import MissingRuleError
from varprobe.theory.expectations import Field
from varprobe.theory.law import (
    Downstream,
    Gradient,
    Law,
    Noise,
    Step,
    Value,
    Weight,
    WeightGradient,
)
from varprobe.theory.layout import Layout, Role
from varprobe.theory.parts import add_parts
from varprobe.theory.rules.features import take_features
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
SPLITS = (aten.split, aten.split_with_sizes, aten.unbind)
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
    x = _order_features(x, order)
    if bool((index == torch.arange(len(index))).all()):
        back = [order.index(d) for d in range(len(order))]
        return Step(
            replace(x, layout=layout),
            lambda gradient: [replace(gradient, layout=gradient.layout.permute(back)[0])],
        )
    return relocate(x, layout, index)


def _order_features(x: Law, order: Sequence[int]) -> Law:
    """Forget which features are which where their order changes: they are alike."""
    moved = x.layout.number_features().permute(*order).reshape(-1)
    if x.mixing is None or bool((moved == torch.arange(len(moved))).all()):
        return x
    return replace(x, mixing=None)


def relocate(x: Law, layout: Layout, index: torch.Tensor) -> Step:
    """Return the array whose position p is position ``index[p]`` of x; -1 stands for a zero."""
    # Padding comes before convolutions, which ask for the moments and not for the function.
    padded = len(index) > x.field.pairs.positions or bool((index < 0).any())
    source = x.settle() if padded else x.field
    means = torch.where(index < 0, 0.0, source.means[index.clamp_min(0)])
    field = Field(source.pairs.gather(index), means, source.gaussian)
    mixing = None if padded or x.mixed is None else x.mixed.relocate(index)
    moved = replace(x, layout=layout, field=field, mixing=mixing)
    if padded:
        moved = Law(layout=layout, field=field, standing=x.standing, field_spread=x.spread)

    def backward(gradient: Gradient) -> Sequence[Downstream]:
        settled = gradient.settle()
        signal = x.pairs.take_back(settled.signal, index)
        awaited = settled.awaited
        if awaited is not None:
            awaited = replace(awaited, pairs=x.pairs.take_back(awaited.pairs, index))
        return [replace(settled, layout=x.layout, signal=signal, awaited=awaited)]

    return Step(moved, backward)


def _relocate(op: OpOverloadPacket, x: Value, *args: Any) -> Step:
    """Run the operation on the numbers of the positions."""
    if isinstance(x, Weight) and op in (aten.slice, aten.select):
        return _take_part(x, result_shape(op, x.shape, *args), args)
    if isinstance(x, Noise):
        x = read_law(x, default_feature_dim(x.shape))
    if not isinstance(x, Law):
        raise MissingRuleError("not an array with a law")
    shape = result_shape(op, x.layout.shape, *args)
    if _touches_positions(op, x.layout, args):
        moved = op(x.layout.index_positions().double() + 1, *args)
        index = moved.reshape(-1).long() - 1
        layout = x.layout
        if len(shape) < len(layout.dims):
            layout = layout.replace(args[0], ())
            return relocate(x, Layout(_drop(layout.dims, args[0])), index)
        return relocate(x, layout.with_positions(shape), index)
    dim = (args[0] if args else 0) % len(x.layout.dims)
    whole = torch.arange(x.layout.shape[dim])
    kept = len(shape) == len(x.layout.dims)
    chosen = op(whole, 0, *args[1:]).reshape(-1)
    if len(chosen) == len(whole):
        return Step(x, lambda gradient: [gradient])
    return take_features(x, dim, chosen, keep=kept)


def _take_part(x: Weight, shape: tuple[int, ...], which: Sequence[Any]) -> Step:
    """Return some elements of a parameter, which are a parameter of the same law."""
    share = math.prod(shape) / math.prod(x.shape)
    part = replace(x, shape=shape, part=(*x.part, *which))

    def backward(gradient: WeightGradient) -> Sequence[Downstream]:
        return [replace(gradient, second_moment=gradient.second_moment * share)]

    return Step(part, backward)


def _drop(dims: tuple[Any, ...], dim: int) -> tuple[Any, ...]:
    return tuple(kept for d, kept in enumerate(dims) if d != dim % len(dims))


def _touches_positions(op: OpOverloadPacket, layout: Layout, args: Sequence[Any]) -> bool:
    if op not in (aten.slice, aten.select):
        return True
    dim = args[0] if args else 0
    return layout.only(dim, Role.POSITION)


def _split(op: OpOverloadPacket, x: Value, *args: Any, **kwargs: Any) -> Step:
    """Return the pieces, each a slice or a selection."""
    if isinstance(x, Noise):
        x = read_law(x, default_feature_dim(x.shape))
    if not isinstance(x, Law | Weight):
        raise MissingRuleError("not an array with a law")
    positional = list(args)
    dim = int(kwargs.get("dim", positional[-1] if op is aten.unbind and positional else 0))
    if op is not aten.unbind and len(positional) > 1:
        dim = int(positional[1])
    numbers = torch.arange((x.layout if isinstance(x, Law) else x).shape[dim])
    sizes = () if op is aten.unbind else (positional[0],)
    steps = []
    for piece in op(numbers, *sizes):
        first = int(piece.reshape(-1)[0])
        if op is aten.unbind:
            steps.append(_relocate(aten.select, x, dim, first))
        else:
            steps.append(_relocate(aten.slice, x, dim, first, first + len(piece)))

    def backward(*gradients: Gradient | None) -> Sequence[Downstream]:
        total: Downstream = None
        for step, gradient in zip(steps, gradients, strict=True):
            if gradient is None or step.backward is None:
                continue
            (part,) = step.backward(gradient)
            total = part if total is None else _add_pieces(total, part)
        return [total]

    pieces = [step.output for step in steps if not isinstance(step.output, tuple)]
    return Step(tuple(pieces), backward)


def _add_pieces(first: Downstream, second: Downstream) -> Downstream:
    """Return the sum of the gradients of two pieces."""
    if isinstance(first, WeightGradient) and isinstance(second, WeightGradient):
        return replace(first, second_moment=first.second_moment + second.second_moment)
    if isinstance(first, Gradient) and isinstance(second, Gradient):
        total = add_parts(first, second)
        if total is not None:
            return total
    raise MissingRuleError("gradients of pieces that are not independent")


def _file(ops: Sequence[OpOverloadPacket], body: Callable[..., Value | Step]) -> None:
    for op in ops:
        rule(op)(partial(body, op))


_file(VIEWS, _view)
_file(PERMUTATIONS, _permute)
_file(RELOCATIONS, _relocate)
_file(SPLITS, _split)
