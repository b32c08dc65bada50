"""Batch norm, in training mode over few samples and with running statistics.

In training mode the norm and the activation behind it go back as one: the activation's slope and
the normalized value are the same variable. The gradient that arrives is signal times slope, and
Stein's lemma gives every term (Yang et al. 2019 for large batches). The factors 1/(1 - r) and
1/(1 + r) are exact where the centred law is isotropic, as in a multilayer perceptron.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from varprobe.errors import MissingRuleError
from varprobe.theory.expectations import Field
from varprobe.theory.fluctuations import GradientSpread, Spread, realize, scatter_products
from varprobe.theory.law import (
    Downstream,
    Gradient,
    Known,
    Law,
    Step,
    Value,
    WeightGradient,
    uniform_pairs,
)
from varprobe.theory.layout import Role
from varprobe.theory.pairs import Pairs
from varprobe.theory.pointwise import Pointwise, scale_by
from varprobe.theory.rules.contraction import realize_gradient
from varprobe.theory.rules.normalization import Affine
from varprobe.theory.rules.reading import read_law
from varprobe.theory.rules.registry import rule
from varprobe.theory.standing import Standing

aten = torch.ops.aten

NEGLIGIBLE = 0.004
"""Relative variance of the batch variance below which its second-order terms are left out."""

LARGEST = 0.8
"""Relative variance at which its expansion is cut; a batch of two samples has 1 or more."""

APPROXIMATE = "batch norm: statistics of few samples, to second order"


@rule(aten.batch_norm)
def batch_norm(
    x: Value,
    weight: Value | None,
    bias: Value | None,
    running_mean: Value | None,
    running_var: Value | None,
    training: bool,
    momentum: float,  # noqa: ARG001
    eps: float,
    cudnn_enabled: bool,  # noqa: ARG001
) -> Step:
    """Return x, centred and scaled over samples and positions, or by the running statistics."""
    law = read_law(x, feature_dim=1)
    affine = Affine.of(weight, bias)
    if training or running_mean is None or running_var is None:
        return _normalize_batch(law, affine, eps)
    return _apply_running(law, affine, running_mean, running_var, eps)


def _normalize_batch(x: Law, affine: Affine, eps: float) -> Step:
    pairs = x.pairs
    size = pairs.size
    if size < 2:
        raise MissingRuleError("batch norm over a single value")
    centred = pairs.centre()
    variance = max(centred.mean, 0.0)
    scatter = 2 * centred.map(torch.square).total() / max((size * variance) ** 2, 1e-300)
    unit = centred * (1 / (variance + eps))
    if scatter > NEGLIGIBLE:
        # E[x x' / v] to second order in the scatter of v, its trace restored.
        bent = centred * (1 + scatter) - (centred @ centred) * (2 / (size * variance))
        unit = bent * (variance / (variance + eps) / bent.mean)
    means = (x.means - x.means.mean()) / (variance + eps) ** 0.5
    scaled = unit * affine.gamma**2
    field = Field(
        scaled.map(lambda values: values + affine.beta**2),
        affine.gamma * means + affine.beta,
        gaussian=x.is_field and x.field.gaussian,
        narrowing=scatter / (1 + scatter) if scatter > NEGLIGIBLE else 0.0,
    )
    output = Law(
        layout=x.layout,
        field=field,
        standing=x.standing.approximate(APPROXIMATE),
        field_spread=Spread(gram=realize(x.spread, pairs, x.features).gram, pinned=True),
    )

    def backward(gradient: Gradient) -> Sequence[Downstream]:
        arrived, product, stein = _moments(gradient, field, unit, affine)
        mixed = (stein @ unit) * (1 / size)
        columns = mixed.column_sums() / size
        mixed_centred = mixed.subtract_columns(columns)
        quartic = unit * (product.total() / size**2 / (1 + scatter))
        if scatter > NEGLIGIBLE:
            quartic = quartic + (unit @ mixed) * (2 / (size * (1 + scatter)))
        inverse = affine.gamma**2 / (variance + eps) / (1 - min(scatter, LARGEST))
        signal = arrived.centre() - mixed_centred - mixed_centred.transpose() + quartic
        standing = gradient.standing.inherit(x.standing).approximate(APPROXIMATE)
        down = Gradient(
            layout=x.layout,
            signal=signal * inverse,
            standing=standing,
            signal_spread=_scatter_variance(gradient.settle(), scatter),
            orthogonal=True,
        )
        return [down, *_affine_gradients(gradient, product, affine, standing)]

    return Step(output, backward)


def _scatter_variance(gradient: Gradient, scatter: float) -> GradientSpread:
    """Add the scatter of 1/v, v the variance of one feature: chi-square with 2/scatter freedoms."""
    spread, units = gradient.signal_spread, gradient.layout.count(Role.FEATURE)
    square = gradient.signal.map(torch.square).average() / max(gradient.signal.mean**2, 1e-300)
    noise = scatter / (1 - min(2 * scatter, LARGEST)) * (1 + 2 * square) / units
    kernel = (1 + spread.at(0.0).kernel) * (1 + noise) - 1
    # The norm divides by the scale of what came in.
    return GradientSpread(kernel=kernel, own=spread.own, gram=spread.gram, tilt=-1.0)


def _affine_gradients(
    gradient: Gradient, product: Pairs, affine: Affine, standing: Standing
) -> Sequence[WeightGradient]:
    spread = realize_gradient(gradient)
    ones = uniform_pairs(gradient.pairs)
    if gradient.orthogonal and not affine.beta:
        # The scale of a feature that another norm takes off again, with nothing mixed between.
        product = product * 0.0
    return [
        WeightGradient(
            pairs.total(),
            scatter_products(pairs, spread, ones, Spread(), pairs.total()),
            standing,
        )
        for pairs in (product, gradient.pairs)[: len(affine.weights)]
    ]


def _moments(
    gradient: Gradient, field: Field, unit: Pairs, affine: Affine
) -> tuple[Pairs, Pairs, Pairs]:
    """Return the pairs of g, those of g y, and E[d(g_p Σ g y) / dy_p'], y the normalized value."""
    found = [_find_moments(part, field, unit, affine) for part in gradient.look_at(field).parts]
    arrived, product, stein = found[0]
    for more in found[1:]:
        arrived, product, stein = arrived + more[0], product + more[1], stein + more[2]
    return arrived, product, stein


def _find_moments(
    part: Gradient, field: Field, unit: Pairs, affine: Affine
) -> tuple[Pairs, Pairs, Pairs]:
    factor = part.factor
    if factor is None or not field.gaussian or not affine.gamma:
        arrived = part.pairs
        return arrived, arrived * unit, arrived
    signal, slope = part.signal, factor.mean
    value = Pointwise(lambda v: (v - affine.beta) / affine.gamma)
    arrived = signal * factor.pairs
    product = signal * factor.weigh(value)
    rises = field.expect_slope_pairs(slope, slope * value) * affine.gamma
    bends = rises * 0.0 if slope.levels else field.expect_euler_pairs(slope, slope)
    if factor.square is not None:
        # At one position the random square a² counts, not the square of the mean: E[y (a²)'].
        rise = field.expect_slope_pairs(factor.square, value).second_moments * affine.gamma
        rises, bends = rises.with_diagonal(rise), bends.with_diagonal(torch.zeros_like(rise))
    stein = arrived.add_diagonal((signal * rises).row_sums()) + signal * bends
    return arrived, product, stein


def _apply_running(
    x: Law, affine: Affine, running_mean: Value, running_var: Value, eps: float
) -> Step:
    # On the meta device the running statistics are those that a new module has: 0 and 1.
    centres, variances = torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    if isinstance(running_mean, Known) and isinstance(running_var, Known):
        centres, variances = running_mean.tensor.double().cpu(), running_var.tensor.double().cpu()
    deviations = (variances + eps).rsqrt()
    gains, shifts = affine.gamma * deviations, affine.beta - affine.gamma * deviations * centres
    even = bool(gains.eq(gains[0]).all()) and bool(shifts.eq(shifts[0]).all())
    gain, shift, square = float(gains.mean()), float(shifts.mean()), float(gains.square().mean())
    if even and x.field.gaussian and x.thinning == 1.0:
        inner = x.function
        output = replace(x, function=Pointwise(lambda u: gain * inner(u) + shift))
    else:
        output = _apply_uneven(x, square, shifts)
    slope, slope_square = scale_by(gain), None if even else scale_by(square)

    def backward(gradient: Gradient) -> Sequence[Downstream]:
        # Scales that differ between features are a factor like that of dropout for whole features.
        standing = gradient.standing.inherit(x.standing)
        down = gradient.times(x.field, slope)
        if slope_square is not None:
            settled = gradient.settle()
            down = replace(settled, signal=settled.signal * square)
        product = gradient.pairs * output.pairs * (1 / max(affine.gamma**2, 1e-300))
        return [down, *_affine_gradients(gradient, product, affine, standing)]

    return Step(output, backward)


def _apply_uneven(x: Law, square: float, shifts: torch.Tensor) -> Law:
    """Return the law under scales and shifts that differ between features."""
    mean, offset = float(shifts.mean()), float(shifts.square().mean())
    pairs = (x.pairs * square).map(lambda values: values + offset)
    means = x.means * square**0.5 + mean
    return Law(
        layout=x.layout,
        field=Field(pairs, means, gaussian=False),
        standing=x.standing,
        field_spread=x.spread,
    )
