"""Linear layers and convolutions over several draws, held to the scale that theory expects.

Given its input, a layer with independent weights of variance v has the output v Σ x² on average
over the weights, and given the gradient above it, v Σ g² goes down. Draws scatter about that by
sqrt(2 / units), and through a deep network the factors of all layers multiply. Here all draws of a
layer are scaled by one number, so that together they have the average that theory knows exactly;
how far the draws lie apart is left as it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from varprobe.theory.law import Weight
from varprobe.theory.rules.contraction import FEWEST
from varprobe.theory.tracer import Operation, Slot
from varprobe.theory.weight_means import significant_mean

aten = torch.ops.aten

OPERANDS = {
    aten.linear: (0, 1, 2),
    aten.convolution: (0, 1, 2),
    aten.conv1d: (0, 1, 2),
    aten.conv2d: (0, 1, 2),
    aten.conv3d: (0, 1, 2),
    aten.addmm: (1, 2, 0),
}
"""Where input, weight and bias stand among the arguments of each operation."""

Run = Callable[[Tensor, Tensor, Tensor | None], Tensor]


class Contraction:
    """One operation of the tape with a fresh weight of mean zero."""

    def __init__(self, operation: Operation, variance: float) -> None:
        self._operation = operation
        self._variance = variance

    def __call__(
        self,
        inputs: Sequence[Tensor],
        weights: Sequence[Tensor],
        biases: Sequence[Tensor | None],
    ) -> list[Tensor]:
        """Return the output of each draw; the weights are scaled in place."""
        with torch.no_grad():
            factor = self._balance_forward(inputs, weights)
            for weight in weights:
                weight.mul_(factor)
        given = [b for b in biases if b is not None]
        outputs: Sequence[Tensor] = _AllDraws.apply(  # type: ignore[no-untyped-call]
            self, len(inputs), *inputs, *weights, *given
        )
        return list(outputs)

    def run(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Run the operation on one draw."""
        assert self._operation.op is not None
        args = list(self._operation.args)
        places = OPERANDS[self._operation.op.overloadpacket]
        for place, tensor in zip(places, (x, weight, bias), strict=True):
            if place < len(args):
                args[place] = tensor
        result: Tensor = self._operation.op(*args, **self._operation.kwargs)
        return result

    def _run_without_bias(self, x: Tensor, weight: Tensor) -> Tensor:
        assert self._operation.op is not None
        if self._operation.op.overloadpacket is aten.addmm:
            return x @ weight
        return self.run(x, weight, None)

    def _balance_forward(self, inputs: Sequence[Tensor], weights: Sequence[Tensor]) -> float:
        expected = torch.full_like(weights[0], self._variance)
        found = wanted = 0.0
        for x, weight in zip(inputs, weights, strict=True):
            found += float(self._run_without_bias(x, weight).double().square().sum())
            wanted += float(self._run_without_bias(x.square(), expected).double().sum())
        return _divide(wanted, found)

    def balance_backward(
        self, inputs: Sequence[Tensor], weight: Tensor, above: Sequence[Tensor], found: float
    ) -> float:
        """Return the factor that brings the gradients of all inputs to their expected size."""
        expected = torch.full_like(weight, self._variance)
        wanted = 0.0
        for x, gradient in zip(inputs, above, strict=True):
            leaf = x.detach().requires_grad_()
            output = self._run_without_bias(leaf, expected)
            (down,) = torch.autograd.grad(output, leaf, gradient.square())
            wanted += float(down.double().sum())
        return _divide(wanted, found)


def _divide(wanted: float, found: float) -> float:
    factor = math.sqrt(wanted / found) if found > 0 and wanted > 0 else 1.0
    return factor if math.isfinite(factor) else 1.0


class _AllDraws(torch.autograd.Function):
    """One layer in all draws at once, so that its backward pass sees them all."""

    @staticmethod
    def forward(ctx: Any, layer: Contraction, draws: int, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.layer, ctx.draws = layer, draws
        ctx.save_for_backward(*tensors)
        outputs = [layer.run(*operands) for operands in _deal(tensors, draws)]
        # Autograd forbids to change a view among several outputs in place.
        return tuple(output.clone() if output._is_view() else output for output in outputs)

    @staticmethod
    def backward(ctx: Any, *above: Tensor) -> tuple[Tensor | None, ...]:
        tensors, draws = ctx.saved_tensors, ctx.draws
        inputs = tensors[:draws]
        found: list[tuple[Tensor, ...]] = []
        with torch.enable_grad():
            for operands, gradient in zip(_deal(tensors, draws), above, strict=True):
                leaves = [None if t is None else t.detach().requires_grad_() for t in operands]
                output = ctx.layer.run(*leaves)
                kept = [leaf for leaf in leaves if leaf is not None]
                found.append(torch.autograd.grad(output, kept, gradient))
            down = [parts[0] for parts in found]
            size = math.fsum(float(part.double().square().sum()) for part in down)
            factor = ctx.layer.balance_backward(inputs, tensors[draws], above, size)
        rest = [parts[i] for i in range(1, len(found[0])) for parts in found]
        return None, None, *(part * factor for part in down), *rest


def _deal(tensors: Sequence[Tensor], draws: int) -> list[tuple[Tensor, Tensor, Tensor | None]]:
    """Return input, weight and bias of each draw."""
    inputs, weights = tensors[:draws], tensors[draws : 2 * draws]
    biases: list[Tensor | None] = [*tensors[2 * draws :]] or [None] * draws
    return list(zip(inputs, weights, biases, strict=True))


def find_contraction(
    operation: Operation, weights: dict[int, Weight], uses: dict[int, int]
) -> Contraction | None:
    """Return the operation as a contraction, if theory knows the scale of what it does.

    Parameters
    ----------
    operation : Operation
        Any line of the tape.
    weights : dict of int to Weight
        The parameters, by value.
    uses : dict of int to int
        How often each value is read.
    """
    if operation.op is None or operation.op.overloadpacket not in OPERANDS:
        return None
    places = OPERANDS[operation.op.overloadpacket]
    slots = [operation.args[p] if p < len(operation.args) else None for p in places]
    slot = slots[1]
    if not isinstance(slot, Slot) or slot.value not in weights or not isinstance(slots[0], Slot):
        return None
    leaves = pytree.tree_leaves((operation.args, operation.kwargs))
    if sum(isinstance(leaf, Slot) for leaf in leaves) != sum(isinstance(s, Slot) for s in slots):
        return None
    weight = weights[slot.value]
    # A weight that is used twice meets inputs that depend on it.
    if uses[slot.value] > 1 or not weight.law.variance or significant_mean(weight):
        return None
    if math.prod(weight.shape) // max(weight.shape[:2]) < FEWEST:
        return None
    return Contraction(operation, weight.law.second_moment)
