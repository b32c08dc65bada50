"""Expectations of pointwise functions over a Gaussian field: for each position and each pair.

Rectifier-like functions have closed forms (Cho and Saul 2009, arc-cosine kernels of order 0 and 1).
All others go through their Hermite series, whose coefficients are integrals over one variable:
E f(u) g(v) = Σ_k a_k b_k ρ^k (Daniely, Frostig and Singer 2016).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, cached_property, lru_cache
from typing import TypeVar

import torch
from torch import Tensor

from varprobe.theory.pairs import Pairs
from varprobe.theory.pointwise import Pointwise

E = TypeVar("E", Tensor, Pairs)

ORDER = 40
"""Terms of the Hermite series; what they leave over is added at the power ρ^ORDER."""

REACH = 10.0
"""Where the line is cut, in standard deviations: P(|z| > 10) = 1.5e-23."""

LAMBDA = 0.2
"""Step of the second difference by which the scale of a field is varied."""

SAME = 1e-5
"""Relative difference below which the spreads of two positions count as one."""

ALIKE = 2e-3
"""The same, where there are more than `MOST_KINDS` of them; its errors average out."""

MOST_KINDS = 64

NODES = 4000
"""Midpoints between -REACH and REACH; none at 0, so that a step or a kink there costs nothing."""


@dataclass(frozen=True)
class Field:
    """A random array over positions: the law of each pair, and whether it is jointly Gaussian.

    Parameters
    ----------
    pairs : Pairs
        Second moments of all pairs of positions.
    means : Tensor
        Mean at each position, shape (P,), float64.
    gaussian : bool
        Whether the elements are jointly Gaussian, so that functions of them can be integrated.
    narrowing : float
        By how much the fourth moments fall short of Gaussian ones, relative to them: what a norm
        over few samples does to its output.
    exponents : callable or None
        Of a field that stands for a sum: d ln E f(x) / d ln q for the second moment q of each
        summand. None where the field grows about its means.
    """

    pairs: Pairs
    means: Tensor
    gaussian: bool
    narrowing: float = 0.0
    exponents: Callable[[Pointwise], tuple[float, ...]] | None = None

    def rescale(self, factor: float) -> Field:
        """Return the field with its covariances multiplied by ``factor``, purely Gaussian."""
        pairs = (self.covariances * factor).add_product(self.means, self.means)
        return Field(pairs, self.means, self.gaussian)

    def shift(self, pairs: Pairs, means: Tensor) -> Field:
        """Return the field with other means, and pairs: the same one each time it is asked for.

        A norm by hand takes the mean off twice, once for the variance.
        """
        for known in self._shifted:
            if torch.equal(known.means, means):
                return known
        self._shifted.append(Field(pairs, means, self.gaussian))
        return self._shifted[-1]

    @cached_property
    def _shifted(self) -> list[Field]:
        return []

    def _narrow(self, compute: Callable[[Field], E]) -> E:
        """Take the expectation that ``compute`` finds under the Gaussian under the narrower law.

        A vector of fixed length is a Gaussian whose squared scale has its variance taken out:
        E f = M(1) - narrowing / 2 M''(1), where M(λ) is the Gaussian expectation at scale λ.
        """
        if not self.narrowing:
            return compute(self)
        level = compute(self._gaussian)
        up, down = (compute(field) for field in self._neighbours)
        bend: E = (up + down - level * 2.0) * (self.narrowing / (2 * LAMBDA**2))
        return level - bend

    @cached_property
    def _gaussian(self) -> Field:
        return replace(self, narrowing=0.0)

    @cached_property
    def _neighbours(self) -> tuple[Field, Field]:
        return self.rescale(1 + LAMBDA), self.rescale(1 - LAMBDA)

    @cached_property
    def is_centred(self) -> bool:
        """Whether all means are zero."""
        return not bool(self.means.any())

    @cached_property
    def covariances(self) -> Pairs:
        """Pairs of the centred array."""
        if self.is_centred:
            return self.pairs
        return self.pairs.add_product(self.means, self.means, -1.0)

    @cached_property
    def spreads(self) -> Tensor:
        """Standard deviation at each position, shape (P,), float64."""
        return self.covariances.second_moments.double().clamp_min(0).sqrt()

    def correlations(self) -> Tensor:
        """Return the correlation of each pair, shape of the pairs' values."""
        spreads = self.spreads.clamp_min(1e-30)
        return (self.covariances.values / self.pairs.broadcast(spreads, spreads)).clamp_(-1, 1)

    @cached_property
    def _kinds(self) -> tuple[Tensor, Tensor, Tensor]:
        """Spreads and means of the different kinds of position, and the kind of each position."""
        marks, known = torch.stack([self.spreads, self.means], dim=1), self.pairs.stand_ins
        if known is not None:
            marks = marks[known[0]]
        marks_in = marks / marks.abs().amax(dim=0).clamp_min(1e-300)
        found, inverse = torch.unique((marks_in / SAME).round(), dim=0, return_inverse=True)
        if len(found) > MOST_KINDS:
            _, inverse = torch.unique((marks_in / ALIKE).round(), dim=0, return_inverse=True)
        kinds = torch.zeros(int(inverse.max()) + 1, 2, dtype=torch.float64)
        kinds[inverse] = marks
        return kinds[:, 0], kinds[:, 1], inverse if known is None else inverse[known[1]]

    def evaluate(self, function: Pointwise) -> Tensor:
        """Return the function on the quadrature nodes of each kind of position, (kinds, nodes)."""
        return function(self._places)

    @cached_property
    def _places(self) -> Tensor:
        spreads, means, _ = self._kinds
        nodes, _ = _rule()
        return means[:, None] + spreads[:, None] * nodes

    def grow(self, function: Pointwise) -> tuple[float, ...]:
        """Return d ln E f(x) / d ln q at a typical position: 1 for the square of a rectifier.

        One number for each summand of a sum, otherwise one.
        """
        if self.exponents is not None:
            return self.exponents(function)
        scale, mean = math.sqrt(max(self.covariances.mean, 0.0)), float(self.means.mean())
        level, _, bend = expand_at(function, scale, mean)[:3].tolist()
        return (bend / math.sqrt(2) / max(level, 1e-150),)

    def expect(self, function: Pointwise) -> Tensor:
        """Return E f(x_p) for each position, shape (P,), float64."""
        return self._narrow(lambda field: field._expect(function))

    def _expect(self, function: Pointwise) -> Tensor:
        if not bool(self.spreads.any()):
            # A statistic of a norm: known at each position, however many kinds there are.
            return function(self.means)
        _, weights = _rule()
        return (self.evaluate(function) @ weights)[self._kinds[2]]

    def expand(self, function: Pointwise) -> Tensor:
        """Return the Hermite coefficients E[f(x) h_k(z)] of each kind of position, k ≤ ORDER."""
        if function not in self._expanded:
            self._expanded[function] = self.evaluate(function) @ _hermite().T
        return self._expanded[function]

    @cached_property
    def _expanded(self) -> dict[Pointwise, Tensor]:
        return {}

    def expect_pairs(self, first: Pointwise, second: Pointwise | None = None) -> Pairs:
        """Return E f(x_p) g(x_p') for all pairs; ``second`` is ``first`` if not given."""
        other = first if second is None else second
        return self._narrow(lambda field: field._expect_pairs(first, other))

    def _expect_pairs(self, first: Pointwise, second: Pointwise) -> Pairs:
        if self.is_centred and first.slopes and second.slopes:
            return self._rectify(first.slopes, second.slopes)
        if self.is_centred and first.levels and second.levels:
            return self._step(first.levels, second.levels)
        same = self.evaluate(first * second) @ _rule()[1]
        pairs = self._sum_series(self.expand(first), self.expand(second), same)
        return pairs.with_diagonal(same[self._kinds[2]])

    def expect_slope_pairs(self, first: Pointwise, second: Pointwise) -> Pairs:
        """Return E f'(x_p) g(x_p') for all pairs; f may have steps, whose derivative is a delta."""
        return self._narrow(lambda field: field._expect_slope_pairs(first, second))

    def _expect_slope_pairs(self, first: Pointwise, second: Pointwise) -> Pairs:
        if self.is_centred and first.levels and second.slopes:
            steps = (first.levels[0] - first.levels[1]) * (second.slopes[0] - second.slopes[1])
            spreads = self.spreads.clamp_min(1e-30)
            ratio = self.pairs.broadcast(1 / spreads, spreads)
            sine = (1 - self.correlations().square()).clamp_min_(0).sqrt_()
            return replace(self.pairs, values=sine.mul_(ratio * (steps / (2 * math.pi))))
        a = self.differentiate(self.expand(first))
        b = self.expand(second)[:, :-1]
        return self._sum_series(a, b, (a * b).sum(1))

    def expect_euler_pairs(self, first: Pointwise, second: Pointwise) -> Pairs:
        """Return E f(x_p) y g'(x_p') for all pairs, y the centred x_p'; no steps in g."""
        return self._narrow(lambda field: field._expect_euler_pairs(first, second))

    def _expect_euler_pairs(self, first: Pointwise, second: Pointwise) -> Pairs:
        _, means, _ = self._kinds
        # y g' = (y g)' - g, so that no second derivative is ever formed.
        centred = (self.evaluate(Pointwise(lambda x: x)) - means[:, None]) * self.evaluate(second)
        a, b = self.expand(first)[:, :-1], self.expand(second)[:, :-1]
        b = self.differentiate(centred @ _hermite().T) - b
        return self._sum_series(a, b, (a * b).sum(1))

    def differentiate(self, coefficients: Tensor) -> Tensor:
        """Return the Hermite coefficients of f' from those of f; one fewer."""
        orders = torch.arange(1, coefficients.shape[1], dtype=torch.float64).sqrt()
        return coefficients[:, 1:] * orders / self._kinds[0].clamp_min(1e-30)[:, None]

    def _rectify(self, first: tuple[float, float], second: tuple[float, float]) -> Pairs:
        """Return E f(u) g(v) for f and g with one slope on each side of zero."""
        (a, b), (c, d) = first, second
        linear = b * d + (b * (c - d) + d * (a - b)) / 2
        if a == b or c == d:
            return self.pairs * linear
        rho = self.correlations()
        kernel = (math.pi - torch.arccos(rho)).mul_(rho)
        kernel += (1 - rho * rho).clamp_min_(0).sqrt_()
        kernel *= self.pairs.broadcast(self.spreads, self.spreads * ((a - b) * (c - d) / math.tau))
        kernel.add_(self.pairs.values, alpha=linear)
        # Rounding turns ρ = 1 into 1 - 6e-8, whose arc cosine is 3e-4.
        found = replace(self.pairs, values=kernel)
        return found.with_diagonal(self.pairs.second_moments * ((a * c + b * d) / 2))

    def _step(self, first: tuple[float, float], second: tuple[float, float]) -> Pairs:
        """Return E f(u) g(v) for f and g with one value on each side of zero."""
        (a, b), (c, d) = first, second
        constant = b * d + (b * (c - d) + d * (a - b)) / 2
        if a == b or c == d:
            return replace(self.pairs, values=torch.full_like(self.pairs.values, constant))
        kernel = math.pi - torch.arccos(self.correlations())
        kernel.mul_((a - b) * (c - d) / math.tau).add_(constant)
        found = replace(self.pairs, values=kernel)
        level = torch.full_like(self.pairs.second_moments, (a * c + b * d) / 2)
        return found.with_diagonal(level)

    def _sum_series(self, a: Tensor, b: Tensor, same: Tensor) -> Pairs:
        """Return Σ_k a_k b_k ρ^k; ``same`` is its value at ρ = 1, summed exactly."""
        rest = same - (a * b).sum(1)
        kind = self._kinds[2]
        rho = self.correlations()
        if len(same) == 1:
            products = [float(p) for p in (a * b)[0]]
            total = torch.full_like(rho, products[-1] + float(rest[0]))
            for product in reversed(products[:-1]):
                total.mul_(rho).add_(product)
            return replace(self.pairs, values=total)
        a, b, rest = (part[kind].to(rho.dtype) for part in (a, b, rest))
        ones = torch.ones_like(rest)
        total = self.pairs.broadcast(a[:, -1], b[:, -1])
        total = total + self.pairs.broadcast(rest, ones / 2) + self.pairs.broadcast(ones / 2, rest)
        total = total.expand_as(rho).clone()
        for k in range(a.shape[1] - 2, -1, -1):
            total.mul_(rho).add_(self.pairs.broadcast(a[:, k], b[:, k]))
        return replace(self.pairs, values=total)


