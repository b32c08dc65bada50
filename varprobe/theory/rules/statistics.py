"""Averages over features: sure numbers at infinite width, as in a norm that is written by hand.

The average of a function over many features is its expectation, the same in every draw. What it is
taken off from or what it divides is then an affine map at each position, and the whole a norm.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch

from varprobe.errors import MissingRuleError
from varprobe.theory.expectations import Field
from varprobe.theory.fluctuations import Spread
from varprobe.theory.law import Downstream, Gradient, Known, Law, Noise, Step, Value
from varprobe.theory.layout import Layout, Role
from varprobe.theory.rules.normalization import Affine, check_enough, rescale
from varprobe.theory.rules.reading import default_feature_dim, read_law
from varprobe.theory.rules.registry import rule

aten = torch.ops.aten

PLAIN = Affine(1.0, 0.0, ())


def average_features(x: Law, dim: int, *, keepdim: bool) -> Law:
    """Return the mean over a dimension of features.

    Raises
    ------
    MissingRuleError
        If it holds others, or too few to be sure of their average.
    """
    if not x.layout.only(dim, Role.FEATURE):
        raise MissingRuleError("a reduction over samples, or over features and positions at once")
    check_enough(math.prod(axis.size for axis in x.layout.dims[dim]))
    layout = x.layout.replace(dim, ())
    if not keepdim:
        layout = Layout((*layout.dims[:dim], *layout.dims[dim + 1 :]))
    return _build(x, layout, x.means)


def _build(x: Law, layout: Layout, values: torch.Tensor) -> Law:
    sure = (x.pairs * 0.0).add_product(values, values)
    return Law(
        layout=layout,
        field=Field(sure, values, gaussian=True),
        standing=x.standing,
        field_spread=Spread(),
        statistic=x.field,
    )


@rule(aten.var.correction, aten.var.dim)
def variance(
    x: Value,
    dim: Sequence[int] | int = (),
    unbiased: bool = True,  # noqa: ARG001
    keepdim: bool = False,
    **_: object,
) -> Law:
    """Return the variance over the features."""
    if isinstance(x, Known | Noise):
        x = read_law(x, default_feature_dim(x.shape))
    dims = [dim] if isinstance(dim, int) else list(dim or ())
    if not isinstance(x, Law) or len(dims) != 1:
        raise MissingRuleError("a variance over several dimensions")
    average = average_features(x, dims[0] % len(x.layout.dims), keepdim=keepdim)
    return _build(x, average.layout, x.pairs.second_moments.double() - x.means.square())


def is_statistic(x: object, of: object) -> bool:
    """Tell whether x is an average over the features of another array, by position."""
    if not isinstance(x, Law) or not isinstance(of, Law) or x.statistic is None:
        return False
    return x.statistic is of.field and _fits(x.layout, of.layout)


def _fits(small: Layout, layout: Layout) -> bool:
    pairs = zip(small.dims, layout.dims, strict=True) if len(small.dims) == len(layout.dims) else ()
    found = [a == b or (not a and all(s.role is Role.FEATURE for s in b)) for a, b in pairs]
    return bool(found) and all(found)


def multiply_by_statistic(x: Law, statistic: Law) -> Step:
    """Return x times a function of an average over its features."""
    return _rescale(x, statistic, statistic.means)


def divide_by_statistic(x: Law, statistic: Law) -> Step:
    """Return x divided by a function of an average over its features."""
    return _rescale(x, statistic, 1 / statistic.means)


def _rescale(x: Law, statistic: Law, scales: torch.Tensor) -> Step:
    units = x.features // statistic.layout.count(Role.FEATURE)
    return rescale(x, torch.zeros_like(x.means), scales, PLAIN, units=units, centred=False)


def subtract_statistic(x: Law, statistic: Law, alpha: float) -> Step:
    """Return x less a multiple of an average over its features."""
    settled = x.settle()
    means = settled.means - alpha * statistic.means
    pairs = settled.covariances.add_product(means, means)
    # The average itself stays that of x: what is made of the difference refers to the new field.
    output = replace(x, field=settled.shift(pairs, means), mixing=None)
    if not x.is_field or x.thinning != 1.0:
        output = Law(
            layout=x.layout, field=output.field, standing=x.standing, field_spread=x.spread
        )

    def backward(gradient: Gradient) -> Sequence[Downstream]:
        return [gradient]

    return Step(output, backward)
