"""Choosing some features of an array: slices, selections and splits along an axis of features."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from varprobe.errors import MissingRuleError
from varprobe.theory.fluctuations import Spread
from varprobe.theory.law import Downstream, Gradient, Known, Law, Step
from varprobe.theory.layout import Axis, Dim, Role


def count_around(x: Law, dim: int) -> tuple[int, int, int]:
    """Return how many features lie outside of a dimension, in it, and inside of it."""

    def count(dims: Sequence[Dim]) -> int:
        return math.prod(a.size for d in dims for a in d if a.role is Role.FEATURE)

    dims = x.layout.dims
    return count(dims[:dim]), count(dims[dim : dim + 1]), count(dims[dim + 1 :])


def take_features(x: Law, dim: int, chosen: Tensor, *, keep: bool) -> Step:
    """Return x with only the ``chosen`` indices of a dimension of features, which are alike.

    Parameters
    ----------
    x : Law
        Any array.
    dim : int
        A dimension that holds features alone.
    chosen : Tensor
        Indices along it, each at most once.
    keep : bool
        Whether the dimension stays where one index is left.
    """
    if not x.layout.only(dim, Role.FEATURE):
        raise MissingRuleError("an index into samples, or into features and positions at once")
    outer, size, inner = count_around(x, dim)
    flat = torch.arange(x.features).view(outer, size, inner)[:, chosen].reshape(-1)
    if not len(flat):
        shape = (*x.layout.shape[:dim], 0, *x.layout.shape[dim + 1 :])
        return Step(Known(torch.empty(shape)), None)
    axes: Dim = (Axis(Role.FEATURE, len(chosen)),) if len(chosen) > 1 else ()
    layout = x.layout.replace(dim, axes)
    if not keep:
        layout = replace(layout, dims=(*layout.dims[:dim], *layout.dims[dim + 1 :]))
    # Other features are another array of the same law: it gets a field of its own.
    output = replace(
        x,
        layout=layout,
        field=replace(x.field),
        field_spread=realize_units(x, len(flat)),
        mixing=None if x.mixed is None else x.mixed.take(flat),
    )
    share = len(flat) / x.features

    def backward(gradient: Gradient) -> Sequence[Downstream]:
        return [scatter_features(gradient, x, flat, share)]

    return Step(output, backward)


def realize_units(x: Law, units: int) -> Spread:
    """Return the spread of a field of which only some units are left."""
    spread = x.field_spread
    if not x.is_field or spread.own == 0:
        return spread
    return replace(spread, own=spread.own * x.features / units)


def scatter_features(gradient: Gradient, x: Law, chosen: Tensor, share: float) -> Gradient:
    """Return the gradient of x, zero but at the chosen features."""
    settled = gradient.settle()
    support = None
    if share < 1:
        support = torch.zeros(x.features, dtype=torch.bool)
        support[chosen] = True if settled.support is None else settled.support
    awaited = settled.awaited
    down = replace(
        settled,
        layout=x.layout,
        signal=settled.signal * share,
        support=support,
        awaited=None if awaited is None else awaited.arrive(x.mixed, awaited.gathered),
        products=None if settled.products is None else settled.products * share,
    )
    return down.arrive()
