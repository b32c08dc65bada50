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
from functools import cache, cached_property

import torch
from torch import Tensor

from varprobe.errors import MissingRuleError
from varprobe.theory.curves import interpolate
from varprobe.theory.expectations import Field
from varprobe.theory.explicit import ExplicitPairs
from varprobe.theory.law import Downstream, Gradient, Law, Step, Value
from varprobe.theory.pairs import Pairs
from varprobe.theory.pointwise import Pointwise
from varprobe.theory.positions import LinearMap
from varprobe.theory.rules.convolution import check_channels
from varprobe.theory.rules.reading import read_law
from varprobe.theory.rules.registry import rule

aten = torch.ops.aten

REACH = 9.0
"""Where the tables of the distribution of a maximum end, in standard deviations."""

NODES = 401
"""Their length."""

STEP = 0.05
"""Spreads within a window are told apart in these steps of the largest."""

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
    def shares(self) -> list[float]:
        """Probability of each element to be the largest."""
        return [float(part) for part in self._grid[1].sum(1)]

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
        signal = _split(settled.signal, law.field, windows.shares, chosen)
        down = replace(
            settled,
            layout=law.layout,
            signal=signal,
            standing=settled.standing.inherit(output.standing),
        )
        return [down.times(law.field, chosen, square=chosen)]

    return Step(output, backward)


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
    """

    shares: LinearMap
    means: Tensor
    spreads: Tensor
    typical: Largest

    @classmethod
    def of(cls, field: Field, members: LinearMap) -> _Windows:
        """Describe the windows of a Gaussian field, ``members`` being 1 for what they hold."""
        counts = members @ torch.ones(members.sources, dtype=torch.float64)
        unit = replace(field.pairs, values=field.correlations()).transform(members)
        together = unit.second_moments.double() - counts
        average = float((together / (counts * (counts - 1)).clamp_min(1)).mean())
        # A hundredth is finer than the equal correlations are.
        correlation = round(min(max(average, 0.0), 0.99), 2)
        level = math.sqrt(max(field.covariances.mean, 1e-300))
        typical = Largest((level,) * int(counts.max()), correlation)
        if isinstance(field.pairs, ExplicitPairs):
            return cls(*_look_into(field, members.dense(), correlation), typical)
        scales = ((members @ field.spreads.square()) / counts).sqrt()
        kinds = {int(k): _tabulate((1.0,) * int(k), correlation) for k in set(counts.tolist())}
        means = torch.tensor([kinds[int(k)].mean for k in counts], dtype=torch.float64)
        spreads = torch.tensor([kinds[int(k)].spread for k in counts], dtype=torch.float64)
        return cls(members.normalized, means * scales, spreads * scales, typical)


def _look_into(
    field: Field, members: Tensor, correlation: float
) -> tuple[LinearMap, Tensor, Tensor]:
    """Return shares, means and spreads of windows whose positions differ in spread."""
    shares = torch.zeros_like(members)
    means = torch.zeros(len(members), dtype=torch.float64)
    spreads = torch.zeros(len(members), dtype=torch.float64)
    for window, row in enumerate(members):
        places = torch.nonzero(row).squeeze(1)
        order = places[field.spreads[places].argsort(descending=True)]
        scale = max(float(field.spreads[order[0]]), 1e-300)
        largest = _tabulate(
            tuple(round(float(s) / scale / STEP) * STEP for s in field.spreads[order]), correlation
        )
        shares[window, order] = torch.tensor(largest.shares, dtype=torch.float64)
        means[window], spreads[window] = largest.mean * scale, largest.spread * scale
    return LinearMap((shares,)), means, spreads


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
    inner, typical, centre = x.function, windows.typical, float(centres.mean())
    mean, size = typical.mean, max(typical.spread, 1e-12)

    def function(v: Tensor) -> Tensor:
        return inner(centre + typical.bend((v - centre - mean) / size))

    return replace(
        x,
        field=field,
        function=Pointwise(function),
        standing=replace(x.standing.approximate(APPROXIMATE), fresh=0),
        # The scale of a window goes through a maximum as it goes through a rectifier.
        pooled_spread=x.spread,
    )


def _split(signal: Pairs, field: Field, shares: LinearMap, chosen: Pointwise) -> Pairs:
    """Return the signal that each position would get if it were the largest of its windows.

    Exactly one position of a window gets it. Which one is decided within the window, so that the
    choices in two windows are independent even where the windows as a whole go together.
    """
    dealt = signal.deal(shares)
    alone = dealt.second_moments / field.expect(chosen).clamp_min(1e-12)
    together = field.expect_pairs(chosen)
    apart = dealt.map(lambda values: values / together.values.clamp_min(1e-12))
    return apart.with_diagonal(alone)


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
