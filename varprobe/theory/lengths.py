"""How far the length of an array at one position scatters about its expectation.

A norm divides by that length. On average over draws 1 / v is larger than 1 / E v, by the relative
variance of v to first order: 2/n for n independent Gaussian features, and more behind layers that
scatter themselves. All positions together scatter less: see `varprobe.theory.fluctuations`.
"""

from __future__ import annotations

import math

from varprobe.theory.activation_scatter import Activation
from varprobe.theory.expectations import expand_at
from varprobe.theory.law import Law
from varprobe.theory.pointwise import Pointwise


def vary_length(x: Law) -> float:
    """Return the relative variance of |x_p|² at one position."""
    spread, units = x.field_spread, max(1, x.features)
    given = spread.relative_variance == 0.0
    if spread.pinned or given:
        below = alone = 0.0
    else:
        alone = 2 / units if spread.length is None else spread.length
        below = max(0.0, (1 + alone) / (1 + 2 / units) - 1)
    if x.is_field or not x.field.gaussian:
        return alone
    activation = Activation(x.field, units)
    own = (_find_kurtosis(x, x.function) - 1) / units
    if spread.pinned:
        # A norm leaves no scatter to the linear and the quadratic part of the square.
        square = expand_at(x.function * x.function, activation.scale, activation.mean)
        held = float(square[1:3].square().sum() / square[0].square().clamp_min(1e-300))
        return max(0.0, own - held / units)
    return sum(x.field.grow(x.function * x.function)) ** 2 * below + own


def _find_kurtosis(x: Law, function: Pointwise) -> float:
    """Return E φ⁴ / (E φ²)², averaged over the positions."""
    square = function * function
    second = float(x.field.expect(square).mean())
    return float(x.field.expect(square * square).mean()) / max(second * second, 1e-300)


def pass_length(x: Law, units: int, driven: float) -> float:
    """Return the same behind a layer of ``units`` units; ``driven`` is the share without bias."""
    return (1 + driven**2 * vary_length(x)) * (1 + 2 / units) - 1


def add_lengths(parts: list[tuple[float, Law]]) -> float:
    """Return the same of a sum of independent arrays, given the second moment of each."""
    total = max(sum(size for size, _ in parts), 1e-300)
    own = sum(size**2 * vary_length(law) for size, law in parts)
    (first, law), (second, _) = parts
    return (own + 4 * first * second / max(1, law.features)) / total**2


def add_loose(parts: list[tuple[float, Law]]) -> float:
    """Return the share of a sum's second moment that no norm holds."""
    total = max(sum(size for size, _ in parts), 1e-300)
    return sum(size * find_loose(law) for size, law in parts) / total


def find_loose(x: Law) -> float:
    """Return the share of an array's second moment that no norm holds."""
    if not x.is_field:
        return 1.0
    return 0.0 if x.field_spread.pinned else x.field_spread.loose


def multiply_lengths(x: Law, y: Law) -> float:
    """Return the same of a product of two independent arrays."""
    units = max(1, x.features)
    kurtoses = [3.0 if law.is_field else _find_kurtosis(law, law.function) for law in (x, y)]
    below = [_strip(law, kurtosis, units) for law, kurtosis in zip((x, y), kurtoses, strict=True)]
    # Both are made of one array, and grow with its length.
    shared = (math.sqrt(below[0]) + math.sqrt(below[1])) ** 2
    return shared + (kurtoses[0] * kurtoses[1] - 1) / units


def _strip(law: Law, kurtosis: float, units: int) -> float:
    return max(0.0, vary_length(law) - (kurtosis - 1) / units)