def expect_at(function: Pointwise, spread: float, mean: float = 0.0) -> float:
    """Return E f(x), x ~ N(mean, spread²)."""
    return float(function(_place(spread, mean)) @ _rule()[1])


def expand_at(function: Pointwise, spread: float, mean: float = 0.0) -> Tensor:
    """Return the Hermite coefficients E[f(mean + spread z) h_k(z)], k ≤ ORDER."""
    return _hermite() @ function(_place(spread, mean))


# The same array each time: what a function is there is asked for again (`pointwise.remember`).
@lru_cache(maxsize=64)
def _place(spread: float, mean: float) -> Tensor:
    nodes, _ = _rule()
    return mean + spread * nodes


@cache
def _rule() -> tuple[Tensor, Tensor]:
    """Return nodes and weights of the midpoint rule under the standard normal density."""
    step = 2 * REACH / NODES
    nodes = (torch.arange(NODES, dtype=torch.float64) + 0.5) * step - REACH
    weights = torch.exp(-nodes * nodes / 2)
    return nodes, weights / weights.sum()


@cache
def _hermite() -> Tensor:
    """Return weight times normalized Hermite polynomial at each node, (orders, nodes)."""
    nodes, weights = _rule()
    rows = [torch.ones_like(nodes), nodes]
    for k in range(1, ORDER):
        rows.append((nodes * rows[k] - math.sqrt(k) * rows[k - 1]) / math.sqrt(k + 1))
    return torch.stack(rows) * weights
