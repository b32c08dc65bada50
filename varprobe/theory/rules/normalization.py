"""Normalization whose statistics average over many features: layer, group and RMS norm.

The mean and the variance that are taken off are then sure numbers, and the norm is an affine map at
each position. Batch norm has statistics of its own for each feature: see `batch_norm`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce
from operator import add

import torch
from torch import Tensor

from varprobe.errors import MissingRuleError
from varprobe.theory.expectations import ALIKE, Field
from varprobe.theory.fluctuations import Spread, realize, scatter_products, sum_products
from varprobe.theory.law import (
    Downstream,
    Gradient,
    Law,
    Step,
    Value,
    Weight,
    WeightGradient,
    uniform_pairs,
)
from varprobe.theory.layout import Role
from varprobe.theory.lengths import find_loose, vary_length
from varprobe.theory.mixing import HeadNorm
from varprobe.theory.pairs import Pairs
from varprobe.theory.pointwise import Pointwise
from varprobe.theory.roots import add_roots, scale_roots
from varprobe.theory.rules.contraction import realize_gradient
from varprobe.theory.rules.convolution import check_channels
from varprobe.theory.rules.mixtures import hand_on
from varprobe.theory.rules.reading import read_law
from varprobe.theory.rules.registry import rule

aten = torch.ops.aten

FEW_FEATURES = 8
"""Features per statistic below which its scatter is no longer small."""


ROUNDING = 3 * ALIKE
"""Error, at most, of a second moment by quadrature against one that was summed: where many kinds of
position are told apart, those whose scales differ by ALIKE of the largest count as one."""


@dataclass(frozen=True, slots=True)
class Affine:
    """The elementwise affine map behind a norm: γ x + β, both the same for all features."""

    gamma: float
    beta: float
    weights: tuple[Weight, ...]

    @classmethod
    def of(cls, weight: Value | None, bias: Value | None) -> Affine:
        """Read the parameters, which must be constant over features."""
        gamma, beta = _constant(weight, 1.0), _constant(bias, 0.0)
        return cls(gamma, beta, tuple(w for w in (weight, bias) if isinstance(w, Weight)))


def _constant(value: Value | None, default: float) -> float:
    if value is None:
        return default
    if isinstance(value, Weight) and value.law.variance <= 1e-12 * value.law.second_moment:
        return value.law.mean
    raise MissingRuleError("the norm's weight or bias differs from feature to feature")


@rule(aten.layer_norm)
def layer_norm(
    x: Value,
    normalized_shape: Sequence[int],
    weight: Value | None = None,
    bias: Value | None = None,
    eps: float = 1e-5,
    cudnn_enable: bool = True,  # noqa: ARG001
) -> Step:
    """Return x, centred and scaled over its last dimensions (Ba et al. 2016, eq. 4)."""
    law = read_law(x, feature_dim=-1)
    inner, units = _count_inside(law, len(normalized_shape))
    return normalize(law, Affine.of(weight, bias), eps, inner=inner, units=units, centred=True)


@rule(aten.rms_norm)
def rms_norm(
    x: Value, normalized_shape: Sequence[int], weight: Value | None = None, eps: float | None = None
) -> Step:
    """Return x, scaled by its root mean square over its last dimensions."""
    law = read_law(x, feature_dim=-1)
    inner, units = _count_inside(law, len(normalized_shape))
    small = torch.finfo(torch.float32).eps if eps is None else eps
    return normalize(law, Affine.of(weight, None), small, inner=inner, units=units, centred=False)


@rule(aten.group_norm)
def group_norm(
    x: Value,
    groups: int,
    weight: Value | None = None,
    bias: Value | None = None,
    eps: float = 1e-5,
    cudnn_enabled: bool = True,  # noqa: ARG001
) -> Step:
    """Return x, centred and scaled over groups of features and all positions of a sample."""
    law = read_law(x, feature_dim=1)
    check_channels(law.layout)
    units = check_enough(law.features // groups)
    inner = law.layout.count(Role.POSITION) // law.layout.positions_of(0)
    affine = Affine.of(weight, bias)
    return normalize(law, affine, eps, inner=inner, units=units, centred=True, per_position=False)


def check_enough(features: int) -> int:
    """Return how many features share a statistic, if it is enough for a sure number."""
    if features < FEW_FEATURES:
        raise MissingRuleError(f"fewer than {FEW_FEATURES} features share a statistic")
    return features


def _count_inside(x: Law, dims: int) -> tuple[int, int]:
    """Return how many positions and features share a statistic over the last dimensions."""
    chosen = range(len(x.layout.dims) - dims, len(x.layout.dims))
    if any(axis.role is Role.SAMPLE for d in chosen for axis in x.layout.dims[d]):
        raise MissingRuleError("a norm over samples")
    features = math.prod(
        axis.size for d in chosen for axis in x.layout.dims[d] if axis.role is Role.FEATURE
    )
    return math.prod(x.layout.positions_of(d) for d in chosen), check_enough(features)


def normalize(
    x: Law,
    affine: Affine,
    eps: float,
    *,
    inner: int,
    units: int,
    centred: bool,
    per_position: bool = True,
) -> Step:
    """Return the norm over ``units`` features and blocks of ``inner`` neighbouring positions.

    ``per_position`` says whether each position of a block has parameters of its own.
    """

    def pool(values: Tensor) -> Tensor:
        return values.double().view(-1, inner).mean(1).repeat_interleave(inner)

    centres = pool(x.means) if centred else torch.zeros_like(x.means)
    variances = pool(x.pairs.second_moments) - centres.square()
    scales = (variances + eps).rsqrt()
    return rescale(
        x,
        centres,
        scales,
        affine,
        inner=inner,
        units=units,
        centred=centred,
        per_position=per_position,
    )


def rescale(
    x: Law,
    centres: Tensor,
    scales: Tensor,
    affine: Affine,
    *,
    inner: int = 1,
    units: int,
    centred: bool,
    per_position: bool = True,
) -> Step:
    """Return (x - centre) scale, then the affine map, for statistics of x at each position."""
    output = _scale(x, centres, scales, affine)
    if inner == 1:
        output = _remember(x, output, scales, affine, units, centred=centred)

    def backward(gradient: Gradient) -> Sequence[Downstream]:
        standing = gradient.standing.inherit(x.standing)
        signal = gradient.pairs * (affine.gamma**2)
        # The norm divides by the scale of what came in.
        spread = replace(gradient.settle().signal_spread, tilt=-1.0, echo=0.0, projected=1.0)
        if inner == 1:
            unit = _find_unit(x, centres, scales)
            # It is the length that a draw really has, finite units and all.
            lengths = x.spread.own + _scatter_lengths(unit, signal, units)
            spread = replace(spread, rest=spread.rest + lengths)
            signal = signal * _project_out(x, unit, gradient, units, centred=centred)
        down = Gradient(
            layout=x.layout,
            signal=signal.scale(scales),
            standing=standing,
            signal_spread=spread,
            awaited=gradient.settle().awaited,
        )
        found: list[Downstream] = [hand_on(down, x)]
        shared = inner if per_position else 1
        # Heads share the parameters; group norm has some for each feature.
        copies = x.features // units if per_position else 1
        for pairs in _affine_moments(gradient, output, affine)[: len(affine.weights)]:
            pooled = pairs.reduce(pairs.positions // shared, shared)
            ones = uniform_pairs(pooled)
            total = sum_products(pooled, ones)
            scatter = scatter_products(pooled, realize_gradient(gradient), ones, Spread(), total)
            found.append(WeightGradient(total * copies / shared, scatter, standing))
        return found

    return Step(output, backward)


def _find_unit(x: Law, centres: Tensor, scales: Tensor) -> Pairs:
    """Return the pairs of the normalized array."""
    unit = x.pairs.add_product(x.means, centres, -1.0).add_product(centres, x.means, -1.0)
    return unit.add_product(centres, centres).scale(scales)


def _scatter_lengths(unit: Pairs, signal: Pairs, units: int) -> float:
    """Return by how much the lengths that matter scatter more than those of all positions.

    A gradient that comes back at one token is divided by that token's length alone.
    """
    squares = unit.map(torch.square)
    shares = signal.second_moments.double()
    shares = shares / shares.mean().clamp_min(1e-300)
    weighted, pooled = squares.scale(shares).average(), squares.average()
    return max(0.0, weighted - pooled) * 2 / units


def _project_out(x: Law, unit: Pairs, gradient: Gradient, units: int, *, centred: bool) -> Pairs:
    """Return what the norm does to a gradient beside its scale, to first order in 1/n.

    It takes off the gradient's part along x and along the mean, and it divides by the length that x
    has, not by the expected one.
    """
    loose, done = find_loose(x), gradient.settle().signal_spread.projected
    # What a norm above took off is not there to be taken off again, but for what came in between.
    along = (1 - done + done * loose) / units
    shift, short = ((1 - done) / units, loose / units) if centred else (0.0, 0.0)
    # Some of the features scatter more than all of them.
    excess = vary_length(x) + 2 / units - 2 / x.features
    # E 1 / (s_i s_j) of lengths that scatter alone.
    apart = (1 + 0.75 * excess) / (1 - short)
    kept = unit.map(lambda c: (1 - shift - along * c * c) * apart)
    return kept.with_diagonal(kept.second_moments * ((1 + excess) / (1 + 0.75 * excess)))


def _scale(x: Law, centres: Tensor, scales: Tensor, affine: Affine) -> Law:
    """Return γ (x - centre) scale + β, as a function of x's field if all positions are alike."""
    spread = realize(x.spread, x.pairs, x.features)
    # It takes the scatter of the whole away from what positions have in common, too.
    modes = add_roots(spread.common, scale_roots(spread.roots, -1.0))
    kept = Spread(gram=spread.gram, pinned=True, modes=modes)
    alike = bool(torch.allclose(scales, scales[:1].expand_as(scales), rtol=1e-9, atol=0)) and bool(
        torch.allclose(centres, centres[:1].expand_as(centres), rtol=1e-9, atol=1e-12)
    )
    if alike and not x.is_field and x.thinning == 1.0:
        gain = affine.gamma * float(scales[0])
        shift = affine.beta - gain * float(centres[0])
        inner = x.function
        function = Pointwise(lambda u: gain * inner(u) + shift)
        return replace(x, function=function)
    settled = x.settle()
    gains = affine.gamma * scales
    means = gains * (settled.means - centres) + affine.beta
    pairs = settled.covariances.scale(gains).add_product(means, means)
    return Law(
        layout=x.layout,
        field=Field(pairs, means, settled.gaussian),
        standing=x.standing,
        field_spread=kept,
    )


