"""LSTM, GRU and plain recurrent layers over whole sequences (`varprobe.theory.recurrent`)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch

from varprobe.errors import MissingRuleError
from varprobe.theory.law import Downstream, Gradient, Known, Law, Noise, Step, Value, Weight
from varprobe.theory.layout import Role
from varprobe.theory.recurrent.cells import GRU, LSTM, RELU, TANH, Cell
from varprobe.theory.recurrent.direction import Weights
from varprobe.theory.rules.broadcast import keep
from varprobe.theory.rules.linear import shape_linear
from varprobe.theory.rules.reading import read_law
from varprobe.theory.rules.recurrent_stack import Call, Stack
from varprobe.theory.rules.registry import rule
from varprobe.theory.rules.samples import tell_apart
from varprobe.theory.rules.shape import relocate

aten = torch.ops.aten


def _recur(
    cell: Cell,
    x: Value,
    start: Value | Sequence[Value],
    params: Sequence[Value],
    has_biases: bool,
    num_layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
) -> Step:
    """Return the states of the last layer after all steps, and the last states of all layers."""
    weights = _read_weights(params, has_biases, num_layers, 2 if bidirectional else 1)
    starts = start if isinstance(start, Sequence) else [start]
    call = Call(cell, weights, starts, 1 - dropout if train else 1.0)
    return _run(call, x, batch_first=batch_first)


for _packet, _cell in (
    (aten.lstm, LSTM),
    (aten.gru, GRU),
    (aten.rnn_tanh, TANH),
    (aten.rnn_relu, RELU),
):
    # Packed sequences are another overload.
    rule(_packet.input)(partial(_recur, _cell))


def _read_weights(
    params: Sequence[Value], has_biases: bool, layers: int, directions: int
) -> list[list[Weights]]:
    """Return the parameters by layer and direction."""
    found = [parameter for parameter in params if isinstance(parameter, Weight)]
    if len(found) < len(params):
        raise MissingRuleError("the weights of the recurrent layer are not all parameters")
    each = len(params) // (layers * directions)
    biases = 2 if has_biases else 0
    groups = [found[i : i + each] for i in range(0, len(found), each)]
    every = [
        Weights(g[0], g[1], tuple(g[2 : 2 + biases]), g[2 + biases] if each > 2 + biases else None)
        for g in groups
    ]
    return [every[i : i + directions] for i in range(0, len(every), directions)]


def _run(call: Call, x: Value, *, batch_first: bool) -> Step:
    """Return the step of one operation; inside, the batch comes first."""
    if not batch_first and isinstance(x, Known):
        x = Known(x.tensor.transpose(0, 1))
    elif not batch_first and isinstance(x, Noise):
        x = Noise((x.shape[1], x.shape[0], *x.shape[2:]))
    inside = _turn(read_law(x, feature_dim=-1), swapped=not batch_first and isinstance(x, Law))
    law = inside[-1].output
    assert isinstance(law, Law)
    matrix = call.weights[0][0].from_input
    stack = Stack(call, law, shape_linear(law, matrix.shape[0]))
    outside = [keep(stack.shown) if batch_first else _swap(stack.shown)]

    def backward(above: Gradient | None, *last: Gradient | None) -> Sequence[Downstream]:
        down, rest = stack.send_back(_pass(outside, above), last)
        return [_pass(inside, down), *rest]

    return Step((outside[0].output, *stack.last), backward)  # type: ignore[arg-type]


def _turn(law: Law, *, swapped: bool) -> list[Step]:
    """Return what brings the batch before the steps, and tells the steps apart."""
    if not swapped:
        return [keep(law)]
    # Where nobody said which dimension is time, the first one was taken for the samples.
    told = tell_apart(law) if law.layout.dims[0] and law.layout.only(0, Role.SAMPLE) else keep(law)
    assert isinstance(told.output, Law)
    return [told, _swap(told.output)]


def _pass(steps: Sequence[Step], gradient: Gradient | None) -> Gradient | None:
    """Return the gradient behind steps that only move elements."""
    for step in reversed(steps):
        if gradient is None or step.backward is None:
            return None
        (found,) = step.backward(gradient)
        assert isinstance(found, Gradient)
        gradient = found
    return gradient


def _swap(law: Law) -> Step:
    """Return the law with batch and time in the other order."""
    layout, index = law.layout.permute((1, 0, 2))
    return relocate(law, layout, index)
