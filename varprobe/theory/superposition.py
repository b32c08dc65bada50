"""Sums of independent functions of Gaussian fields: what a post-activation ResNet rectifies.

Such a sum is no Gaussian. Each element is written as an increasing function of one, so that its own
distribution is right, and the Gaussians are correlated such that every pair of sums has its own
covariance (a Gaussian copula). As the sum is again a function of a Gaussian field, any number of
them can follow one another.

Going back, what a gradient was multiplied with is a function of the sum. A branch sees the average
of it over the other branch, given its own value.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from varprobe.theory.curves import Curve, interpolate
from varprobe.theory.expectations import Field, expand_at
from varprobe.theory.factors import Factor
from varprobe.theory.law import Gradient, Law
from varprobe.theory.pairs import Pairs
from varprobe.theory.pointwise import IDENTITY, Pointwise

REACH = 8.0
"""Where distributions are cut, in standard deviations: P(|z| > 8) = 1e-15."""

NODES = 400
"""Points that stand for the distribution of one branch, and for that of the sum."""

TAIL = 1e-14
"""Probability at either end of a distribution that rounding has spoilt."""

KNOTS = 2000
"""Points of a branch at which the average over the other is taken. None is 0, where rectified
values pile up."""

ALIKE = 1e-4
"""Relative difference below which two positions count as one."""

STEPS = 12
"""Corrections of location, scale and correlation; each leaves about a tenth of the error."""

ORDERS = 10
"""Powers of the correlation; a sum is so close to Gaussian that the first has nearly all."""


@dataclass(frozen=True)
class Branch:
    """One of two summands, at a typical position.

    Parameters
    ----------
    law : Law
        The array.
    scale : float
        What it is multiplied with before the sum.
    """

    law: Law
    scale: float

    @cached_property
    def values(self) -> Tensor:
        """Values that stand for the distribution, of the probabilities `_weigh_nodes`."""
        spread = math.sqrt(max(self.law.field.covariances.mean, 0.0))
        mean = float(self.law.field.means.mean())
        return self.scale * self.law.function(mean + spread * _nodes())


@dataclass(frozen=True)
class Quantiles:
    """The distribution of a sum of two branches: an increasing function of a normal of like size.

    Parameters
    ----------
    mean, spread : float
        Of the sum and of the normal.
    curve : Curve
        The sum where the normal, standardized, is.
    """

    mean: float
    spread: float
    curve: Curve

    @classmethod
    def of(cls, first: Branch, second: Branch) -> Quantiles:
        """Find the distribution from all sums of two values."""
        weights = _weigh_nodes()
        sums, place = torch.unique(first.values[:, None] + second.values, return_inverse=True)
        masses = torch.zeros_like(sums)
        masses.index_add_(0, place.flatten(), torch.outer(weights, weights).flatten())
        mean = float(sums @ masses)
        spread = math.sqrt(max(float((sums - mean).square() @ masses), 1e-300))
        below = masses.cumsum(0) - masses / 2
        inside = (below > TAIL) & (below < 1 - TAIL)
        found, sums = torch.special.ndtri(below[inside]), sums[inside]
        low, high = max(-REACH, float(found[0])), min(REACH, float(found[-1]))
        nodes = torch.linspace(low, high, NODES, dtype=torch.float64)
        return cls(mean, spread, Curve(low, high, interpolate(nodes, found, sums)))

    def __call__(self, w: Tensor) -> Tensor:
        """Return the sum where the normal is ``w``."""
        return self.curve((w - self.mean) / self.spread)

    def invert(self, sums: Tensor) -> Tensor:
        """Return where the normal is, given the sum; on a plateau, one of the places."""
        curve = self.curve
        nodes = torch.linspace(curve.first, curve.last, len(curve.values), dtype=torch.float64)
        rising = torch.ones_like(nodes, dtype=torch.bool)
        rising[1:] = curve.values.diff() > 0
        found = interpolate(sums, curve.values[rising], nodes[rising])
        return self.mean + self.spread * found

    def make_field(self, pairs: Pairs, means: Tensor) -> Field:
        """Return the Gaussian field under which the sum has these second moments and means."""
        covariances = pairs.add_product(means, means, -1.0)
        spreads = covariances.second_moments.double().clamp_min(1e-300).sqrt()
        centres, scales = self._place(means, spreads)
        ratios = covariances.broadcast(1 / spreads, 1 / spreads)
        bent = replace(covariances, values=self._bend(covariances.values * ratios))
        bent = bent.with_diagonal(torch.ones_like(spreads)).scale(scales)
        return Field(bent.add_product(centres, centres), centres, gaussian=True)

    def _place(self, means: Tensor, spreads: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and deviation of the Gaussian for those of the sum, at each position."""
        marks = torch.stack([means, spreads], dim=1)
        grain = ALIKE * marks.abs().amax(0).clamp_min(1e-300)
        _, inverse = torch.unique((marks / grain).round(), dim=0, return_inverse=True)
        kinds = torch.zeros(int(inverse.max()) + 1, 2, dtype=torch.float64)
        kinds[inverse] = marks
        wanted_mean, wanted_spread = kinds.unbind(1)
        centres, scales = wanted_mean.clone(), wanted_spread.clone()
        nodes, weights = _nodes(), _weigh_nodes()
        for _ in range(STEPS):
            values = self(centres[:, None] + scales[:, None] * nodes)
            found = values @ weights
            variance = values.square() @ weights - found.square()
            centres += wanted_mean - found
            scales *= wanted_spread / variance.clamp_min(1e-300).sqrt()
        return centres[inverse], scales[inverse]

    def _bend(self, correlations: Tensor) -> Tensor:
        """Return the correlations of the normals for those of the sums."""
        shares = expand_at(Pointwise(self), self.spread, self.mean)[1:ORDERS].square()
        first, *others = (shares / shares.sum()).tolist()
        bent = correlations.clamp(-1, 1)
        for _ in range(STEPS):
            rest = torch.zeros_like(bent)
            for share in reversed(others):
                rest.add_(share).mul_(bent)
            bent = ((correlations - rest.mul_(bent)) / first).clamp_(-1, 1)
        return bent


