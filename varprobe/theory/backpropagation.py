"""Sending gradients back along the tape, and adding up those that meet."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from torch.utils import _pytree as pytree

from varprobe.errors import MissingRuleError
from varprobe.theory.factors import Factor
from varprobe.theory.fluctuations import GradientSpread
from varprobe.theory.law import (
    Backward,
    Gradient,
    Law,
    Noise,
    Unknown,
    Value,
    WeightGradient,
    join_signals,
)
from varprobe.theory.parts import add_parts, join_gradients
from varprobe.theory.propagation import Forward
from varprobe.theory.rules.reading import default_feature_dim, read_law
from varprobe.theory.scores import ScoresGradient
from varprobe.theory.tracer import Slot, Tape

MOST_PARTS = 4
"""Parts of a gradient with factors of their own that are told apart."""

Arriving = Gradient | WeightGradient | ScoresGradient | Unknown


def pull_back(
    tape: Tape, forward: Forward, results: Sequence[int], needs_grad: Callable[[int], bool]
) -> dict[int, Arriving]:
    """Return the law of the gradient of every value, from iid N(0, 1) gradients of the results."""
    arrived: dict[int, Arriving] = {}
    for number in dict.fromkeys(results):
        value = forward.values[number]
        if needs_grad(number):
            shadow = forward.shadows.get(number)
            cotangent = _draw_cotangent(value if shadow is None else shadow, tape.shapes[number])
            if forward.look:
                standing = cotangent.standing.approximate(forward.look)
                cotangent = replace(cotangent, standing=standing)
            arrived[number] = cotangent
    for index in range(len(tape.operations) - 1, -1, -1):
        operation = tape.operations[index]
        incoming = [arrived.get(number) for number in operation.outputs]
        if not operation.grad or all(gradient is None for gradient in incoming):
            continue
        numbers = [
            leaf.value
            for leaf in pytree.tree_leaves((operation.args, operation.kwargs))
            if isinstance(leaf, Slot)
        ]
        for number, gradient in zip(
            numbers, _send(forward.backward[index], incoming, len(numbers)), strict=True
        ):
            if gradient is None:
                continue
            (*lost, number) = tape.trace_back(number)
            if lost:
                gradient = Unknown("its memory was written to through another view", "backward")
                gradient = gradient.taint()
            if not needs_grad(number):
                continue
            known = arrived.get(number)
            arrived[number] = gradient if known is None else add_gradients(known, gradient)
    return arrived


def _send(
    backward: Backward | Unknown, incoming: Sequence[Any], count: int
) -> Sequence[Arriving | None]:
    unknown = next((g for g in incoming if isinstance(g, Unknown)), None)
    if unknown is not None:
        return [unknown.taint()] * count
    if isinstance(backward, Unknown):
        return [backward.taint()] * count
    try:
        found = list(backward(*incoming))
    except MissingRuleError as error:
        return [Unknown(str(error), "backward").taint()] * count
    return [*found, *[None] * (count - len(found))]


def _draw_cotangent(value: Value, shape: tuple[int, ...]) -> Gradient:
    """Return independent N(0, 1) gradients of an output, whether it has a law or not."""
    if not isinstance(value, Law):
        value = read_law(Noise(shape), default_feature_dim(shape))
    signal = value.pairs.unit()
    spread = GradientSpread(own=2 / value.elements)
    return Gradient(layout=value.layout, signal=signal, signal_spread=spread)


def add_gradients(first: Arriving, second: Arriving) -> Arriving:
    """Return the law of the sum of two gradients that arrive at one tensor."""
    for gradient in (first, second):
        if isinstance(gradient, Unknown):
            return gradient
    if isinstance(first, WeightGradient) and isinstance(second, WeightGradient):
        standing = first.standing.merge(second.standing)
        return WeightGradient(
            first.second_moment + second.second_moment,
            first.spread,
            standing.approximate("weights are used more than once"),
        )
    if not isinstance(first, Gradient) or not isinstance(second, Gradient):
        reason = "attention weights are read more than once"
        return Unknown(reason, "sum of gradients", tainted=True)
    merged = _add_factors(first, second) or add_parts(first, second)
    if merged is not None:
        return merged
    if not first.standing.is_uncorrelated(second.standing):
        return Unknown("branches meet that are not independent", "sum of gradients", tainted=True)
    factors = [part.factor for part in (*first.parts, *second.parts) if part.factor is not None]
    fields = {id(factor.field): factor.field for factor in factors}
    if len(fields) == 1:
        (field,) = fields.values()
        kept = _bound_parts([p for g in (first, second) for p in g.look_at(field).parts])
    else:
        kept = [join_gradients(first.settle(), second.settle())]
    standing = first.standing.add(second.standing)
    both = first.orthogonal and second.orthogonal
    return Gradient.join([replace(part, standing=standing, orthogonal=both) for part in kept])


def _bound_parts(parts: Sequence[Gradient]) -> list[Gradient]:
    """Return the parts with a factor, as many as are told apart, and what has none as one."""
    loose = [part for part in parts if part.factor is None]
    kept = [part for part in parts if part.factor is not None]
    while len(kept) > MOST_PARTS:
        # The first have come through the same branches for longest, and are most alike.
        kept = [_mix(*kept[:2]), *kept[2:]]
    return [*kept, *([functools.reduce(join_gradients, loose)] if loose else [])]


def _mix(first: Gradient, second: Gradient) -> Gradient:
    """Return the sum of two parts as one, with a factor for what they were multiplied with."""
    factor = _mix_factors(first, second)
    return replace(
        first,
        signal=factor.divide(first.pairs + second.pairs),
        factor=factor,
        signal_spread=join_signals([first, second]),
    )


def _mix_factors(first: Gradient, second: Gradient) -> Factor:
    """Return the factor of a sum of two gradients: its square is the average of theirs.

    One gradient may be larger at each position, the other where positions go together (below a
    global pooling, say): the average is taken for either by itself.
    """
    one, other = first.factor, second.factor
    assert one is not None
    assert other is not None
    alone = first.signal.mean, second.signal.mean
    together = first.signal.size_apart(), second.signal.size_apart()
    roots = [f.mean if f.square is None else f.square.root() for f in (one, other)]
    mixed = roots[0].mix(roots[1], alone)
    mean = one.mean.mix(other.mean, together) if sum(together) else mixed
    return Factor(field=one.field, mean=mean, square=mixed * mixed, growing=one.growing)


def _add_factors(first: Gradient, second: Gradient) -> Gradient | None:
    """Return the sum of two gradients that are one signal times functions of one field."""
    a, b = first.factor, second.factor
    if first.signal is not second.signal or first.rest or second.rest or (a is None) != (b is None):
        return None
    if a is None or b is None:
        return replace(first, signal=first.signal * 4.0)
    if a.field is not b.field or a.square is not None or b.square is not None:
        return None
    return replace(first, factor=replace(a, mean=a.mean + b.mean))
