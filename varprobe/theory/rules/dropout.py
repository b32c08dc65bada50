"""Operations that are random in training: dropout, randomized slopes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from varprobe.errors import MissingRuleError
from varprobe.theory.law import Downstream, Gradient, Law, Step, Value
from varprobe.theory.pointwise import ONE, scale_by
from varprobe.theory.rules.pointwise import apply_pointwise
from varprobe.theory.rules.reading import default_feature_dim, read_law
from varprobe.theory.rules.registry import rule

aten = torch.ops.aten


@rule(aten.dropout, aten.dropout_)
def dropout(x: Value, p: float, train: bool) -> Step | Value:
    """Return x times independent Bernoulli(1 - p) / (1 - p).

    The second moment grows by 1 / (1 - p), the pairs of different elements keep theirs, in both
    directions (Srivastava et al. 2014, section 10: inverted dropout).
    """
    if not train or p == 0:
        return x
    if p == 1:
        raise MissingRuleError("dropout with p = 1 leaves nothing")
    law = x if isinstance(x, Law) else read_law(x, default_feature_dim(x.shape))  # type: ignore[union-attr]
    keep = 1 - p
    output = replace(law, thinning=law.thinning * keep)

    def backward(gradient: Gradient) -> Sequence[Downstream]:
        return [gradient.times(law.field, ONE, scale_by(1 / keep))]

    return Step(output, backward)


@rule(aten.rrelu, aten.rrelu_)
def randomized_leaky_relu(
    x: Value, lower: float = 1 / 8, upper: float = 1 / 3, training: bool = False
) -> Step:
    """Return the leaky ReLU that a randomized one is in evaluation."""
    if training:
        raise MissingRuleError("random slopes have no rule in training mode")
    return apply_pointwise(aten.leaky_relu.default, (x, (lower + upper) / 2), {})


@rule(aten.alpha_dropout, aten.feature_dropout, aten.feature_alpha_dropout)
def inactive_dropout(x: Value, p: float, train: bool) -> Value:
    """Return x: of these variants only the inactive form has a rule."""
    if train and p > 0:
        raise MissingRuleError("only plain dropout has a rule in training mode")
    return x
