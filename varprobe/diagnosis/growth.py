"""VP101, VP102, VP201, VP202: second moments that vanish or explode over depth.

Layers of one role are compared with each other: the blocks' first convolutions, all query
projections, the linear layers of a plain stack. Roles may differ in scale by design (a query's
gradient is far below its block's), and the scale of one role over depth is what propagation means.
Only ratios count, so that units of the input and of the loss cancel. Where layers differ in size,
initializations keep either the mean square of an element (fan-out laws going back, fan-in laws
going forward) or the sum of squares of a sample; a stage at half the resolution may therefore
differ by its factor of four in either. Growth is what both show. Where a norm follows, the scale
of a layer's output is a convention, and its gradient goes with the inverse: there only the product
of the two is followed.

Growth is an error if it is both harmful and significant. Significant: further from 0 than chance
takes a healthy net of this width. The log second moment of a ReLU net of widths n_l scatters over
draws with variance Σ 5 / n_l (Hanin and Rolnick 2018, theorem 5: log-variance of order Σ 1/n_l,
with 5 the exact constant for one sample and ReLU; batches and smoother nonlinearities scatter less)
around -½ of it, since it is the mean second moment that He's law conserves.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from varprobe.analysis import Analysis, SiteAnalysis
from varprobe.diagnosis.finding import Finding
from varprobe.diagnosis.idle_norms import WAKE_NORMS, describe_idle_norms
from varprobe.diagnosis.rule import RULES, check_rule
from varprobe.diagnosis.stacks import ROLE_SIZE, count_units, find_stacks

MAX_GROWTH = 1e4
"""Factor between second moments over depth that a healthy stack may reach, 100 in amplitude. He
2015 (section 2.2) trains 22 ReLU layers under Xavier, which lose 2⁻²² = 2e-7, though later than
under his own; 30 layers, 2⁻³⁰ = 1e-9, stall. Four layers of torch's default lose 6⁻⁴ = 1/1300."""

MAX_GROWTH_IN_CHAIN = 400.0
"""The same where every signal suffers the whole factor: equal layers, no way around them, no norm
between them. Curvature goes with the second moment, so that plain gradient descent at a usual rate
needs as many times the steps, or must take steps that are as many times smaller: hundreds can be
waited for. Torch's default loses 6⁻³ = 1/216 over three layers behind the first, dropout of one
half behind He's law gains 2⁷ = 128 over seven: both are common, and healthy."""

MAX_GROWTH_BEHIND_NORMS = 1e8
"""The same for gradients that grow towards the input where a norm takes up every layer's output:
steps on weights whose scale does not count tune themselves to the gradient (Arora et al. 2019).
torchvision's ResNet-50, -101 and -152 grow by 1e4, 3e5 and 9e6 and train. Plain stacks with
BatchNorm, which grow by π/(π-1) a layer, fail from 50 layers on, at 2e8 (Yang et al. 2019)."""

SIGNIFICANCE = 4.0
"""Standard deviations beyond which growth is no chance: 6e-5 in a normal tail."""

RELU_LOG_VARIANCE = 5.0
"""Variance of the log second moment that a ReLU layer adds, times its width."""

IN_CHAIN = f"({MAX_GROWTH_IN_CHAIN:g} in a chain of equal layers without a way around or norms)"

BEYOND_CHANCE = (
    f"and by more than {SIGNIFICANCE:g} standard deviations of a healthy net of this width."
)


class Trend(NamedTuple):
    """The log second moment along one role, relative to where the signal enters it."""

    sites: tuple[SiteAnalysis, ...]
    growth: tuple[float, ...]
    scatter: tuple[float, ...]
    """Standard deviation of ``growth`` over means of as many draws, for a healthy net."""

    def find_crossing(self, sign: int, allowed: float = MAX_GROWTH) -> int | None:
        """Return where the growth is worst in this direction, if it is an error there."""
        limit = math.log(allowed)
        worst: int | None = None
        for index in range(ROLE_SIZE - 1, len(self.growth)):
            growth = self.growth[index]
            departure = abs(growth - self.expected_growth(index))
            if sign * growth <= limit or departure <= SIGNIFICANCE * self.scatter[index]:
                continue
            if worst is None or sign * growth > sign * self.growth[worst]:
                worst = index
        return worst

    def expected_growth(self, index: int) -> float:
        """Mean log growth of a healthy net: the mean of a log-normal that conserves the mean."""
        draws = self.sites[index].draws
        return -0.5 * draws * self.scatter[index] ** 2


