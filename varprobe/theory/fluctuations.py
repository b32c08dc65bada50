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

from varprobe.theory.pairs import Pairs
from varprobe.theory.pointwise import Pointwise
from varprobe.theory.roots import Roots, add_root, add_roots, covary, scale_roots

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
    modes : mapping or None
        Where that of what different positions have in common comes from, for positions that were
        summed up later: None if from the same.
    """

    kernel: float = 0.0
    own: float = 0.0
    gram: float = 0.0
    pinned: bool = False
    length: float | None = None
    loose: float = 1.0
    roots: Roots = field(default_factory=dict)
    modes: Roots | None = None
    branches: tuple[Spread, ...] = ()

    @property
    def common(self) -> Roots:
        """Deviation of the logarithm of the average second moment of two different positions."""
        return self.roots if self.modes is None else self.modes

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
    def sample(cls, pairs: Pairs) -> Mixture:
        """Take the pairs of some positions."""
        values, scales, shares = pairs.sample_pairs(MOST_POSITIONS)
        weights = shares / shares.sum() if shares.any() else shares
        return cls((values / scales).clamp(-1, 1), weights, 1 / pairs.size)

    @classmethod
    def of(cls, pairs: Pairs) -> Mixture:
        """Take those of some, and give them mean and scatter of all.

        Some correlations of random sign have a mean of their own, and what φ² of two positions have
        in common goes with it; averages of squares do without.
        """
        found = cls.sample(pairs)
        if not found.weights.any():
            return found
        moments = pairs.second_moments.double()
        alike = pairs.scale(torch.where(moments > 0, moments.rsqrt(), 0.0))
        # On the diagonal are ones, but where there is nothing.
        alone, apart = pairs.samples * int(moments.count_nonzero()), pairs.size * (pairs.size - 1)
        mean, square = ((a.total() - alone) / apart for a in (alike, alike.map(torch.square)))
        centred = found.correlations - found.correlations @ found.weights
        sampled = float(centred.square() @ found.weights)
        stretch = math.sqrt(max(0.0, square - mean**2) / sampled) if sampled > ROUNDING**2 else 1.0
        return replace(found, correlations=(mean + stretch * centred).clamp(-1, 1))

    def average(self, values: Tensor) -> float:
        """Return the mean over pairs of different (sample, position)."""
        return float(values @ self.weights)

    def average_all(self, at_one: float, values: Tensor) -> float:
        """Return the mean over all pairs, given the value of a pair of an element with itself."""
        return self.diagonal * at_one + (1 - self.diagonal) * self.average(values)


def average_apart(pairs: Pairs) -> float:
    """Return the mean over pairs of different (sample, position), 0 if there are none."""
    alone = pairs.samples * float(pairs.second_moments.sum(dtype=torch.float64))
    return (pairs.total() - alone) / max(1, pairs.size * (pairs.size - 1))


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
    correlations = Mixture.sample(pairs)
    noise = 1 + correlations.average(correlations.correlations.square())
    deviation = math.sqrt(math.log1p(spread.own))
    return replace(
        spread,
        kernel=spread.relative_variance,
        own=0.0,
        gram=spread.gram + (noise / units if pairs.size > 1 else 0.0),
        roots=add_root(spread.roots, id(pairs), deviation),
        modes=add_root(spread.common, id(pairs), deviation),
    )


def follow(parts: Sequence[Spread], exponents: Sequence[float]) -> Spread:
    """Return the spread of what follows second moments, each with an exponent of its own.

    What two of them have from one array, or one from the units of the other, scatters together.
    """
    found = Spread()
    for spread, exponent in zip(parts, exponents, strict=True):
        roots = scale_roots(spread.roots, exponent)
        together = math.expm1(max(0.0, covary(found.roots, roots)))
        kernel = found.kernel + exponent**2 * spread.kernel + 2 * together
        found = Spread(kernel=kernel, roots=add_roots(found.roots, roots))
    return found


def join_spreads(
    spreads: Sequence[GradientSpread], signals: Sequence[Pairs], sizes: Sequence[float], units: int
) -> GradientSpread:
    """Return the spread of a sum of gradients that come from one above and scatter together.

    Parameters
    ----------
    spreads, signals : sequences of GradientSpread and Pairs
        Of the summands, which are uncorrelated or lie apart.
    sizes : sequence of float
        Their second moments.
    units : int
        Over how many units the Gram matrix of each is taken.
    """
    total = max(sum(sizes), TINY)
    shares = [size / total for size in sizes]
    found = [realize(s, pairs, units) for s, pairs in zip(spreads, signals, strict=True)]
    main = spreads[shares.index(max(shares))]
    deviation = sum(s * math.sqrt(p.kernel) for s, p in zip(shares, found, strict=True))
    gram = sum(s**2 * p.gram for s, p in zip(shares, found, strict=True))
    # What is left of 1 are the products of different summands over the units.
    gram += (1 - sum(share**2 for share in shares)) / units
    projected = sum(s * p.projected for s, p in zip(shares, spreads, strict=True))
    return replace(main, kernel=deviation**2, own=0.0, gram=gram, projected=projected)


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
    alike = Mixture.sample(pairs)
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
