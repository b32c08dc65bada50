"""How far one draw of the weights scatters about the infinite-width law.

Conditional on the layer below, a layer of n units is n independent samples of a Gaussian whose
covariance is the Gram matrix of the layer below. The second moment therefore scatters by the trace
of that matrix (`kernel`), by the finite number of units (`own`), and by its off-diagonal entries
(`gram`), whose squares add to the scatter of every later layer: forgetting them makes the bars of
tanh networks 0.6 times too narrow. For one sample through ReLU layers the recursion is Hanin's
product of (1 + 5/n) (Hanin and Rolnick 2018, theorem 5).

Backward the same recursion runs on the gradient's Gram matrix. Where the slope of the activation
depends on the scale of its input (tanh, GELU, not ReLU), the gradient also inherits the forward
fluctuations of every layer above: `tilt` is the exponent with which it follows the one at hand.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from varprobe.theory.expectations import Field, expand_at, expect_at
from varprobe.theory.pairs import Pairs
from varprobe.theory.pointwise import Pointwise
from varprobe.theory.roots import Roots, add_root, scale_roots

MOST_POSITIONS = 24
"""Positions whose pairs stand for all; the averages below are smooth in the correlation."""

ROUNDING = 1e-4
"""Sums smaller than this share of their terms are zero: a bias before a norm."""

TINY = 1e-150
"""Floor of a divisor, whose square is a number, too: what passes nothing has no scatter."""


@dataclass(frozen=True, slots=True)
class Spread:
    """Relative scatter of a tensor's second moment over draws of the weights.

    Parameters
    ----------
    kernel : float
        Relative variance of the second moment expected from the layers below.
    own : float
        Relative variance about that expectation, from the finite number of units.
    gram : float
        Variance of the off-diagonal entries of the Gram matrix of the layers below, relative to
        the squared second moment.
    pinned : bool
        Whether a norm holds mean and second moment of the array itself where they are.
    length : float
        Relative variance of the second moment at one position, where it is more than that of
        independent Gaussian features (`varprobe.theory.lengths`).
    loose : float
        Share of the second moment that no norm below holds where it is.
    roots : mapping
        Where the scatter of the kernel comes from (`varprobe.theory.roots`).
    """

    kernel: float = 0.0
    own: float = 0.0
    gram: float = 0.0
    pinned: bool = False
    length: float | None = None
    loose: float = 1.0
    roots: Roots = field(default_factory=dict)

    @property
    def relative_variance(self) -> float:
        """Relative variance of the measured second moment."""
        return (1 + self.kernel) * (1 + self.own) - 1

    @property
    def log_std(self) -> float:
        """Standard deviation of ln(measured second moment), for a log-normal second moment."""
        return math.sqrt(math.log1p(self.relative_variance))


@dataclass(frozen=True, slots=True)
class GradientSpread(Spread):
    """Scatter of a gradient's second moment.

    Parameters
    ----------
    tilt : float
        d ln(second moment of the gradient) / d ln(forward kernel), where the gradient is now.
    rest : float
        Relative variance inherited from the forward fluctuations of the layers above.
    echo : float
        The tilt above the last activation, whose units scatter both ways.
    activation : Pointwise or None
        That activation.
    projected : float
        Share of the gradient from which a norm above took off the part along the array.
    """

    tilt: float = 0.0
    rest: float = 0.0
    echo: float = 0.0
    activation: Pointwise | None = None
    projected: float = 0.0

    def at(self, forward_kernel: float) -> Spread:
        """Return the scatter where the forward kernel has this relative variance."""
        inherited = max(0.0, self.tilt**2 * forward_kernel + self.rest)
        kernel = (1 + self.kernel) * (1 + inherited) - 1
        return Spread(kernel, self.own, self.gram)


@dataclass(frozen=True)
class Mixture:
    """The correlations of the pairs of a field, a few standing for all.

    Parameters
    ----------
    correlations, weights : Tensor
        Of pairs of different (sample, position); the weights sum to 1, or there are none.
    diagonal : float
        Share of the pairs of a (sample, position) with itself.
    """

    correlations: Tensor
    weights: Tensor
    diagonal: float

    @classmethod
    def of(cls, pairs: Pairs) -> Mixture:
        """Sample the pairs of positions."""
        values, scales, shares = pairs.sample_pairs(MOST_POSITIONS)
        weights = shares / shares.sum() if shares.any() else shares
        return cls((values / scales).clamp(-1, 1), weights, 1 / pairs.size)

    def average(self, values: Tensor) -> float:
        """Return the mean over pairs of different (sample, position)."""
        return float(values @ self.weights)

    def average_all(self, at_one: float, values: Tensor) -> float:
        """Return the mean over all pairs, given the value of a pair of an element with itself."""
        return self.diagonal * at_one + (1 - self.diagonal) * self.average(values)


def scatter_units(pairs: Pairs, gram: float, units: int) -> float:
    """Return the relative variance of the mean square of ``units`` Gaussian samples.

    2/n times the mean over pairs of K²/q², of which ``gram`` is the part that is itself random.
    """
    square = pairs.map(torch.square).average() / max(pairs.mean**2, TINY)
    return 2 * (square + gram * (1 - 1 / pairs.size)) / units


def realize(spread: Spread, pairs: Pairs, units: int) -> Spread:
    """Return the spread of the Gram matrix that ``units`` Gaussian samples really have."""
    if spread.own == 0:
        return spread
    correlations = Mixture.of(pairs)
    noise = 1 + correlations.average(correlations.correlations.square())
    return replace(
        spread,
        kernel=spread.relative_variance,
        own=0.0,
        gram=spread.gram + (noise / units if pairs.size > 1 else 0.0),
        roots=add_root(spread.roots, id(pairs), math.sqrt(spread.own)),
    )


class Activation:
    """Scatter of functions of ``units`` Gaussian samples, forward and backward.

    All positions count at their pooled scale; their correlations are told apart.
    """

    def __init__(self, field: Field, units: int) -> None:
        self.units = units
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
        return Spread(
            kernel=(1 + square.growth**2 * spread.kernel) * (1 + own) - 1,
            gram=slope * spread.gram + max(0.0, local) / self.units,
            roots=add_root(scale_roots(spread.roots, square.growth), self.key, math.sqrt(own)),
        )

    def growth(self, function: Pointwise) -> float:
        """Return d ln E φ(u)² / d ln q, which is 1 for a rectifier."""
        return self._series(function * function).growth

    def backward(
        self, factor: Pointwise, square: Pointwise, signal: Pairs, spread: GradientSpread
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
        """
        value, squared = self._series(factor), self._series(square)
        second = max(expect_at(square, self.scale, self.mean), TINY)
        alike = Mixture.of(signal).correlations.square()
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
            tilt=spread.tilt + squared.growth,
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

    @property
    def growth(self) -> float:
        """D ln E f(u) / d ln q."""
        return float(self.coefficients[2]) / math.sqrt(2) / max(float(self.coefficients[0]), TINY)