def _remember(
    x: Law, output: Law, scales: Tensor, affine: Affine, units: int, *, centred: bool
) -> Law:
    """Let the output remember that it holds heads of a layer behind a norm of their own."""
    mixing = x.mixed
    if mixing is None or mixing.index is None or mixing.places is not None or affine.beta:
        return output
    squares = 1 / scales.square()
    eps = squares - x.pairs.second_moments
    small, rounding = float(eps.mean()), ROUNDING * (squares * squares.max()).sqrt()
    # A scale that is another function of the features is no such norm.
    if small < -float(rounding.mean()) or not bool(((eps - small).abs() <= rounding).all()):
        return output
    norm = HeadNorm(units, max(small, 0.0), affine.gamma, centred)
    return replace(
        output, mixing=replace(mixing.normalize(norm, output.pairs), function=output.function)
    )


def _affine_moments(gradient: Gradient, output: Law, affine: Affine) -> tuple[Pairs, Pairs]:
    """Return the pairs of (gradient x normalized value) and of the gradient."""
    gamma = affine.gamma or 1.0

    def unit(v: Tensor) -> Tensor:
        return (output.function(v) - affine.beta) / gamma

    shift = output.means - affine.beta
    unscaled = output.pairs.add_product(output.means, output.means, -1.0).add_product(shift, shift)
    products = [
        part.pairs * unscaled * (1 / gamma**2)
        if part.factor is None
        else part.signal * part.factor.weigh(Pointwise(unit))
        for part in gradient.look_at(output.field).parts
    ]
    return reduce(add, products), gradient.pairs
