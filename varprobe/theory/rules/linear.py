"""Linear layers, and products with a parameter."""

from __future__ import annotations

import math
from dataclasses import replace

import torch

from varprobe.errors import MissingRuleError
from varprobe.theory.law import Law, Step, Value, Weight
from varprobe.theory.layout import Axis, Role
from varprobe.theory.mixing import Mixing, Projection
from varprobe.theory.rules.contraction import Contraction, contract
from varprobe.theory.rules.reading import read_law
from varprobe.theory.rules.registry import rule
from varprobe.theory.rules.scores import multiply_transposed

aten = torch.ops.aten


@rule(aten.linear)
def linear(x: Value, weight: Value, bias: Value | None = None) -> Step:
    """Return x Wᵀ + b over the last dimension."""
    law = read_law(x, feature_dim=-1)
    if not isinstance(weight, Weight):
        raise MissingRuleError("the weight is not a parameter")
    step = contract(law, weight, bias, shape_linear(law, weight.shape[0]))
    return _remember(step, law, weight, bias)


@rule(aten.addmm)
def addmm(bias: Value, x: Value, weight: Value) -> Step:
    """Return x W + b."""
    law = read_law(x, feature_dim=-1)
    if not isinstance(weight, Weight):
        raise MissingRuleError("the second factor is not a parameter")
    step = contract(law, weight, bias, shape_linear(law, weight.shape[1]))
    step = _remember(step, law, weight, bias)
    assert step.backward is not None
    inner = step.backward

    def backward(gradient: object) -> tuple[object, ...]:
        to_x, to_weight, to_bias = inner(gradient)
        return to_bias, to_x, to_weight

    return Step(step.output, backward)  # type: ignore[arg-type]


@rule(aten.mm, aten.matmul)
def matmul(x: Value, weight: Value) -> Step:
    """Return x W for a parameter W of two dimensions, or queries times keys."""
    if isinstance(x, Law) and isinstance(weight, Law):
        return multiply_transposed(x, weight)
    law = read_law(x, feature_dim=-1)
    if not isinstance(weight, Weight) or len(weight.shape) != 2:
        raise MissingRuleError("the second factor is not a parameter of two dimensions")
    step = contract(law, weight, None, shape_linear(law, weight.shape[1]))
    return _remember(step, law, weight, None)


def _remember(step: Step, x: Law, weight: Weight, bias: Value | None) -> Step:
    """Let the output remember which layer made it: attention reads it as part of that layer."""
    output = step.output
    if not isinstance(output, Law) or output.pairs.positions != x.pairs.positions:
        return step
    kept = bias if isinstance(bias, Weight) else None
    projection = Projection(x, weight, kept, output.pairs)
    return replace(step, output=replace(output, mixing=Mixing.of(projection, output.features)))


def shape_linear(x: Law, out_features: int) -> Contraction:
    """Return the geometry of a product with a matrix over the last dimension."""
    last = len(x.layout.dims) - 1
    contracted = x.layout.dims[last]
    if any(axis.role is Role.SAMPLE for axis in contracted):
        raise MissingRuleError("a linear map over samples")
    kept = x.layout.replace(last, ())
    if kept.count(Role.FEATURE) > 1:
        raise MissingRuleError("a linear map over positions, not features")
    inner = x.layout.positions_of(last)
    outer = x.layout.count(Role.POSITION) // inner
    output = (Axis(Role.FEATURE, out_features),) if out_features != 1 else ()
    return Contraction(
        layout=x.layout.replace(last, output),
        forward=lambda pairs: pairs.reduce(outer, inner),
        adjoint=lambda pairs: pairs.repeat(inner),
        taps=inner,
        fan_in=math.prod(axis.size for axis in contracted) // inner,
        fan_out=out_features,
    )
