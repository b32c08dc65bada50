"""Sending laws along the tape.

Whatever meets something unknown becomes unknown itself, and says after what: nothing is passed
through in silence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch.utils import _pytree as pytree

from varprobe.errors import MissingRuleError
from varprobe.theory.law import (
    Backward,
    Complex,
    Downstream,
    Gradient,
    Ignored,
    Known,
    Law,
    Noise,
    Step,
    Unknown,
    Value,
    Weight,
)
from varprobe.theory.rules.pointwise import apply_pointwise, is_pointwise
from varprobe.theory.rules.pooling import SPATIAL
from varprobe.theory.rules.scores import find_score_rule
from varprobe.theory.rules.shape import PERMUTATIONS, VIEWS
from varprobe.theory.scores import Scores
from varprobe.theory.tracer import Operation, Slot, Tape

aten = torch.ops.aten

NO_RULE = "no rule for this operation"

LOOKS = frozenset({"aten._local_scalar_dense.default", "aten.equal.default"})
"""Operations that hand a number of a tensor to Python, which may choose its way by it."""

LINEAR = frozenset({aten.linear, aten.convolution, *VIEWS, *PERMUTATIONS, *SPATIAL})
"""Operations whose backward pass does not depend on their input."""


@dataclass(slots=True)
class Forward:
    """The value of every tensor on the tape, and how gradients go back through each operation."""

    values: dict[int, Value] = field(default_factory=dict)
    backward: dict[int, Backward | Unknown] = field(default_factory=dict)
    shadows: dict[int, Law] = field(default_factory=dict)
    """Laws of the right layout in place of unknown ones: linear operations send gradients back
    whatever came in."""
    look: str = ""
    """What the model read of one draw; all that ran afterwards may follow from it."""


def propagate(tape: Tape, sources: Mapping[int, Value]) -> Forward:
    """Return the laws of all tensors.

    Parameters
    ----------
    tape : Tape
        What the model did.
    sources : mapping
        Values of the parameters, buffers and inputs.
    """
    forward = Forward()
    for number, tensor in tape.sources.items():
        forward.values[number] = sources.get(number, Known(tensor))
    overwritten = Unknown("its memory was written to through another view", "in-place operation")
    forward.values.update(dict.fromkeys(tape.lost, overwritten))
    for index, operation in enumerate(tape.operations):
        forward.look = forward.look or _find_look(operation, forward.values)
        result = _apply(operation, forward.values)
        outputs = _spread_outputs(operation, result, tape)
        forward.values.update({n: _doubt(value, forward.look) for n, value in outputs.items()})
        if isinstance(result, Step):
            back = result.backward
        elif isinstance(result, Unknown):
            back = None
        else:
            back = _pass_through(operation, forward.values, result)
        if isinstance(result, Unknown) and result.tainted:
            back = _shadow(operation, forward, tape)
        reason = result if isinstance(result, Unknown) else Unknown(NO_RULE, operation.name)
        forward.backward[index] = back or replace(reason, tainted=False)
    return forward


def _find_look(operation: Operation, values: Mapping[int, Value]) -> str:
    """Return what an operation tells Python of numbers that another draw would not have."""
    if operation.name not in LOOKS:
        return ""
    slots = [leaf for leaf in _leaves(operation) if isinstance(leaf, Slot)]
    if all(isinstance(values[slot.value], Known) for slot in slots):
        return ""
    return f"the model read numbers of one draw ({operation.name}), and may have acted on them"


def _doubt(value: Value, look: str) -> Value:
    if look and isinstance(value, Law):
        return replace(value, standing=value.standing.approximate(look))
    return value


def _shadow(operation: Operation, forward: Forward, tape: Tape) -> Backward | None:
    """Return how gradients go back through a linear operation on an array without a law."""
    if operation.op is None or operation.op.overloadpacket not in LINEAR:
        return None

    def stand_in(slot: Slot) -> Value:
        value = forward.values[slot.value]
        if not isinstance(value, Unknown):
            return value
        return forward.shadows.get(slot.value, Noise(tape.shapes[slot.value]))

    args, kwargs = pytree.tree_map_only(Slot, stand_in, (operation.args, operation.kwargs))
    try:
        step = operation.rule(*args, **kwargs) if operation.rule else None
    except MissingRuleError:
        return None
    if not isinstance(step, Step) or not isinstance(step.output, Law) or step.backward is None:
        return None
    (output,) = operation.outputs
    forward.shadows[output] = step.output
    known = step.backward

    def backward(gradient: Gradient) -> Sequence[Downstream]:
        # The gradient of the weight needs the input; those of the input and the bias do not.
        found = list(known(gradient))
        missing = Unknown("its input has no law", operation.name, tainted=True)
        return [missing if i == 1 else part for i, part in enumerate(found)]

    return backward


def _apply(operation: Operation, values: Mapping[int, Value]) -> Any:
    slots = [leaf for leaf in _leaves(operation) if isinstance(leaf, Slot)]
    given = [values[slot.value] for slot in slots]
    unknown = next((value for value in given if isinstance(value, Unknown)), None)
    if unknown is not None:
        return unknown.taint()
    args, kwargs = pytree.tree_map_only(
        Slot, lambda slot: values[slot.value], (operation.args, operation.kwargs)
    )
    if not any(isinstance(value, Law | Weight | Noise | Scores | Complex) for value in given):
        known = operation.op is not None and all(isinstance(value, Known) for value in given)
        return _fold(operation, args, kwargs) if known else Ignored()
    op, rule = operation.op, operation.rule
    holds_scores = any(isinstance(value, Scores) for value in given)
    if holds_scores and op is not None:
        rule = find_score_rule(op)
    try:
        if rule is not None:
            return rule(*args, **kwargs)
        if not holds_scores and op is not None and is_pointwise(op):
            return apply_pointwise(op, args, kwargs)
    except MissingRuleError as error:
        return Unknown(str(error), operation.name)
    return Unknown(NO_RULE, operation.name)


def _fold(operation: Operation, args: Any, kwargs: Any) -> Any:
    """Compute what depends on given numbers alone."""
    assert operation.op is not None
    if torch.Tag.nondeterministic_seeded in operation.op.tags:
        return Ignored()
    # The numbers may be the model's own: what is written to is a copy of them.
    written = operation.op._schema.is_mutable
    args, kwargs = pytree.tree_map_only(
        Known, lambda known: known.tensor.clone() if written else known.tensor, (args, kwargs)
    )
    if any(leaf.is_meta for leaf in pytree.tree_leaves((args, kwargs)) if _is_tensor(leaf)):
        return Ignored()
    with torch.no_grad():
        result = operation.op(*args, **kwargs)
    return pytree.tree_map_only(torch.Tensor, Known, result)


def _is_tensor(leaf: object) -> bool:
    return isinstance(leaf, torch.Tensor)


def _leaves(operation: Operation) -> list[Any]:
    leaves: list[Any] = pytree.tree_leaves((operation.args, operation.kwargs))
    return leaves


def _spread_outputs(operation: Operation, result: Any, tape: Tape) -> dict[int, Value]:
    value = result.output if isinstance(result, Step) else result
    parts = list(value) if isinstance(value, tuple | list) else [value]
    rest = value if isinstance(value, Unknown) else Ignored()
    parts += [rest] * (len(operation.outputs) - len(parts))
    found: dict[int, Value] = {}
    for number, part in zip(operation.outputs, parts, strict=False):
        if isinstance(part, Law | Scores) and part.layout.shape != tape.shapes[number]:
            part = Unknown(f"the rule gives shape {part.layout.shape}", operation.name)
        if isinstance(part, Unknown | Ignored) and not tape.carries_signal(number):
            part = Ignored(tape.shapes[number])
        if isinstance(part, Law) and isinstance(result, Step) and not operation.grad:
            part = replace(part)
        found[number] = part
    return found


def _pass_through(
    operation: Operation, values: Mapping[int, Value], result: object
) -> Backward | None:
    """Return how gradients go back if the output is one of the arguments itself."""
    slots = [leaf for leaf in _leaves(operation) if isinstance(leaf, Slot)]
    same = [values[slot.value] is result for slot in slots]
    if not any(same):
        return None
    return lambda gradient: [gradient if hit else None for hit in same]
