"""What linear layers and convolutions share: a sum over inputs with fresh, independent weights.

With weights of mean zero and variance v the pairs of the output are v · fan-in features · (the sum
of the input's pairs over equal weights), and those of the input's gradient the adjoint of the same
map (He et al. 2015, eqs. 10 and 14; over pairs of positions: Xiao et al. 2018, section 2).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from varprobe.errors import MissingRuleError
from varprobe.theory.activation_scatter import Activation, descend
from varprobe.theory.expectations import Field
from varprobe.theory.fluctuations import (
    GradientSpread,
    realize,
    scatter_products,
    scatter_units,
    sum_products,
)
from varprobe.theory.law import (
    Downstream,
    Gradient,
    Law,
    Step,
    Value,
    Weight,
    WeightGradient,
    concat_bits,
    uniform_pairs,
)
from varprobe.theory.layout import Layout, Role
from varprobe.theory.lengths import pass_length
from varprobe.theory.pairs import Pairs
from varprobe.theory.profile import REASON, ProfilePairs
from varprobe.theory.roots import scale_roots
from varprobe.theory.standing import Standing
from varprobe.theory.weight_means import significant_mean, zero_mean_variance

FEWEST = 16
"""Weights that one output sees, at least: with fewer the gradient that comes back through a norm
knows its weights too well to be independent of them."""

FEW = "few weights meet in an output: its gradient depends on them"


@dataclass(frozen=True, slots=True)
class Contraction:
    """The geometry of one layer.

    Parameters
    ----------
    layout : Layout
        Of the output.
    forward, adjoint : callable
        Sum of the input's pairs over the weights that an output sees, and the adjoint map.
    taps : int
        Weights per pair of an input and an output feature.
    fan_in, fan_out : int
        Input features that an output sees, and output features that an input reaches.
    """

    layout: Layout
    forward: Callable[[Pairs], Pairs]
    adjoint: Callable[[Pairs], Pairs]
    taps: int
    fan_in: int
    fan_out: int


def contract(x: Law, weight: Value, bias: Value | None, shape: Contraction) -> Step:
    """Return the output of the layer and its backward law."""
    weights = [w for w in (weight, bias) if isinstance(w, Weight)]
    if not isinstance(weight, Weight):
        raise MissingRuleError("the weight is not a parameter")
    if bias is not None and not isinstance(bias, Weight):
        raise MissingRuleError("the bias is not a parameter")
    variance = zero_mean_variance(weight)
    summed = shape.forward(x.pairs)
    pairs = summed * (variance * shape.fan_in)
    mean = 0.0
    driven = 1.0
    if bias is not None:
        mean = significant_mean(bias)
        before = pairs.mean
        pairs = pairs.map(lambda values: values + bias.law.second_moment)
        # A bias does not scatter with the layers below: it dilutes what they did.
        driven = before / max(pairs.mean, 1e-300)
    standing = _stand(x.standing, weights, fresh=0 if mean else weight.bit)
    if isinstance(pairs, ProfilePairs):
        standing = standing.approximate(REASON)
    units = shape.layout.count(Role.FEATURE)
    below = realize(x.field_spread, x.pairs, x.features) if x.is_field else x.spread
    # The taps average entries of the Gram matrix that scatter neither alone nor alike.
    averaged = replace(
        below,
        kernel=below.kernel * driven**2,
        gram=below.gram / math.sqrt(shape.taps) * driven**2,
        pinned=False,
        length=pass_length(x, units, driven),
        loose=1.0,
        roots=scale_roots(below.roots, driven),
        modes=scale_roots(below.common, driven),
    )
    means = torch.full((pairs.positions,), mean, dtype=torch.float64)
    output = Law(
        layout=shape.layout,
        field=Field(pairs, means, gaussian=True),
        standing=standing,
        field_spread=replace(averaged, own=scatter_units(pairs, averaged.gram, units)),
    )

    def backward(gradient: Gradient) -> Sequence[Downstream]:
        above = realize_gradient(gradient)
        spread = replace(
            above,
            gram=above.gram / math.sqrt(shape.taps),
            tilt=above.tilt * driven,
            projected=0.0,
        )
        standing = _stand(gradient.standing.inherit(x.standing), weights, fresh=weight.bit)
        incoming = gradient.pairs
        signal = shape.adjoint(incoming) * (variance * shape.fan_out)
        spread = replace(spread, own=scatter_units(signal, spread.gram, x.features))
        if not x.is_field:
            activation = Activation(x.field, x.features)
            spread = descend(spread, activation, x.spread, x.field_spread, x.function)
        if gradient.orthogonal and shape.taps * shape.fan_in < FEWEST:
            standing = standing.approximate(FEW)
        down = Gradient(
            layout=x.layout,
            signal=signal,
            standing=standing,
            signal_spread=spread,
            orthogonal=gradient.orthogonal and shape.fan_in == 1 and bias is None,
        )
        product = sum_products(incoming, summed)
        if gradient.products is not None:
            product = gradient.products
        found: list[Downstream] = [
            down,
            WeightGradient(
                product / shape.taps,
                scatter_products(incoming, above, summed, below, product),
                standing,
            ),
        ]
        if bias is not None:
            ones = uniform_pairs(incoming)
            total = sum_products(incoming, ones)
            scatter = scatter_products(incoming, above, ones, type(below)(), total)
            found.append(WeightGradient(total, scatter, standing))
        return found

    return Step(output, backward)


def realize_gradient(gradient: Gradient) -> GradientSpread:
    """Return the spread of the Gram matrix that a gradient really has at its number of units."""
    spread = gradient.spread
    features = gradient.layout.count(Role.FEATURE)
    kept = realize(spread, gradient.pairs, features)
    assert isinstance(kept, GradientSpread)
    return kept


def _stand(standing: Standing, weights: Sequence[Weight], *, fresh: int) -> Standing:
    bits = concat_bits(weights)
    if standing.touched & bits:
        standing = standing.approximate("weights are used more than once")
        fresh = 0
    return replace(standing, touched=standing.touched | bits, fresh=fresh, terms=())