@dataclass(frozen=True)
class Superposition:
    """The sum of two independent branches as a function of a Gaussian field.

    Parameters
    ----------
    branches : pair of Branch
        The summands.
    field : Field
        The Gaussian field.
    quantiles : Quantiles or None
        How the sum depends on it; None where it is the field.
    """

    branches: tuple[Branch, Branch]
    field: Field
    quantiles: Quantiles | None

    @property
    def function(self) -> Pointwise:
        """The sum as a function of the field."""
        return IDENTITY if self.quantiles is None else Pointwise(self.quantiles)

    def share(self, gradient: Gradient, index: int) -> Gradient:
        """Return the gradient of the sum as one of a branch, before the branch's own scale.

        What it was multiplied with turns into a function of the branch. The pairs stay.
        """
        return Gradient.join([self._share(part, index) for part in gradient.parts])

    def _share(self, part: Gradient, index: int) -> Gradient:
        factor, branch = part.factor, self.branches[index]
        if factor is None or factor.field is not self.field:
            return part
        square = factor.square or factor.mean * factor.mean
        means, squares = self._average(index, factor.mean, square)
        seen = Factor(field=branch.law.field, mean=means, square=squares)
        signal = seen.divide(part.pairs)
        return replace(part, layout=branch.law.layout, signal=signal, factor=seen)

    def _average(self, index: int, *functions: Pointwise) -> list[Pointwise]:
        """Return the average of functions of the field over one branch, given the other."""
        branch, (reach, sources) = self.branches[index], self._sources[index]

        def average(function: Pointwise) -> Pointwise:
            curve = Curve(-reach, reach, function(sources) @ _weigh_nodes())
            scale, inner = branch.scale, branch.law.function
            return Pointwise(lambda u: curve((scale * inner(u)).clamp(-reach, reach)))

        return [average(function) for function in functions]

    @cached_property
    def _sources(self) -> list[tuple[float, Tensor]]:
        """How far each branch reaches, and the field at its knots and each node of the other."""
        found = []
        for branch, other in (self.branches, self.branches[::-1]):
            reach = float(branch.values.abs().max().clamp_min(1e-300))
            knots = torch.linspace(-reach, reach, KNOTS, dtype=torch.float64)
            sums = knots[:, None] + other.values
            found.append((reach, sums if self.quantiles is None else self.quantiles.invert(sums)))
        return found


def superpose(x: Law, y: Law, alpha: float, pairs: Pairs, means: Tensor) -> Superposition | None:
    """Return x + alpha y, of the given second moments and means, as a function of a Gaussian field.

    Returns None if one of them is not a function of a Gaussian field itself, or both are constant.
    """
    if any(not law.field.gaussian or law.thinning != 1.0 for law in (x, y)):
        return None
    branches = Branch(x, 1.0), Branch(y, alpha)
    if x.is_field and y.is_field:
        return Superposition(branches, Field(pairs, means, gaussian=True), None)
    if sum(float(branch.values.std()) for branch in branches) == 0.0:
        return None
    quantiles = Quantiles.of(*branches)
    return Superposition(branches, quantiles.make_field(pairs, means), quantiles)


def _nodes() -> Tensor:
    step = 2 * REACH / NODES
    return (torch.arange(NODES, dtype=torch.float64) + 0.5) * step - REACH


def _weigh_nodes() -> Tensor:
    weights = torch.exp(-_nodes().square() / 2)
    return weights / weights.sum()