def join_spreads(spreads: Sequence[GradientSpread], sizes: Sequence[float]) -> GradientSpread:
    """Return the spread of a sum of gradients that come from one above and scatter together."""
    total = max(sum(sizes), TINY)
    shares = [size / total for size in sizes]
    pairs = list(zip(shares, spreads, strict=True))
    main = spreads[shares.index(max(shares))]
    deviation = sum(share * math.sqrt(spread.relative_variance) for share, spread in pairs)
    gram = sum(share**2 * spread.gram for share, spread in pairs)
    return replace(main, kernel=deviation**2, own=0.0, gram=gram)


def descend(
    spread: GradientSpread, activation: Activation, law: Spread, below: Spread, function: Pointwise
) -> GradientSpread:
    """Return the spread of a gradient, its tilt turned from a law to the field below it.

    The forward kernel at the law is that at the field to the power of the activation's growth,
    times the scatter of the activation's own units.
    """
    growth = activation.growth(function)
    added = max(0.0, law.kernel - growth**2 * below.kernel)
    return replace(
        spread,
        tilt=growth * spread.tilt,
        rest=spread.rest + spread.tilt**2 * added,
        echo=spread.tilt,
        activation=function,
    )


def share_tilt(
    spread: GradientSpread, share: float, total: Spread, branch: Spread
) -> GradientSpread:
    """Return a gradient's spread at one branch of a sum, its tilt turned from that to the branch.

    Parameters
    ----------
    spread : GradientSpread
        At the sum.
    share : float
        Share of the branch in the sum's second moment.
    total, branch : Spread
        Of the arrays.
    """
    tilt = spread.tilt * share
    inherited = spread.tilt**2 * total.kernel - tilt**2 * branch.kernel
    return replace(spread, tilt=tilt, rest=spread.rest + max(0.0, inherited), echo=0.0)


def scatter_products(
    gradient: Pairs, spread: GradientSpread, inputs: Pairs, below: Spread, total: float
) -> Spread:
    """Return the spread of the second moment of a weight gradient, Σ G_ij K_ij.

    Parameters
    ----------
    gradient, inputs : Pairs
        G and K over the same positions.
    spread, below : GradientSpread, Spread
        Their spreads.
    total : float
        Σ G_ij K_ij.
    """
    if total == 0:
        return Spread()
    up = spread.at(below.kernel)
    level = max(gradient.mean * inputs.mean, TINY)
    size = gradient.size
    coherent = max(0.0, _weigh_noise(gradient, inputs) - size)
    loose_up, loose_down = _loosen(spread, gradient), _loosen(below, inputs)
    noise = (loose_up + loose_down) * coherent + loose_up * loose_down * size * (size - 1)
    scatter = 2 * noise * (level / total) ** 2
    kernel = (1 + up.relative_variance) * (1 + below.relative_variance) * (1 + scatter)
    return Spread(kernel=max(0.0, kernel + 2 * spread.tilt * below.kernel - 1))


def sum_products(gradient: Pairs, inputs: Pairs) -> float:
    """Return Σ G_ij K_ij, exactly 0 where its terms cancel up to rounding."""
    total = (gradient * inputs).total()
    terms = gradient.size * gradient.mean * inputs.mean
    return total if abs(total) > ROUNDING * terms else 0.0


def _loosen(spread: Spread, pairs: Pairs) -> float:
    """Return the scatter of the off-diagonal Gram entries that does not come with the trace."""
    alike = Mixture.of(pairs)
    return max(0.0, spread.gram - spread.kernel * alike.average(alike.correlations.square()))


def _weigh_noise(first: Pairs, second: Pairs) -> float:
    """Return tr(G K G K) for unit diagonals, which weighs the scatter of Gram entries in Σ G K.

    Taken at the average off-diagonal entry: one mode that is common to all, the others alike. Never
    less than the sums of squares, which entries of random sign have, too.
    """
    size = first.size
    common, apart, squares = 1.0, 1.0, 0.0
    for pairs in (first, second):
        scale = max(pairs.mean, TINY)
        mode = pairs.average() * size / scale
        common *= mode
        apart *= (size - mode) / max(1, size - 1)
        squares = max(squares, pairs.map(torch.square).total() / scale**2)
    return max(common**2 + (size - 1) * apart**2, squares)
