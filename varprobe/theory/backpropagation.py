"""Sending gradients back along the tape, and adding up those that meet."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from torch.utils import _pytree as pytree

from varprobe.errors import MissingRuleError
from varprobe.theory.fluctuations import GradientSpread
from varprobe.theory.law import Backward, Gradient, Law, Noise, Unknown, Value, WeightGradient
from varprobe.theory.layout import Role
from varprobe.theory.parts import add_parts
from varprobe.theory.propagation import Forward
from varprobe.theory.rules.contraction import realize_gradient
from varprobe.theory.rules.reading import default_feature_dim, read_law
from varprobe.theory.tracer import Slot, Tape

Arriving = Gradient | WeightGradient | Unknown


def pull_back(
    tape: Tape, forward: Forward, results: Sequence[int], needs_grad: Callable[[int], bool]
) -> dict[int, Arriving]:
    """Return the law of the gradient of every value, from iid N(0, 1) gradients of the results."""
    arrived: dict[int, Arriving] = {}
    for number in dict.fromkeys(results):
        value = forward.values[number]
        if needs_grad(number):
            shadow = forward.shadows.get(number)
            arrived[number] = _draw_cotangent(
                value if shadow is None else shadow, tape.shapes[number]
            )
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
    assert isinstance(first, Gradient)
    assert isinstance(second, Gradient)
    merged = _add_factors(first, second) or add_parts(first, second)
    if merged is not None:
        return merged
    if not first.standing.is_uncorrelated(second.standing):
        return Unknown("branches meet that are not independent", "sum of gradients", tainted=True)
    parts = first.settle(), second.settle()
    sizes = [part.signal.mean for part in parts]
    total = max(sum(sizes), 1e-300)
    shares = [size / total for size in sizes]
    spreads = [realize_gradient(part) for part in parts]
    main = spreads[shares.index(max(shares))]
    # Both come from the same gradient above and scatter together.
    deviation = sum(
        share * math.sqrt(spread.kernel) for share, spread in zip(shares, spreads, strict=True)
    )
    projected = sum(s * p.projected for s, p in zip(shares, spreads, strict=True))
    gram = sum(share**2 * spread.gram for share, spread in zip(shares, spreads, strict=True))
    gram += 2 * shares[0] * shares[1] / first.layout.count(Role.FEATURE)
    joined = replace(main, kernel=deviation**2, own=0.0, gram=gram, projected=projected)
    return Gradient(
        layout=first.layout,
        signal=parts[0].signal + parts[1].signal,
        standing=first.standing.add(second.standing),
        signal_spread=joined,
    )


def _add_factors(first: Gradient, second: Gradient) -> Gradient | None:
    """Return the sum of two gradients that are one signal times functions of one field."""
    a, b = first.factor, second.factor
    if first.signal is not second.signal or (a is None) != (b is None):
        return None
    if a is None or b is None:
        return replace(first, signal=first.signal * 4.0)
    if a.field is not b.field or a.square is not None or b.square is not None:
        return None
    return replace(first, factor=replace(a, mean=a.mean + b.mean))
