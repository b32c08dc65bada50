"""Sums and products in which branches of the network meet."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from varprobe.errors import MissingRuleError
from varprobe.theory.expectations import Field
from varprobe.theory.fluctuations import (
    Mixture,
    Spread,
    average_apart,
    follow,
    realize,
    share_tilt,
)
from varprobe.theory.law import Downstream, Gradient, Known, Law, Noise, Step, Value
from varprobe.theory.lengths import add_lengths, add_loose
from varprobe.theory.pointwise import IDENTITY, scale_by
from varprobe.theory.roots import Roots, add_roots, covary, scale_roots, separate
from varprobe.theory.rules.broadcast import align
from varprobe.theory.rules.mixtures import add_mixed
from varprobe.theory.rules.pointwise import apply_pointwise
from varprobe.theory.rules.reading import read_like
from varprobe.theory.rules.registry import rule
from varprobe.theory.rules.statistics import is_statistic, subtract_statistic
from varprobe.theory.superposition import superpose

aten = torch.ops.aten

APPROXIMATE = "a sum of functions of Gaussian arrays: Gaussian copula"


@rule(aten.add.Tensor, aten.add_.Tensor)
def add(x: Value, y: Value, alpha: float = 1.0) -> Step:
    """Return x + alpha y."""
    return _aligned(x, y, alpha) or apply_pointwise(aten.add.Tensor, (x, y), {"alpha": alpha})


@rule(aten.sub.Tensor, aten.sub_.Tensor)
def subtract(x: Value, y: Value, alpha: float = 1.0) -> Step:
    """Return x - alpha y."""
    return _aligned(x, y, -alpha) or apply_pointwise(aten.sub.Tensor, (x, y), {"alpha": alpha})


def _aligned(x: Value, y: Value, alpha: float) -> Step | None:
    """Return the sum of two arrays that are not functions of one field, None if there are none."""
    if isinstance(x, Law) and isinstance(y, Law) and is_statistic(y, x):
        return subtract_statistic(x, y, -alpha)
    steps = align(x, y)
    if steps is None:
        branches = _as_branches(x, y)
        return None if branches is None else _sum(*branches, alpha)
    first, second = steps
    total = _sum(first.output, second.output, alpha)  # type: ignore[arg-type]

    def backward(gradient: Gradient) -> Sequence[Downstream]:
        parts = total.backward(gradient)  # type: ignore[misc]
        return [step.backward(part)[0] for step, part in zip(steps, parts, strict=True)]  # type: ignore[misc]

    return Step(total.output, backward)


def _sum(x: Law, y: Law, alpha: float) -> Step:
    return add_mixed(x, y, alpha) or add_branches(x, y, alpha)


def _as_branches(x: Any, y: Any) -> tuple[Law, Law] | None:
    """Return both as laws, if they are arrays that are not functions of one field."""
    if isinstance(x, Law) and _is_array(y, x):
        y = read_like(y, x)
    elif isinstance(y, Law) and _is_array(x, y):
        x = read_like(x, y)
    if isinstance(x, Law) and isinstance(y, Law) and x.field is not y.field:
        return x, y
    return None


def _is_array(value: Any, law: Law) -> bool:
    return isinstance(value, Known | Noise) and value.shape == law.layout.shape != ()


def add_branches(x: Law, y: Law, alpha: float) -> Step:
    """Return the sum of two arrays that are uncorrelated up to their means.

    Raises
    ------
    MissingRuleError
        If no weight of mean zero stands between them.
    """
    if x.layout != y.layout or not x.standing.is_uncorrelated(y.standing):
        raise MissingRuleError("branches meet that are not independent")
    zero = _add_nothing(x, y, alpha)
    if zero is not None:
        return zero
    first, second = x.settle(), y.settle()
    pairs = first.pairs + second.pairs * alpha**2
    pairs = pairs.add_product(first.means, second.means, alpha)
    pairs = pairs.add_product(second.means, first.means, alpha)
    means = first.means + alpha * second.means
    standing = x.standing.add(y.standing)
    branches = _realize(x), _realize(y)
    scatter = math.expm1(separate(*(spread.roots for spread in branches)))
    found = superpose(x, y, alpha, pairs, means, scatter)
    output = Law(
        layout=x.layout,
        field=Field(pairs, means, gaussian=False) if found is None else found.field,
        function=IDENTITY if found is None else found.function,
        standing=standing,
        field_spread=_join_spreads(x, y, alpha, branches),
    )
    if not output.is_field:
        output = replace(output, standing=standing.approximate(APPROXIMATE))

    def backward(gradient: Gradient) -> Sequence[Downstream]:
        sides = [
            gradient if found is None or not _looks_inside(law) else found.share(gradient, index)
            for index, law in enumerate((x, y))
        ]
        if alpha != 1.0:
            sides[1] = sides[1].times(y.field, scale_by(alpha))
        total = max(output.pairs.mean, 1e-300)
        return [
            _turn_spread(
                replace(side, orthogonal=False), law, scale * law.pairs.mean / total, output
            )
            for side, law, scale in zip(sides, (x, y), (1.0, alpha**2), strict=True)
        ]

    return Step(output, backward)


def _add_nothing(x: Law, y: Law, alpha: float) -> Step | None:
    """Return the sum if one branch is zero, as where the last weight of a branch starts there."""
    if not y.pairs.mean:
        law = x
    elif not x.pairs.mean and alpha == 1.0:
        law = y
    else:
        return None
    standing = replace(x.standing.merge(y.standing), fresh=law.standing.fresh)

    def backward(gradient: Gradient) -> Sequence[Downstream]:
        return [gradient, gradient.times(y.field, scale_by(alpha)) if alpha != 1.0 else gradient]

    return Step(replace(law, standing=standing), backward)


def _looks_inside(law: Law) -> bool:
    """Tell whether what made an array asks how its gradient depends on it: a function, a norm."""
    return not law.is_gaussian or law.field_spread.pinned


def _turn_spread(gradient: Gradient, branch: Law, share: float, total: Law) -> Gradient:
    """Return the gradient of the sum as that of a branch."""
    if gradient.factor is not None or gradient.rest is not None:
        return gradient
    spread = share_tilt(gradient.signal_spread, share, total.field_spread, branch.spread)
    return replace(gradient, signal_spread=spread)


def _join_spreads(x: Law, y: Law, alpha: float, branches: tuple[Spread, Spread]) -> Spread:
    """Return the spread of a sum, given those of the Gram matrices that its summands have."""
    sizes = x.pairs.mean, y.pairs.mean * alpha**2
    total = max(sum(sizes), 1e-300)
    first, second = (size / total for size in sizes)
    squares = list(zip((first**2, second**2), (x.spread, y.spread), strict=True))
    alike = Mixture.sample(x.pairs), Mixture.sample(y.pairs)
    product = alike[0].average_all(1.0, alike[0].correlations * alike[1].correlations)
    own = sum(square * spread.own for square, spread in squares)
    return Spread(
        kernel=sum(square * spread.kernel for square, spread in squares)
        + 2 * first * second * math.expm1(max(0.0, covary(*(s.roots for s in branches)))),
        own=own + 4 * first * second * product / x.features,
        gram=sum(square * spread.gram for square, spread in squares),
        length=add_lengths([(sizes[0], x), (sizes[1], y)]),
        loose=add_loose([(sizes[0], x), (sizes[1], y)]),
        roots=follow(branches, (first, second)).roots,
        modes=_join_modes(x, y, alpha),
        branches=branches,
    )


def _join_modes(x: Law, y: Law, alpha: float) -> Roots | None:
    """Return the deviations of what different positions of a sum have in common.

    Without those of the sum's own units, which every sum over its positions adds anew.
    """
    apart = average_apart(x.pairs), average_apart(y.pairs) * alpha**2
    if min(apart) < 0 or not sum(apart):
        return None
    shares = [size / sum(apart) for size in apart]
    first, second = (
        scale_roots(law.spread.common, share) for law, share in zip((x, y), shares, strict=True)
    )
    return add_roots(first, second)


def _realize(law: Law) -> Spread:
    return realize(law.spread, law.pairs, law.features)
