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
import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import NamedTuple

from varprobe.analysis import Analysis, SiteAnalysis
from varprobe.diagnosis.finding import Finding
from varprobe.diagnosis.idle_norms import WAKE_NORMS, describe_idle_norms
from varprobe.diagnosis.peers import find_odd
from varprobe.diagnosis.rule import RULES, check_rule

MAX_GROWTH = 1e4
"""Factor between second moments over depth that a healthy stack may reach, 100 in amplitude. He
2015 (section 2.2) trains 22 ReLU layers under Xavier, which lose 2⁻²² = 2e-7, though later than
under his own; 30 layers, 2⁻³⁰ = 1e-9, stall. Four layers of torch's default lose 6⁻⁴ = 1/1300."""

MAX_GROWTH_BEHIND_NORMS = 1e8
"""The same for gradients that grow towards the input where a norm takes up every layer's output:
steps on weights whose scale does not count tune themselves to the gradient (Arora et al. 2019).
torchvision's ResNet-50, -101 and -152 grow by 1e4, 3e5 and 9e6 and train. Plain stacks with
BatchNorm, which grow by π/(π-1) a layer, fail from 50 layers on, at 2e8 (Yang et al. 2019)."""

SIGNIFICANCE = 4.0
"""Standard deviations beyond which growth is no chance: 6e-5 in a normal tail."""

ROLE_SIZE = 3
"""Fewest layers whose trend is one: with two there is a ratio of two numbers."""

MIN_WIDTH = 4
"""Units below which a layer is no sample: attention maps, gates, scores."""

RELU_LOG_VARIANCE = 5.0
"""Variance of the log second moment that a ReLU layer adds, times its width."""


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
    what=f"The second moment of the outputs of like layers falls by more than {MAX_GROWTH:g} over "
    f"depth, and by more than {SIGNIFICANCE:g} standard deviations of a healthy net of this width.",
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
    what=f"The second moment of the outputs of like layers grows by more than {MAX_GROWTH:g} over "
    f"depth, and by more than {SIGNIFICANCE:g} standard deviations of a healthy net of this width.",
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
    f"towards the input, and by more than {SIGNIFICANCE:g} standard deviations of a healthy net of "
    "this width.",
    why="Early layers learn nothing while the late ones already move.",
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
    f"({MAX_GROWTH_BEHIND_NORMS:g} where norms take up their outputs) towards the input, and by "
    f"more than {SIGNIFICANCE:g} standard deviations of a healthy net of this width.",
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
    weights = [s for s in analysis.select(signal="weight", run=run) if s.first.fan_in]
    heads = {odd.site.site.module for odd in find_odd(weights) if odd.is_end}
    for sites in _group_by_role(layers, heads):
        trend = _follow(sites if signal == "activation" else sites[::-1], scales)
        is_taken_up = all(site.site.module in conventional for site in sites)
        allowed = MAX_GROWTH_BEHIND_NORMS if code == "VP202" and is_taken_up else MAX_GROWTH
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


def _group_by_role(
    sites: Sequence[SiteAnalysis], heads: Collection[str]
) -> list[list[SiteAnalysis]]:
    """Return layers that do the same thing at different depths, each group by depth.

    Heads are left out, which are scaled by their own reasons: the deepest layer of all, and the
    last of a stack if its weights are of another scale. If no role repeats, layers side by side in
    one module are one stack.
    """
    shown = [s for s in sites[:-1] if math.isfinite(s.second_moment) and _width(s) >= MIN_WIDTH]
    roles: defaultdict[tuple[str, str], list[SiteAnalysis]] = defaultdict(list)
    for site in shown:
        roles[_name_role(site.site.module), site.first.kind].append(site)
    calls = [_take_first_calls(group) for group in roles.values()]
    stacks = [group[:-1] if group[-1].site.module in heads else group for group in calls]
    groups = [group for group in stacks if len(group) >= ROLE_SIZE]
    parents = {site.site.module.rpartition(".")[0] for site in shown}
    if groups or len(shown) < ROLE_SIZE or len(parents) > 1:
        return groups
    return [shown]


def _take_first_calls(group: list[SiteAnalysis]) -> list[SiteAnalysis]:
    """Return one call of each module, if there are modules enough; else the calls are the depth.

    A recurrent layer goes deeper with every call; what several branches share does not. A head that
    is shared by the levels of a pyramid meets another size at each.
    """
    first = list({site.site.module: site for site in reversed(group)}.values())[::-1]
    is_recurrent = len({site.first.shape for site in group}) == 1
    return group if len(first) < ROLE_SIZE and is_recurrent else first


def _name_role(module: str) -> str:
    """Return a module's name without the numbers that count blocks.

    Inside of a block, fc1 and fc2 are two roles; at the top, conv1 and conv2 are a stack.
    """
    *blocks, name = module.split(".")
    if not blocks or name.isdigit():
        name = re.sub(r"\d+", "#", name)
    return ".".join([*(re.sub(r"\d+", "#", block) for block in blocks), name])


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
        log_variance += RELU_LOG_VARIANCE / _width(site) if index else 0.0
        mean_square = math.log(measure(site)) - start
        sum_of_squares = mean_square + math.log(math.prod(site.first.shape)) - size
        growth.append(_take_milder(mean_square, sum_of_squares))
        scatter.append(math.sqrt(log_variance / site.draws))
    return Trend(tuple(passing), tuple(growth), tuple(scatter))


def _take_milder(first: float, second: float) -> float:
    if first * second <= 0.0:
        return 0.0
    return min(first, second, key=abs)


def _width(site: SiteAnalysis) -> int:
    """Return the number of independent units at a layer's output: its channels or features."""
    shape, kind = site.first.shape, site.first.kind
    if "Conv" in kind and len(shape) > 2:
        return shape[1]
    return shape[-1] if shape else 1


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
