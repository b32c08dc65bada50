"""Weighing the features of a layer by position and adding them up: rotary positions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from varprobe.errors import MissingRuleError
from varprobe.theory.expectations import Field
from varprobe.theory.law import Downstream, Gradient, Law, Step
from varprobe.theory.layout import Layout, Role
from varprobe.theory.mixing import Mixing
from varprobe.theory.pointwise import IDENTITY
from varprobe.theory.standing import Standing

AVERAGED = "features that differ from each other, averaged"

ROUNDING = 1e-18
"""Share of a second moment below which the square of a mean is zero."""


def read_table(table: Tensor, layout: Layout) -> Tensor:
    """Return given factors of the elements of an array by position and innermost feature.

    Returns
    -------
    Tensor
        Shape (P, c) or (1, c), float32; c is the size of the last dimension, or 1.

    Raises
    ------
    MissingRuleError
        If samples or heads get different factors.
    """
    found = table.detach().float().cpu()
    found = found.reshape([1] * (len(layout.dims) - found.dim()) + list(found.shape))
    last = len(layout.dims) - 1
    for dim, axes in enumerate(layout.dims):
        roles = {axis.role for axis in axes}
        if found.shape[dim] == 1 or roles == {Role.POSITION}:
            continue
        if dim == last and roles == {Role.FEATURE}:
            continue
        first = found.narrow(dim, 0, 1)
        if not bool((found == first).all()):
            raise MissingRuleError("given factors that differ between samples or features")
        found = first
    period = found.shape[last] if layout.only(last, Role.FEATURE) else 1
    if period == 1 and found.shape[last] > 1:
        found = found.unsqueeze(-1)
    lead = found.shape[: len(layout.dims)]
    if all(size == 1 for size in (lead if period == 1 else lead[:-1])):
        return found.reshape(1, period)
    sizes = [layout.positions_of(d) for d in range(len(layout.dims))]
    if period > 1:
        return found.expand(*sizes[:-1], period).reshape(-1, period)
    return found.reshape(lead).expand(sizes).reshape(-1, 1)


def build_mixed(mixing: Mixing, layout: Layout, like: Law, standing: Standing) -> Law:
    """Return the array that is a sum of weighed features of a layer."""
    pairs = mixing.pairs()
    if mixing.index is None:
        standing = standing.approximate(AVERAGED)
    return Law(
        layout=layout,
        field=Field(
            pairs,
            torch.zeros(pairs.positions, dtype=torch.float64),
            gaussian=mixing.index is not None,
        ),
        standing=standing,
        field_spread=like.spread,
        mixing=mixing,
    )


def weigh_by_table(x: Law, table: Tensor) -> Step:
    """Return x times given numbers."""
    weights = read_table(table, x.layout)
    mixing = x.mixed
    if mixing is not None and is_centred(x):
        mixed = mixing.weigh(weights, IDENTITY)
        output = build_mixed(mixed, x.layout, x, x.standing)
    elif weights.shape[1] == 1:
        output = _scale_positions(x, weights)
    else:
        raise MissingRuleError("given factors that differ between features")

    def backward(gradient: Gradient) -> Sequence[Downstream]:
        settled = gradient.settle()
        signal = settled.signal
        rows = weights.expand(signal.positions, -1)
        kernel = signal.outer(rows, rows) / weights.shape[1]
        return [hand_on(settled, x, signal=replace(signal, values=signal.values * kernel))]

    return Step(output, backward)


def is_centred(x: Law) -> bool:
    """Tell whether all means are zero up to rounding."""
    return bool((x.means.square() <= ROUNDING * x.pairs.second_moments).all())


def _scale_positions(x: Law, weights: Tensor) -> Law:
    settled = x.settle()
    rows = weights[:, 0].expand(settled.pairs.positions)
    return Law(
        layout=x.layout,
        field=Field(settled.pairs.scale(rows), settled.means * rows, settled.gaussian),
        standing=x.standing,
        field_spread=x.spread,
    )


def hand_on(gradient: Gradient, x: Law, **changes: object) -> Gradient:
    """Return the gradient of an operand of which all summands went into the result."""
    awaited = gradient.awaited
    if awaited is not None:
        awaited = awaited.arrive(x.mixed, awaited.gathered)
    down: Gradient = replace(gradient, layout=x.layout, awaited=awaited, **changes)  # type: ignore[arg-type]
    return down.arrive()


def carry(step: Step, x: Law, factor: float) -> Step:
    """Let the result of a pointwise operation that multiplies by a number remember its features."""
    mixing, inner, output = x.mixed, step.backward, step.output
    if mixing is None or inner is None or not isinstance(output, Law):
        return step
    weights = torch.full((1, 1), factor)
    mixed = mixing.weigh(weights, output.function)

    def backward(gradient: Gradient) -> Sequence[Downstream]:
        return [
            hand_on(down, x) if isinstance(down, Gradient) else down for down in inner(gradient)
        ]

    return Step(replace(output, mixing=mixed), backward)


def add_mixed(x: Law, y: Law, alpha: float) -> Step | None:
    """Return x + alpha y if both are sums of weighed features of one layer, else None."""
    first, second = x.mixed, y.mixed
    if first is None or second is None or x.layout != y.layout or not first.adds_to(second):
        return None
    if not (is_centred(x) and is_centred(y)):
        return None
    if alpha != 1.0:
        second = second.weigh(torch.full((1, 1), alpha), IDENTITY)
    mixed = replace(first, terms=(*first.terms, *second.terms), function=IDENTITY)
    standing = x.standing.add(y.standing)
    output = build_mixed(mixed, x.layout, x, standing)

    def backward(gradient: Gradient) -> Sequence[Downstream]:
        settled = gradient.settle()
        found = []
        for law, factor in ((x, 1.0), (y, alpha)):
            awaited = settled.awaited
            if awaited is not None and law.mixed is not None:
                share = awaited.share_among(law.mixed, mixed)
                awaited = awaited.arrive(law.mixed, share)
            part = replace(settled, signal=settled.signal * factor**2, awaited=awaited)
            found.append(part.arrive())
        return found

    return Step(output, backward)
