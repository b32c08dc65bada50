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

from varprobe.errors import MissingRuleError
from varprobe.theory.curves import Curve, interpolate
from varprobe.theory.expectations import Field, expand_at
from varprobe.theory.factors import Factor
from varprobe.theory.knots import Knots
from varprobe.theory.law import Gradient, Law
from varprobe.theory.pairs import Pairs
from varprobe.theory.pointwise import IDENTITY, Pointwise

REACH = 8.0
"""Where distributions are cut, in standard deviations: P(|z| > 8) = 1e-15."""

NODES = 400
"""Points that stand for the distribution of one branch, and for that of the sum."""

GRID = 2000
"""Points of the sum at which its distribution is found."""

TAIL = 1e-14
"""Probability at either end of a distribution that rounding has spoilt."""

ALIKE = 1e-4
"""Relative difference below which two positions count as one."""

STEPS = 12
"""Corrections of location, scale and correlation; each leaves about a tenth of the error."""

DILATION = 0.02
"""Relative step by which a branch is dilated to see how much a function of the sum grows."""

COARSE = 4
"""Every how many of the values are enough for that."""

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
    scatter : float
        Relative variance of its second moment against that of the other summand.
    """

    law: Law
    scale: float
    scatter: float = 0.0

    @cached_property
    def values(self) -> Tensor:
        """Values that stand for the distribution, of the probabilities `weights`."""
        spread = math.sqrt(max(self.law.field.covariances.mean, 0.0))
        mean = float(self.law.field.means.mean())
        parts = [
            math.sqrt(size) * self.law.function(mean + spread * nodes)
            for (size, _), nodes in zip(self._sizes, self._deal(_nodes()), strict=True)
        ]
        return self.scale * torch.cat(parts)

    @cached_property
    def weights(self) -> Tensor:
        """Probabilities of the values."""
        parts = [
            chance * weights / weights.sum()
            for (_, chance), weights in zip(self._sizes, self._deal(_weigh_nodes()), strict=True)
        ]
        return torch.cat(parts)

    def _deal(self, nodes: Tensor) -> list[Tensor]:
        """Deal the nodes among the sizes: a sum over each of them is exact enough by itself."""
        return [nodes[start :: len(self._sizes)] for start in range(len(self._sizes))]

    @cached_property
    def ends(self) -> tuple[Tensor, Tensor]:
        """Smallest and largest value."""
        return self.values.min(), self.values.max()

    @cached_property
    def moments(self) -> tuple[float, float]:
        """Mean and variance."""
        mean = float(self.values @ self.weights)
        return mean, float((self.values - mean).square() @ self.weights)

    def distribute(self, x: Tensor) -> Tensor:
        """Return the probability to be below ``x``."""
        values, order = self.values.sort()
        weights = self.weights[order]
        below = weights.cumsum(0) - weights / 2
        rising = _find_rising(values)
        return interpolate(x, values[rising], below[rising]).clamp_(0, 1)

    @cached_property
    def _sizes(self) -> list[tuple[float, float]]:
        """Second moments that stand for log-normal ones, and their probabilities."""
        if not self.scatter:
            return [(1.0, 1.0)]
        variance = math.log1p(self.scatter)
        ends = [math.exp(sign * math.sqrt(3 * variance)) for sign in (-1, 1)]
        # Gauss and Hermite's three nodes, scaled to a mean of 1.
        mean = (sum(ends) + 4) / 6
        return [(1 / mean, 2 / 3), *((end / mean, 1 / 6) for end in ends)]


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
        """Find the distribution: that of one branch, moved to each value of the other."""
        smooth, other = (second, first) if second.law.is_field else (first, second)
        low, high = (float(one + two) for one, two in zip(first.ends, second.ends, strict=True))
        sums = torch.linspace(low, high, GRID, dtype=torch.float64)
        below = smooth.distribute(sums[:, None] - other.values) @ other.weights
        (mean, spread) = _add_moments(first, second)
        inside = (below > TAIL) & (below < 1 - TAIL)
        if not bool(inside.any()):
            raise MissingRuleError("a sum without a distribution: constant, or not finite")
        found, sums = torch.special.ndtri(below[inside]), sums[inside]
        # Beside a branch of next to nothing the values of the other stand apart, with gaps between.
        rising = _find_rising(found)
        found, sums = found[rising], sums[rising]
        first_node, last_node = max(-REACH, float(found[0])), min(REACH, float(found[-1]))
        nodes = torch.linspace(first_node, last_node, NODES, dtype=torch.float64)
        return cls(mean, spread, Curve(first_node, last_node, interpolate(nodes, found, sums)))

    def __call__(self, w: Tensor) -> Tensor:
        """Return the sum where the normal is ``w``."""
        return self.curve((w - self.mean) / self.spread)

    def invert(self, sums: Tensor) -> Tensor:
        """Return where the normal is, given the sum; on a plateau, one of the places."""
        curve = self.curve
        nodes = torch.linspace(curve.first, curve.last, len(curve.values), dtype=torch.float64)
        rising = _find_rising(curve.values)
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
class Exponents:
    """How much a function of a sum follows the second moment of each branch."""

    branches: tuple[Branch, Branch]
    quantiles: Quantiles

    def __call__(self, function: Pointwise) -> tuple[float, ...]:
        """Return d ln E f / d ln q for the second moment q of each branch, f of the field."""
        weights, dilated = self._dilated
        levels = [max(float((function(sums) * weights).sum()), 1e-300) for sums in dilated]
        step = 4 * math.log1p(DILATION)
        return tuple(
            math.log(far / near) / step for far, near in zip(levels[::2], levels[1::2], strict=True)
        )

    @cached_property
    def _dilated(self) -> tuple[Tensor, list[Tensor]]:
        """Probabilities, and the field where each branch is dilated and contracted."""
        first, second = (branch.values[::COARSE] for branch in self.branches)
        weights = torch.outer(*(branch.weights[::COARSE] for branch in self.branches))
        far, near = 1 + DILATION, 1 / (1 + DILATION)
        sums = [
            one * first[:, None] + other * second
            for one, other in ((far, 1.0), (near, 1.0), (1.0, far), (1.0, near))
        ]
        return weights / weights.sum(), [self.quantiles.invert(sum_) for sum_ in sums]


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
        # Where one branch grows, so does the other, which is made of it: what the sum asks for.
        field = branch.law.field
        seen = Factor(field=field, mean=means, square=squares, growing=factor.growing)
        signal = seen.divide(part.pairs)
        return replace(part, layout=branch.law.layout, signal=signal, factor=seen)

    def _average(self, index: int, *functions: Pointwise) -> list[Pointwise]:
        """Return the average of functions of the field over one branch, given the other."""
        branch, knots = self.branches[index], self._knots[index]
        reach = knots.reach

        def average(function: Pointwise) -> Pointwise:
            curve = Curve(-reach, reach, knots.average(function))
            scale, inner = branch.scale, branch.law.function
            return Pointwise(lambda u: curve((scale * inner(u)).clamp(-reach, reach)))

        return [average(function) for function in functions]

    @cached_property
    def _knots(self) -> list[Knots]:
        """Where each branch is when functions are averaged over the other."""
        locate = IDENTITY if self.quantiles is None else self.quantiles.invert
        return [
            Knots.of(branch.values, other.values, other.weights, locate)
            for branch, other in (self.branches, self.branches[::-1])
        ]


def _find_rising(values: Tensor) -> Tensor:
    """Return where values are larger than the one before: between others nothing can be told."""
    rising = torch.ones_like(values, dtype=torch.bool)
    rising[1:] = values.diff() > 0
    return rising


def superpose(
    x: Law, y: Law, alpha: float, pairs: Pairs, means: Tensor, scatter: float
) -> Superposition | None:
    """Return x + alpha y, of the given second moments and means, as a function of a Gaussian field.

    ``scatter`` is the relative variance of the ratio of their second moments.

    Returns None if one of them is not a function of a Gaussian field itself, or both are constant.
    """
    if any(not law.field.gaussian or law.thinning != 1.0 for law in (x, y)):
        return None
    # The scale of the branch that is centred varies: the mean of the sum stays.
    moved = (scatter, 0.0) if x.is_field else (0.0, scatter)
    branches = Branch(x, 1.0, moved[0]), Branch(y, alpha, moved[1])
    if x.is_gaussian and y.is_gaussian:
        return Superposition(branches, Field(pairs, means, gaussian=True), None)
    if sum(float(branch.values.std()) for branch in branches) == 0.0:
        return None
    quantiles = Quantiles.of(*branches)
    field = quantiles.make_field(pairs, means)
    field = replace(field, exponents=Exponents(branches, quantiles))
    return Superposition(branches, field, quantiles)


def _add_moments(first: Branch, second: Branch) -> tuple[float, float]:
    """Return mean and standard deviation of the sum of independent values."""
    mean, variance = (sum(pair) for pair in zip(first.moments, second.moments, strict=True))
    return mean, math.sqrt(max(variance, 1e-300))


def _nodes() -> Tensor:
    step = 2 * REACH / NODES
    return (torch.arange(NODES, dtype=torch.float64) + 0.5) * step - REACH


def _weigh_nodes() -> Tensor:
    weights = torch.exp(-_nodes().square() / 2)
    return weights / weights.sum()
