"""Repeating an array along new axes: expand, and sums with an array of fewer axes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from varprobe.errors import MissingRuleError
from varprobe.theory.expectations import Field
from varprobe.theory.grouped import GroupedPairs
from varprobe.theory.law import Downstream, Gradient, Known, Law, Noise, Step, Value, Weight
from varprobe.theory.layout import Axis, Dim, Layout, Role
from varprobe.theory.pairs import Pairs
from varprobe.theory.rules.lookup import read_parameter
from varprobe.theory.rules.reading import default_feature_dim, read_law
from varprobe.theory.rules.registry import rule
from varprobe.theory.rules.samples import (
    are_grouped_alike,
    gather_groups,
    needs_telling,
    tell_apart,
)
from varprobe.theory.rules.shape import result_shape

aten = torch.ops.aten


@rule(aten.expand, aten.expand_as)
def expand(x: Value, *args: Any, **kwargs: Any) -> Step:
    """Return x, repeated along axes of size 1."""
    sizes = args[0].layout.shape if args and isinstance(args[0], Law) else args[0]
    if isinstance(x, Weight):
        return chain(read_parameter(x), lambda law: expand(law, sizes, **kwargs))
    if isinstance(x, Noise):
        x = read_law(x, default_feature_dim(x.shape))
    if not isinstance(x, Law):
        raise MissingRuleError("not an array with a law")
    shape = result_shape(aten.expand, x.layout.shape, sizes)
    added = len(shape) - len(x.layout.dims)
    dims: list[Dim] = []
    for d, size in enumerate(shape):
        old = x.layout.dims[d - added] if d >= added else ()
        repeated = size != math.prod(axis.size for axis in old)
        dims.append((Axis(_choose_role(x, dims, d), size),) if repeated else old)
    return broadcast(x, Layout(tuple(dims)))


def _choose_role(x: Law, before: Sequence[Dim], dim: int) -> Role:
    """Return what a new axis is: samples in front, copies of heads behind heads, else positions."""
    if dim == 0 and x.layout.count(Role.SAMPLE) == 1:
        return Role.SAMPLE
    heads = before[-1] if before else ()
    if x.mixed is not None and heads and all(axis.role is Role.FEATURE for axis in heads):
        return Role.FEATURE
    return Role.POSITION


def chain(first: Step, then: Callable[[Any], Step]) -> Step:
    """Return two steps on one array as one."""
    return _append(first, then(first.output))


def _append(first: Step, second: Step) -> Step:
    ahead, back = first.backward, second.backward
    assert ahead is not None
    assert back is not None
    return Step(second.output, lambda gradient: ahead(back(gradient)[0]))


def broadcast(x: Law, layout: Layout) -> Step:
    """Return x, repeated to a layout whose last dimensions are those of x or where x has size 1.

    Raises
    ------
    MissingRuleError
        If an axis of x has no like.
    """
    if x.layout == layout:
        return Step(x, lambda gradient: [gradient])
    added = len(layout.dims) - len(x.layout.dims)
    old = ((),) * added + x.layout.dims
    if added < 0 or any(a and a != b for a, b in zip(old, layout.dims, strict=True)):
        raise MissingRuleError("arrays are added whose axes differ")
    copies = layout.count(Role.FEATURE) // x.features
    samples = layout.count(Role.SAMPLE)
    sizes = [layout.positions_of(d) for d in range(len(layout.dims))]
    places = x.layout.index_positions().view([_count(dim) for dim in old])
    index = places.expand(sizes).reshape(-1)
    mixing = _repeat_features(x, old, layout) if copies > 1 else x.mixed
    if mixing is None and copies > 1:
        raise MissingRuleError("features that are repeated")
    settled = x.settle()
    pairs = _share(settled.pairs.gather(index), samples)
    before = x.pairs.samples
    output = replace(
        x,
        layout=layout,
        field=Field(pairs, settled.means[index], settled.gaussian),
        field_spread=x.spread,
        mixing=None if mixing is None else mixing.relocate(index),
    )
    if not (x.is_field and x.thinning == 1.0):
        output = Law(layout=layout, field=output.field, standing=x.standing, field_spread=x.spread)

    def backward(gradient: Gradient) -> Sequence[Downstream]:
        settled = gradient.settle()
        # Copies of one feature get gradients that are independent of each other.
        signal = settled.signal * float(copies)
        signal = x.pairs.take_back(_gather_samples(signal, before), index)
        awaited = settled.awaited
        if awaited is not None:
            kept = x.pairs.take_back(_gather_samples(awaited.pairs, before), index)
            awaited = replace(awaited, pairs=kept).repeat(copies)
            awaited = awaited.arrive(x.mixed, awaited.gathered)
        down = replace(
            settled,
            layout=x.layout,
            signal=signal,
            support=None,
            awaited=awaited,
            products=None if settled.products is None else settled.products * copies,
        )
        return [down.arrive()]

    return Step(output, backward)


def align(x: Value, y: Value) -> tuple[Step, Step] | None:
    """Return two summands in one layout, None if neither has to be changed or has a law."""
    if isinstance(x, Weight) and isinstance(y, Known | Noise) and y.shape:
        y = read_law(y, default_feature_dim(y.shape))
    if isinstance(y, Weight) and isinstance(x, Known | Noise) and x.shape:
        x = read_law(x, default_feature_dim(x.shape))
    if isinstance(x, Weight) and isinstance(y, Law) and _is_array(x, y):
        parameter = read_parameter(x, y.layout)
        return _follow(parameter, parameter.output, y)
    if isinstance(y, Weight) and isinstance(x, Law) and _is_array(y, x):
        parameter = read_parameter(y, x.layout)
        first, second = _follow(parameter, parameter.output, x)
        return second, first
    if not isinstance(x, Law) or not isinstance(y, Law):
        return None
    if not are_grouped_alike(x, y):
        return _gather_alike(x, y)
    if x.layout == y.layout:
        return None
    if needs_telling(x.layout, y.layout):
        return tell_apart(x), keep(y)
    if needs_telling(y.layout, x.layout):
        return keep(x), tell_apart(y)
    count = max(len(x.layout.dims), len(y.layout.dims))
    dims = [((),) * (count - len(law.layout.dims)) + law.layout.dims for law in (x, y)]
    layout = Layout(tuple(a or b for a, b in zip(*dims, strict=True)))
    return broadcast(x, layout), broadcast(y, layout)


def _follow(parameter: Step, array: object, other: Law) -> tuple[Step, Step]:
    """Return a parameter in the form of what it is added to, and that as it is."""
    assert isinstance(array, Law)
    if not are_grouped_alike(array, other):
        parameter = chain(parameter, gather_groups)
        array = parameter.output
    return chain(parameter, lambda law: broadcast(law, other.layout)), keep(other)


def _gather_alike(x: Law, y: Law) -> tuple[Step, Step]:
    """Return both in groups and in one layout."""
    first, second = (
        keep(law) if isinstance(law.pairs, GroupedPairs) else gather_groups(law) for law in (x, y)
    )
    further = align(first.output, second.output)  # type: ignore[arg-type]
    if further is None:
        return first, second
    return _append(first, further[0]), _append(second, further[1])


def _is_array(weight: Weight, x: Law) -> bool:
    """Tell whether a parameter is more than one number for all features."""
    constant = weight.law.variance <= 1e-12 * weight.law.second_moment
    return not constant or math.prod(weight.shape) not in (1, x.features)


def keep(x: Law) -> Step:
    """Return an array as it is."""
    return Step(x, lambda gradient: [gradient])


def _count(dim: Dim) -> int:
    return math.prod(axis.size for axis in dim if axis.role is Role.POSITION)


def _repeat_features(x: Law, old: Sequence[Dim], layout: Layout) -> Any:
    """Return the mixing with its features repeated."""
    if x.mixed is None:
        return None

    def sizes(dims: Sequence[Dim]) -> list[int]:
        return [math.prod(a.size for a in dim if a.role is Role.FEATURE) for dim in dims]

    chosen = torch.arange(x.features).view(sizes(old)).expand(sizes(layout.dims))
    return x.mixed.take(chosen.reshape(-1))


def _share(pairs: Pairs, samples: int) -> Pairs:
    """Return the pairs of an array that is the same in all of several samples."""
    if samples == pairs.samples:
        return pairs
    if pairs.samples != 1:
        raise MissingRuleError("arrays are added whose samples differ")
    return replace(pairs, values=pairs.values[1:].expand_as(pairs.values).clone(), samples=samples)


def _gather_samples(pairs: Pairs, samples: int) -> Pairs:
    """Return the pairs of the sum over samples, where all had the same array."""
    if samples == pairs.samples:
        return pairs
    count, values = pairs.samples, pairs.values
    summed = count * values[1] + count * (count - 1) * values[0]
    return replace(pairs, values=torch.stack([torch.zeros_like(summed), summed]), samples=1)
