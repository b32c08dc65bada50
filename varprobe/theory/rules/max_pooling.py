"""Max pooling: the largest of a window of correlated Gaussians, through a Gaussian copula.

Within a window all pairs are given their average correlation ρ. For an increasing activation the
largest output is that of the largest pre-activation, whose density is k t(z) times the normal one,
with t(z) = E_y Φ(sqrt(1-ρ) z - sqrt(ρ) y)^(k-1) the probability that an element of value z is the
largest. Going back, t is also the probability that the element gets the gradient: below a maximum
a ReLU is open far more often than half the time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial

import torch
from torch import Tensor

from varprobe.errors import MissingRuleError
from varprobe.theory.curves import interpolate
from varprobe.theory.expectations import Field
from varprobe.theory.explicit import ExplicitPairs
from varprobe.theory.factors import Factor
from varprobe.theory.law import Downstream, Gradient, Law, Step, Value
from varprobe.theory.pairs import Pairs
from varprobe.theory.pointwise import Pointwise, differentiate
from varprobe.theory.positions import LinearMap
from varprobe.theory.rules.convolution import check_channels
from varprobe.theory.rules.reading import read_law
from varprobe.theory.rules.registry import rule

aten = torch.ops.aten

REACH = 9.0
"""Where the tables of the distribution of a maximum end, in standard deviations."""

NODES = 401
"""Their length."""

STEP = 0.02
"""Spreads within a window are told apart in these steps of the largest."""

ROOT_STEP = 0.01
"""The same for the root of what its correlation lacks to 1."""

MOST_ALIKE = 0.99
"""Correlation of elements that are nearly the same one."""

COPULA = 0.005
"""Error that equal correlations within a window leave: behind a norm, more than the scatter."""

APPROXIMATE = "max pooling: Gaussian copula"


@dataclass(frozen=True)
class Largest:
    """The largest of several Gaussians of mean zero and equal pairwise correlation."""

    spreads: tuple[float, ...]
    correlation: float

    @cached_property
    def _grid(self) -> tuple[Tensor, Tensor]:
        """Values of the maximum, and the probability that element j has it and is the largest."""
        spreads = torch.tensor(self.spreads, dtype=torch.float64).clamp_min(1e-12)
        z = torch.linspace(-REACH, REACH, NODES, dtype=torch.float64)
        y = torch.linspace(-5.0, 5.0, 31, dtype=torch.float64)
        weights = torch.exp(-y * y / 2)
        own, common = math.sqrt(1 - self.correlation), math.sqrt(self.correlation)
        values = float(spreads.max()) * z
        masses = []
        for spread in spreads:
            mine = values / spread
            factor = common * mine[:, None] + own * y
            chance = torch.ones_like(factor)
            for other in spreads:
                chance *= torch.special.ndtr((values[:, None] / other - common * factor) / own)
            chance /= torch.special.ndtr((mine[:, None] - common * factor) / own)
            masses.append(chance.nan_to_num() @ weights * torch.exp(-mine * mine / 2) / spread)
        mass = torch.stack(masses)
        return values, mass / mass.sum()

    @property
    def shares(self) -> Tensor:
        """Probability of each element to be the largest."""
        return self._grid[1].sum(1)

    def weigh_shares(self, weight: Pointwise) -> Tensor:
        """Return the shares where each maximum counts by a function of it that is not negative."""
        values, mass = self._grid
        shares = mass @ weight(values)
        total = float(shares.sum())
        return shares / total if total > 0 else self.shares

    @property
    def mean(self) -> float:
        """Expected maximum."""
        values, mass = self._grid
        return float(mass.sum(0) @ values)

    @property
    def spread(self) -> float:
        """Standard deviation of the maximum."""
        values, mass = self._grid
        return math.sqrt(max(float(mass.sum(0) @ values.square()) - self.mean**2, 0.0))

    def chance(self, value: Tensor) -> Tensor:
        """Return t: how likely an element of this value is the largest, up to a factor."""
        values, mass = self._grid
        density = torch.exp(-((values / self.spreads[0]) ** 2) / 2)
        inside = density > 1e-12
        chance = mass[0][inside] / density[inside]
        return interpolate(value, values[inside], chance / chance.max()).clamp(0, 1)

    def bend(self, g: Tensor) -> Tensor:
        """Return the quantile of the maximum where a standard normal has value g."""
        values, mass = self._grid
        total = mass.sum(0)
        # Rounding makes the tail a plateau: the middle of each cell keeps the quantiles apart.
        below = total.cumsum(0) - total / 2
        inside = (below > 1e-10) & (below < 1 - 1e-10)
        return interpolate(g, torch.special.ndtri(below[inside]), values[inside])


@rule(aten.max_pool1d, aten.max_pool2d, aten.max_pool3d)
def max_pool(
    x: Value,
    kernel_size: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0,),
    dilation: Sequence[int] = (1,),
    ceil_mode: bool = False,
) -> Step:
    """Return the largest element of each window."""
    law = read_law(x, feature_dim=1)
    check_channels(law.layout)
    if not law.field.gaussian or law.thinning != 1.0:
        raise MissingRuleError("its argument is not a function of a Gaussian array")
    if not bool((law.field.spreads > 0.0).any()):
        raise MissingRuleError("its argument does not vary: the weights before it are 0")
    geometry = (kernel_size, stride or kernel_size, padding, dilation)
    members, shape = _find_members(law, geometry, ceil_mode=ceil_mode)
    windows = _Windows.of(law.field, members)
    output = replace(_pool(law, windows), layout=law.layout.with_positions(shape))
    centre = float(law.field.means.mean())
    chosen = Pointwise(lambda u: windows.typical.chance(u - centre))

    def backward(gradient: Gradient) -> Sequence[Downstream]:
        settled = gradient.settle()
        signal = _split(settled.signal, law, output.field, windows, chosen)
        down = replace(
            settled,
            layout=law.layout,
            signal=signal,
            standing=settled.standing.inherit(output.standing),
        )
        # Whether an element is the largest does not change where all of them grow.
        return [down.multiply(Factor(field=law.field, mean=chosen, square=chosen))]

    return Step(output, backward)


@dataclass(frozen=True)
class _Window:
    """The places that one window holds, widest first, its largest element, and their scale."""

    places: Tensor
    largest: Largest
    scale: float


@dataclass(frozen=True)
class _Windows:
    """The windows of a pooling layer and the maximum of each.

    Parameters
    ----------
    shares : LinearMap
        How likely each position of a window is the largest.
    means, spreads : Tensor
        Mean and standard deviation of the maxima of the centred field.
    typical : Largest
        A window with equal spreads, for the shape of the distribution.
    apart : list of _Window
        The windows, where they are told apart.
    """

    shares: LinearMap
    means: Tensor
    spreads: Tensor
    typical: Largest
    apart: Sequence[_Window] = ()

    def weigh_shares(self, weight: Pointwise, centre: float) -> LinearMap:
        """Return the shares where each maximum counts by a function of it."""
        if not self.apart:
            return self.shares
        (dense,) = self.shares.factors
        shares = torch.zeros_like(dense)
        for row, window in zip(shares, self.apart, strict=True):
            local = partial(_shift, weight, centre, window.scale)
            row[window.places] = window.largest.weigh_shares(Pointwise(local))
        return LinearMap((shares,))

    def find_winner(self, centres: Tensor) -> Pointwise:
        """Return the largest element as a function of the field that stands for the maxima."""
        typical, centre = self.typical, float(centres.mean())
        size = max(typical.spread, 1e-12)
        return Pointwise(lambda v: centre + typical.bend((v - centre - typical.mean) / size))

    @classmethod
    def of(cls, field: Field, members: LinearMap) -> _Windows:
        """Describe the windows of a Gaussian field, ``members`` being 1 for what they hold."""
        counts = members @ torch.ones(members.sources, dtype=torch.float64)
        unit = replace(field.pairs, values=field.correlations()).transform(members)
        together = unit.second_moments.double() - counts
        averages = (together / (counts * (counts - 1)).clamp_min(1)).clamp(0, MOST_ALIKE)
        # What sets a maximum apart from its elements goes with the root of 1 - ρ.
        correlation = 1 - float((1 - averages).sqrt().mean()) ** 2
        level = math.sqrt(max(field.covariances.mean, 1e-300))
        typical = Largest((level,) * int(counts.max()), correlation)
        if isinstance(field.pairs, ExplicitPairs):
            return cls.tell_apart(field, members.dense(), averages, typical)
        scales = ((members @ field.spreads.square()) / counts).sqrt()
        kinds = {int(k): _tabulate((1.0,) * int(k), correlation) for k in set(counts.tolist())}
        means = torch.tensor([kinds[int(k)].mean for k in counts], dtype=torch.float64)
        spreads = torch.tensor([kinds[int(k)].spread for k in counts], dtype=torch.float64)
        return cls(members.normalized, means * scales, spreads * scales, typical)

    @classmethod
    def tell_apart(
        cls, field: Field, members: Tensor, correlations: Tensor, typical: Largest
    ) -> _Windows:
        """Describe windows whose positions differ in spread, of these mean correlations."""
        apart = [
            _look_into(field, torch.nonzero(row).squeeze(1), float(correlation))
            for row, correlation in zip(members, correlations, strict=True)
        ]
        shares = torch.zeros_like(members)
        for row, window in zip(shares, apart, strict=True):
            row[window.places] = window.largest.shares
        means = [window.largest.mean * window.scale for window in apart]
        spreads = [window.largest.spread * window.scale for window in apart]
        return cls(
            LinearMap((shares,)),
            torch.tensor(means, dtype=torch.float64),
            torch.tensor(spreads, dtype=torch.float64),
            typical,
            apart,
        )


def _shift(function: Pointwise, centre: float, scale: float, x: Tensor) -> Tensor:
    return function(centre + scale * x)


def _look_into(field: Field, places: Tensor, correlation: float) -> _Window:
    order = places[field.spreads[places].argsort(descending=True)]
    scale = max(float(field.spreads[order[0]]), 1e-300)
    ratios = tuple(round(float(s) / scale / STEP) * STEP for s in field.spreads[order])
    root = round(math.sqrt(1 - correlation) / ROOT_STEP) * ROOT_STEP
    return _Window(order, _tabulate(ratios, 1 - root**2), scale)


@cache
def _tabulate(spreads: tuple[float, ...], correlation: float) -> Largest:
    return Largest(spreads, correlation)


def _pool(x: Law, windows: _Windows) -> Law:
    """Return the maxima as a function of a Gaussian field with their means and covariances.

    By Stein's lemma the covariance of a maximum with another variable is the average of its
    elements' covariances, each weighed by its chance to be the largest.
    """
    covariances = x.field.covariances.transform(windows.shares)
    centres = windows.shares @ x.field.means
    means = windows.means + centres
    pairs = covariances.with_diagonal(windows.spreads.square()).add_product(means, means)
    field = Field(pairs, means, gaussian=True)
    inner, winner = x.function, windows.find_winner(centres)
    return replace(
        x,
        field=field,
        function=Pointwise(lambda v: inner(winner(v))),
        standing=replace(x.standing.approximate(APPROXIMATE), fresh=0),
        # The scale of a window goes through a maximum as it goes through a rectifier.
        pooled_spread=replace(x.spread, kernel=x.spread.kernel + COPULA**2),
    )


def _split(signal: Pairs, x: Law, maxima: Field, windows: _Windows, chosen: Pointwise) -> Pairs:
    """Return the signal that each position would get if it were the largest of its windows.

    Exactly one position of a window gets it. What follows back is the slope at that position, which
    goes together in two windows as the slopes at their maxima do.
    """
    slope = Pointwise(lambda u: differentiate(x.function, u))
    square = slope * slope
    winner = windows.find_winner(windows.shares @ x.field.means)
    opened = maxima.expect_pairs(Pointwise(lambda v: slope(winner(v))))
    seen = Factor(field=x.field, mean=chosen * slope, square=chosen * square)
    shares = windows.weigh_shares(square, float(x.field.means.mean()))
    return seen.divide((signal * opened).deal(shares))


def _find_members(
    x: Law, geometry: Sequence[Sequence[int]], *, ceil_mode: bool
) -> tuple[LinearMap, tuple[int, ...]]:
    """Return which positions each window holds, and the output's shape."""
    spatial = x.layout.shape[2:]
    columns = [list(g) * len(spatial) if len(g) == 1 else list(g) for g in geometry]
    samples = x.layout.positions_of(0)
    factors = [torch.eye(samples, dtype=torch.float64)] if samples > 1 else []
    sizes = []
    for size, taps, stride, padding, dilation in zip(spatial, *columns, strict=True):
        reach = dilation * (taps - 1) + 1
        whole = size + 2 * padding - reach
        count = (-(-whole // stride) if ceil_mode else whole // stride) + 1
        if ceil_mode and (count - 1) * stride >= size + padding:
            count -= 1
        axis = torch.zeros(count, size, dtype=torch.float64)
        for window in range(count):
            places = [window * stride - padding + tap * dilation for tap in range(taps)]
            axis[window, [place for place in places if 0 <= place < size]] = 1
        factors.append(axis)
        sizes.append(count)
    return LinearMap(tuple(factors)), (*x.layout.shape[:2], *sizes)
