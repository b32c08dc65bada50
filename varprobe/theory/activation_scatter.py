"""How a function of finitely many Gaussian units scatters, forward and as a factor of a gradient.

The average of φ² over n units scatters by the variance of φ² between positions, 1/n of it, and
follows the Gram matrix of the units to the power of the growth of φ² with its argument.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from varprobe.theory.expectations import Field, expand_at, expect_at
from varprobe.theory.fluctuations import TINY, GradientSpread, Mixture, Spread, follow
from varprobe.theory.pairs import Pairs
from varprobe.theory.pointwise import Pointwise
from varprobe.theory.roots import add_root


class Activation:
    """Scatter of functions of ``units`` Gaussian samples, forward and backward.

    All positions count at their pooled scale; their correlations are told apart.
    """

    def __init__(self, field: Field, units: int) -> None:
        self.units = units
        self.field = field
        self.key = id(field.pairs)
        self.mixture = Mixture.of(field.covariances)
        self.scale = math.sqrt(max(field.covariances.mean, 0.0))
        self.mean = float(field.means.mean())

    def _series(self, function: Pointwise) -> _Series:
        coefficients = expand_at(function, self.scale, self.mean)
        square = expect_at(function * function, self.scale, self.mean)
        return _Series(coefficients, square, self.mixture.correlations)

    def forward(self, function: Pointwise, spread: Spread) -> Spread:
        """Return the spread of φ(u), u of the given spread."""
        value, square = self._series(function), self._series(function * function)
        second = max(value.at_one, TINY)
        gram_values = square.values / second**2
        if spread.pinned:
            # A norm leaves no scatter to the linear and the quadratic part of φ².
            square = square.without(1, 2)
        fourth = square.values / second**2
        bent = max(0.0, self.mixture.average(square.bends) / second**2 / 2) * spread.gram
        noise = self.mixture.average_all(square.at_one / second**2 - 1, fourth - 1 + bent)
        slope = self.mixture.average((value.slopes / second).square())
        local = self.mixture.average(gram_values - (value.values / second).square())
        own = max(noise, 0.0) / self.units
        below = self._follow(function * function, spread)
        return Spread(
            kernel=(1 + below.kernel) * (1 + own) - 1,
            gram=slope * spread.gram + max(0.0, local) / self.units,
            roots=add_root(below.roots, self.key, math.sqrt(math.log1p(own))),
        )

    def _follow(self, square: Pointwise, spread: Spread) -> Spread:
        """Return how E f(u) scatters with what the field is made of."""
        exponents = self.field.grow(square)
        branches = spread.branches or (spread,)
        if len(exponents) == len(branches):
            return follow(branches, exponents)
        return follow((spread,), (sum(exponents),))

    def backward(
        self,
        factor: Pointwise,
        square: Pointwise,
        signal: Pairs,
        spread: GradientSpread,
        growth: float,
    ) -> GradientSpread:
        """Return the spread of a gradient after it is multiplied by a function of u.

        Parameters
        ----------
        factor, square : Pointwise
            a(u), the slope of the activation, and the expectation of its square.
        signal : Pairs
            The gradient before.
        spread : GradientSpread
            Its spread.
        growth : float
            d ln E a² / d ln q, q the second moment of the array.
        """
        value, squared = self._series(factor), self._series(square)
        second = max(expect_at(square, self.scale, self.mean), TINY)
        alike = Mixture.sample(signal).correlations.square()
        paired = squared.values / second**2 * (1 + 2 * (alike + spread.gram))
        noise = self.mixture.average_all(3 * squared.at_one / second**2 - 1, paired - 1)
        ratio = (value.values / second).square()
        local = self.mixture.average(squared.values / second**2 * (1 + 2 * alike) - ratio * alike)
        rest = spread.rest
        if spread.activation is not None and spread.echo:
            rest += 2 * spread.echo * self._joint(spread.activation, square)
        return GradientSpread(
            kernel=(1 + spread.kernel) * (1 + max(noise, 0.0) / self.units) - 1,
            gram=self.mixture.average(ratio) * spread.gram + max(0.0, local) / self.units,
            tilt=spread.tilt + growth,
            rest=rest,
        )

    def _joint(self, function: Pointwise, square: Pointwise) -> float:
        """Return the relative covariance of the pooled φ² and a² over the units."""
        first = expand_at(function * function, self.scale, self.mean)
        second = expand_at(square, self.scale, self.mean)
        product = max(float(first[0] * second[0]), TINY)
        powers = self.mixture.correlations[:, None] ** torch.arange(len(first))
        same = expect_at(function * function * square, self.scale, self.mean)
        apart = powers @ (first * second)
        return self.mixture.average_all(same / product - 1, apart / product - 1) / self.units


def descend(
    spread: GradientSpread, activation: Activation, law: Spread, below: Spread, function: Pointwise
) -> GradientSpread:
    """Return the spread of a gradient, its tilt turned from a law to the field below it.

    The forward kernel at the law is that at the field to the power of the activation's growth,
    times the scatter of the activation's own units.
    """
    growth = sum(activation.field.grow(function * function))
    added = max(0.0, law.kernel - growth**2 * below.kernel)
    return replace(
        spread,
        tilt=growth * spread.tilt,
        rest=spread.rest + spread.tilt**2 * added,
        echo=spread.tilt,
        activation=function,
    )


@dataclass(frozen=True, slots=True)
class _Series:
    """E f(u) f(v) as a power series in the correlation, at each of some correlations."""

    coefficients: Tensor
    at_one: float
    correlations: Tensor

    def _sum(self, weights: Tensor, lowered: int, rest: float) -> Tensor:
        orders = torch.arange(len(weights) - lowered)
        powers = self.correlations[:, None] ** orders
        return powers @ weights[lowered:] + rest * powers[:, -1]

    def without(self, *orders: int) -> _Series:
        """Return the series of f less its components of these orders."""
        kept = self.coefficients.clone()
        kept[list(orders)] = 0
        removed = float(self.coefficients.square().sum() - kept.square().sum())
        return _Series(kept, self.at_one - removed, self.correlations)

    @property
    def values(self) -> Tensor:
        """The function, at each correlation."""
        squares = self.coefficients.square()
        return self._sum(squares, 0, self.at_one - float(squares.sum()))

    @property
    def slopes(self) -> Tensor:
        """First derivative by the correlation."""
        orders = torch.arange(len(self.coefficients))
        return self._sum(orders * self.coefficients.square(), 1, 0.0)

    @property
    def bends(self) -> Tensor:
        """Second derivative by the correlation."""
        orders = torch.arange(len(self.coefficients))
        return self._sum(orders * (orders - 1) * self.coefficients.square(), 2, 0.0)
