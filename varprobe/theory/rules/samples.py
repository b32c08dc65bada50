"""Bringing two arrays to one form: samples told apart one by one, sites in groups."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from varprobe.errors import MissingRuleError
from varprobe.theory.expectations import Field
from varprobe.theory.explicit import ExplicitPairs
from varprobe.theory.grouped import REASON, GroupedPairs, group
from varprobe.theory.law import Downstream, Gradient, Law, Step
from varprobe.theory.layout import Axis, Layout, Role
from varprobe.theory.pairs import MOST_EXPLICIT, Pairs, choose_dtype


def tell_apart(x: Law) -> Step:
    """Return x with its samples as positions.

    Raises
    ------
    MissingRuleError
        If samples are not the first dimension, or too many.
    """
    count, sites = x.pairs.samples, x.pairs.positions
    if count == 1:
        return Step(x, lambda gradient: [gradient])
    if x.layout.dims[0] != (Axis(Role.SAMPLE, count),) or count * sites > MOST_EXPLICIT:
        raise MissingRuleError("samples that cannot be told apart")
    dims = ((Axis(Role.POSITION, count),), *x.layout.dims[1:])
    # Not a function of its field any more: that one has fewer positions.
    settled = x.settle()
    output = Law(
        layout=Layout(dims),
        field=Field(_spread(settled.pairs), settled.means.repeat(count), settled.gaussian),
        standing=x.standing,
        field_spread=x.spread,
    )

    def backward(gradient: Gradient) -> Sequence[Downstream]:
        settled = gradient.settle()
        signal = _collect(settled.signal.to_explicit().values[1], count)
        return [replace(settled, layout=x.layout, signal=signal)]

    return Step(output, backward)


def gather_groups(x: Law) -> Step:
    """Return x with its sites in groups, as those of a long sequence."""
    settled = x.settle()
    output = Law(
        layout=x.layout,
        field=Field(group(settled.pairs), settled.means, settled.gaussian),
        standing=x.standing.approximate(REASON),
        field_spread=x.spread,
    )

    def backward(gradient: Gradient) -> Sequence[Downstream]:
        settled = gradient.settle()
        signal = settled.signal.to_explicit().map(lambda v: v.to(choose_dtype(v.shape[-1])))
        return [replace(settled, signal=signal)]

    return Step(output, backward)


def are_grouped_alike(x: Law, y: Law) -> bool:
    """Tell whether both have their sites in groups, or neither."""
    return isinstance(x.pairs, GroupedPairs) == isinstance(y.pairs, GroupedPairs)


def _spread(pairs: Pairs) -> Pairs:
    differ, same = pairs.to_explicit().values
    count = pairs.samples
    own = torch.eye(count, dtype=same.dtype)
    values = torch.kron(own, same) + torch.kron(1 - own, differ)
    values = values.to(choose_dtype(len(values)))
    return ExplicitPairs(torch.stack([torch.zeros_like(values), values]), 1)


def _collect(values: Tensor, count: int) -> Pairs:
    """Return the average over samples, and over pairs of them."""
    sites = len(values) // count
    blocks = values.view(count, sites, count, sites)
    same = torch.einsum("sisj->ij", blocks)
    differ = (blocks.sum((0, 2)) - same) / (count * (count - 1))
    found = torch.stack([differ, same / count])
    return ExplicitPairs(found.to(choose_dtype(sites)), count)


def needs_telling(x: Layout, y: Layout) -> bool:
    """Tell whether x has samples where y has positions."""
    if not x.dims or len(x.dims) != len(y.dims):
        return False
    (first, second) = x.dims[0], y.dims[0]
    sizes = [axis.size for axis in first], [axis.size for axis in second]
    return (
        sizes[0] == sizes[1]
        and {axis.role for axis in first} == {Role.SAMPLE}
        and {axis.role for axis in second} == {Role.POSITION}
    )