_ACTIVATION_REMEDY = (
    "Draw the weights for the nonlinearity that follows, for ReLU "
    'vp.initialize(model, "kaiming_normal"); or normalize inside the stack.'
)


@check_rule(
    "VP101",
    name="vanishing activations",
    what=f"The second moment of the outputs of like layers falls by more than {MAX_GROWTH:g} "
    f"{IN_CHAIN} over depth, {BEYOND_CHANCE}",
    why="Deep layers see almost nothing of the input; what they compute is their biases.",
    remedy=_ACTIVATION_REMEDY,
    reference="He et al. 2015, section 2.2; Hanin and Rolnick 2018.",
)
def find_vanishing_activations(analysis: Analysis, run: str) -> Iterator[Finding]:
    """Yield a finding for each role whose activations vanish."""
    yield from _find(analysis, run, "VP101", signal="activation", sign=-1)


@check_rule(
    "VP102",
    name="exploding activations",
    what=f"The second moment of the outputs of like layers grows by more than {MAX_GROWTH:g} "
    f"{IN_CHAIN} over depth, {BEYOND_CHANCE}",
    why="Outputs, loss and gradients overflow, or saturate what follows.",
    remedy=_ACTIVATION_REMEDY + " Residual branches: scale the last layer of each by 1/sqrt(L).",
    reference="He et al. 2015, section 2.2; Hanin and Rolnick 2018.",
)
def find_exploding_activations(analysis: Analysis, run: str) -> Iterator[Finding]:
    """Yield a finding for each role whose activations explode."""
    yield from _find(analysis, run, "VP102", signal="activation", sign=+1)


@check_rule(
    "VP201",
    name="vanishing gradients",
    what=f"The second moment of the gradients of like layers falls by more than {MAX_GROWTH:g} "
    f"{IN_CHAIN} towards the input, {BEYOND_CHANCE}",
    why="Early layers learn nothing while the late ones already move. Optimizers that divide a "
    "gradient by its size, such as Adam, train some of these nets all the same.",
    remedy=_ACTIVATION_REMEDY,
    reference="Glorot and Bengio 2010, section 4.2; He et al. 2015, section 2.2.",
)
def find_vanishing_gradients(analysis: Analysis, run: str) -> Iterator[Finding]:
    """Yield a finding for each role whose gradients vanish towards the input."""
    yield from _find(analysis, run, "VP201", signal="gradient", sign=-1)


@check_rule(
    "VP202",
    name="exploding gradients",
    what=f"The second moment of the gradients of like layers grows by more than {MAX_GROWTH:g} "
    f"{IN_CHAIN}, {MAX_GROWTH_BEHIND_NORMS:g} where norms take up their outputs, towards the "
    f"input, {BEYOND_CHANCE}",
    why="One step of the optimizer throws the early layers far away.",
    remedy=_ACTIVATION_REMEDY,
    reference="Glorot and Bengio 2010, section 4.2; Schoenholz et al. 2017, section 5.",
)
def find_exploding_gradients(analysis: Analysis, run: str) -> Iterator[Finding]:
    """Yield a finding for each role whose gradients explode towards the input."""
    yield from _find(analysis, run, "VP202", signal="gradient", sign=+1)


