"""Products: by given numbers, of functions of one array, of a gate with what it lets through."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from varprobe.errors import MissingRuleError
from varprobe.theory.expectations import Field
from varprobe.theory.fluctuations import Mixture, Spread
from varprobe.theory.law import Downstream, Gradient, Known, Law, Step, Value, Weight
from varprobe.theory.lengths import multiply_lengths
from varprobe.theory.positions import LinearMap
from varprobe.theory.rules.broadcast import broadcast, keep
from varprobe.theory.rules.mixtures import carry, weigh_by_table
from varprobe.theory.rules.pointwise import apply_pointwise
from varprobe.theory.rules.registry import rule
from varprobe.theory.rules.rotation import multiply_complex
from varprobe.theory.rules.samples import are_grouped_alike
from varprobe.theory.rules.statistics import (
    divide_by_statistic,
    is_statistic,
    multiply_by_statistic,
)

aten = torch.ops.aten

GATED = "a gate that is made of what it multiplies"


@rule(aten.mul.Tensor, aten.mul_.Tensor)
def multiply(x: Value | float, y: Value | float) -> Step:
    """Return x y."""
    turned = multiply_complex(x, y)
    if turned is not None:
        return turned
    for law, other, first in ((x, y, True), (y, x, False)):
        if not isinstance(law, Law):
            continue
        if isinstance(other, Known) and other.tensor.numel() > 1:
            return _place(weigh_by_table(law, other.tensor), first=first)
        if is_statistic(other, law) and isinstance(other, Law):
            return _place(multiply_by_statistic(law, other), first=first)
        number = _read_number(other)
        if number is not None:
            step = carry(apply_pointwise(aten.mul.Tensor, (x, y), {}), law, number)
            # A parameter is a tensor whose gradient the operation gives.
            return step if isinstance(other, Weight) else _place(step, first=first)
    if isinstance(x, Law) and isinstance(y, Law) and x.field is not y.field:
        return _gate_alike(x, y)
    return apply_pointwise(aten.mul.Tensor, (x, y), {})


@rule(aten.div.Tensor, aten.div_.Tensor)
def divide(x: Value, y: Value | float) -> Step:
    """Return x / y."""
    if isinstance(x, Law):
        if isinstance(y, Law) and is_statistic(y, x):
            return divide_by_statistic(x, y)
        if isinstance(y, Known) and y.tensor.numel() > 1:
            return weigh_by_table(x, 1 / y.tensor.double())
        number = _read_number(y)
        if number:
            return carry(apply_pointwise(aten.div.Tensor, (x, y), {}), x, 1 / number)
    return apply_pointwise(aten.div.Tensor, (x, y), {})


@rule(aten.neg)
def negate(x: Value) -> Step:
    """Return -x."""
    step = apply_pointwise(aten.neg.default, (x,), {})
    return carry(step, x, -1.0) if isinstance(x, Law) else step


def _read_number(value: Any) -> float | None:
    if isinstance(value, Known) and value.tensor.numel() == 1:
        return float(value.tensor)
    if isinstance(value, Weight) and value.law.variance <= 1e-12 * value.law.second_moment:
        return value.law.mean
    return float(value) if isinstance(value, int | float) else None


def _place(step: Step, *, first: bool) -> Step:
    """Return the step whose gradient stands where the array stood among the tensors."""
    inner = step.backward
    assert inner is not None
    if first:
        return step
    return Step(step.output, lambda gradient: [None, *inner(gradient)])


def _gate_alike(x: Law, y: Law) -> Step:
    """Return the product; of two arrays one may have a number for all positions of a sample."""
    if x.layout == y.layout:
        return gate(x, y)
    steps = [repeat_over(x, y), repeat_over(y, x)]
    first, second = (step.output for step in steps)
    assert isinstance(first, Law)
    assert isinstance(second, Law)
    product = gate(first, second)

    def backward(gradient: Gradient) -> Sequence[Downstream]:
        parts = product.backward(gradient)  # type: ignore[misc]
        return [step.backward(part)[0] for step, part in zip(steps, parts, strict=True)]  # type: ignore[misc]

    return Step(product.output, backward)


def repeat_over(x: Law, other: Law) -> Step:
    """Return x at all positions of another array, where it has one for each sample."""
    pairs = other.pairs
    dims = zip(x.layout.dims, other.layout.dims, strict=False)
    fits = len(x.layout.dims) == len(other.layout.dims) and all(a in ((), b) for a, b in dims)
    if x.layout == other.layout or not fits:
        return keep(x)
    if x.pairs.positions > 1:
        # Samples are told apart, and few: so are all positions.
        return broadcast(x, other.layout)
    if x.pairs.samples != pairs.samples or x.features != other.features:
        raise MissingRuleError("factors meet whose axes differ")
    settled = x.settle()
    values = settled.pairs.to_explicit().values.view(2, *[1] * (pairs.values.dim() - 1))
    repeated = replace(pairs, values=values.to(pairs.values.dtype).expand_as(pairs.values))
    output = Law(
        layout=other.layout,
        field=Field(repeated, settled.means.expand(pairs.positions), settled.gaussian),
        standing=x.standing,
        field_spread=x.spread,
    )
    total = LinearMap((torch.ones(1, pairs.positions, dtype=torch.float64),))

    def backward(gradient: Gradient) -> Sequence[Downstream]:
        settled = gradient.settle()
        signal = settled.signal.transform(total).to_explicit()
        return [replace(settled, layout=x.layout, signal=signal)]

    return Step(output, backward)


def gate(x: Law, y: Law) -> Step:
    """Return the product of two arrays that are independent given what both were made of.

    Raises
    ------
    MissingRuleError
        If they share what they were made of.
    """
    if x.layout != y.layout or not are_grouped_alike(x, y) or not _are_independent(x, y):
        raise MissingRuleError("factors meet that are not independent")
    standing = x.standing.merge(y.standing)
    fresh = x.standing.fresh & ~y.standing.touched if not bool(x.means.any()) else 0
    fresh |= y.standing.fresh & ~x.standing.touched if not bool(y.means.any()) else 0
    own = _find_gated(x, y)
    if own is not None and not fresh:
        # The gate knows what it multiplies by its size alone, which is sure at infinite width.
        standing, fresh = standing.approximate(GATED), own.standing.fresh
    output = Law(
        layout=x.layout,
        field=Field(x.pairs * y.pairs, x.means * y.means, gaussian=False),
        standing=replace(standing, fresh=fresh),
        field_spread=_multiply_spreads(x, y),
    )

    def backward(gradient: Gradient) -> Sequence[Downstream]:
        settled = gradient.settle()
        return [
            replace(
                settled,
                signal=settled.signal * other.pairs,
                standing=settled.standing.inherit(other.standing),
            )
            for other in (y, x)
        ]

    return Step(output, backward)


def _are_independent(x: Law, y: Law) -> bool:
    """Tell whether one has a weight of mean zero that the other has not seen."""
    if _find_gated(x, y) is not None:
        return True
    a, b = x.mixing, y.mixing
    return (
        a is not None
        and b is not None
        and a.projection is b.projection
        and not bool(torch.isin(a.used, b.used).any())
    )


def _find_gated(x: Law, y: Law) -> Law | None:
    """Return the array that has not seen a fresh weight of the other, the gate."""
    first, second = x.standing, y.standing
    if second.fresh & ~first.touched:
        return x
    return y if first.fresh & ~second.touched else None


def _multiply_spreads(x: Law, y: Law) -> Spread:
    """Return the spread of a product: the scatter of both factors, and of the product of units."""
    first, second = x.spread, y.spread
    # Both read the same array below, and scatter with it together.
    shared = 2 * math.sqrt(x.field_spread.kernel * y.field_spread.kernel)
    below = (1 + first.kernel) * (1 + second.kernel) - 1 + shared
    alike = Mixture.sample(x.pairs), Mixture.sample(y.pairs)
    joint = alike[0].correlations.square() * alike[1].correlations.square()
    noise = 4 * alike[0].average_all(1.0, joint) / x.features
    gram = alike[0].average(
        alike[0].correlations.square() * second.gram + alike[1].correlations.square() * first.gram
    )
    return Spread(
        kernel=(1 + below) * (1 + noise) - 1,
        gram=gram + 1 / x.features,
        length=multiply_lengths(x, y),
    )