def _find(analysis: Analysis, run: str, code: str, *, signal: str, sign: int) -> Iterator[Finding]:
    conventional = find_conventional_scales(analysis, run)
    scales = conventional if signal == "gradient" else dict.fromkeys(conventional, 0.0)
    layers = analysis.select_weighted(signal=signal, run=run)
    idle = describe_idle_norms(analysis, run)
    for stack in find_stacks(analysis, run, signal=signal):
        sites = stack.sites
        if stack.forgets and sign < 0:
            continue
        trend = _follow(sites if signal == "activation" else sites[::-1], scales)
        is_plain = stack.is_chain and not stack.has_norms
        allowed = MAX_GROWTH_IN_CHAIN if is_plain else MAX_GROWTH
        if code == "VP202" and all(site.site.module in conventional for site in sites):
            allowed = MAX_GROWTH_BEHIND_NORMS
        worst = trend.find_crossing(sign, allowed)
        if worst is None or (code == "VP201" and _goes_around(trend.sites[worst], layers)):
            continue
        yield _describe(code, trend, worst, allowed, idle)


def _goes_around(site: SiteAnalysis, layers: Sequence[SiteAnalysis]) -> bool:
    """Tell whether the gradient reaches layers before this one on another way, undiminished.

    The levels of a pyramid lie side by side, and what little comes back to one of them is made up
    for by the others.
    """
    before = [s for s in layers if s.first.depth < site.first.depth]
    return any(s.second_moment > MAX_GROWTH * site.second_moment for s in before)


def find_conventional_scales(analysis: Analysis, run: str) -> dict[str, float]:
    """Return the second moments of the outputs that a norm takes up directly, by module."""
    weighted = {s.site.module for s in analysis.select_weighted(signal="activation", run=run)}
    sites = analysis.select(signal="activation", run=run)
    return {
        site.site.module: site.second_moment
        for site, following in itertools.pairwise(sites)
        if site.site.module in weighted and "Norm" in following.first.kind
    }


def _follow(sites: Sequence[SiteAnalysis], scales: Mapping[str, float]) -> Trend:
    def measure(site: SiteAnalysis) -> float:
        return site.second_moment * scales.get(site.site.module, 1.0)

    # A layer that passes exactly nothing (a zero-initialized branch) has no growth to speak of, nor
    # has an output whose scale is a convention.
    passing = [site for site in sites if measure(site) > 0.0]
    if not passing:
        return Trend((), (), ())
    start = math.log(measure(passing[0]))
    size = math.log(math.prod(passing[0].first.shape))
    log_variance, growth, scatter = 0.0, [], []
    for index, site in enumerate(passing):
        log_variance += RELU_LOG_VARIANCE / count_units(site) if index else 0.0
        mean_square = math.log(measure(site)) - start
        sum_of_squares = mean_square + math.log(math.prod(site.first.shape)) - size
        growth.append(_take_milder(mean_square, sum_of_squares))
        scatter.append(math.sqrt(log_variance / site.draws))
    return Trend(tuple(passing), tuple(growth), tuple(scatter))


def _take_milder(first: float, second: float) -> float:
    if first * second <= 0.0:
        return 0.0
    return min(first, second, key=abs)


def _describe(code: str, trend: Trend, worst: int, allowed: float, idle: str) -> Finding:
    site, first = trend.sites[worst], trend.sites[0].site.module or "the root"
    total, rate = math.exp(trend.growth[worst]), math.exp(trend.growth[worst] / worst)
    backward = code.startswith("VP2")
    what = "gradient" if backward else "output"
    steps = f"{worst} layers towards the input" if backward else f"{worst} layers"
    middle, spread = trend.expected_growth(worst), SIGNIFICANCE * trend.scatter[worst]
    return RULES[code].report(
        site.site.module,
        f"the second moment of its {what} is {total:.3g} times that at {first} (×{rate:.3g} a "
        f"layer over {steps}); allowed is a factor of {allowed:g}, and a healthy net of this "
        f"width stays within {math.exp(middle - spread):.2g} … {math.exp(middle + spread):.2g}"
        f"{idle}",
        run=site.first.run,
        measured=total,
        expected=1.0,
        threshold=allowed if total > 1.0 else 1.0 / allowed,
        remedy=WAKE_NORMS if idle else None,
    )
