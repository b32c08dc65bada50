"""VP301: weights that do not fit what they are for, or are not drawn as those of their peers."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence

from varprobe.analysis import Analysis, SiteAnalysis
from varprobe.diagnosis.finding import Finding
from varprobe.diagnosis.growth import find_conventional_scales
from varprobe.diagnosis.peers import (
    MAX_DEPARTURE as MAX_DEPARTURE_FROM_PEERS,
    Odd,
    find_odd,
)
from varprobe.diagnosis.rule import RULES, check_rule
from varprobe.diagnosis.symmetry import is_constant, is_drawn
from varprobe.theory.followers import (
    MAX_DEPARTURE,
    Role,
    find_followers,
    find_wanted_gain,
)
from varprobe.theory.nonlinearities import get_nonlinearity

NONLINEARITIES = {
    "Tanh": "tanh",
    "Sigmoid": "sigmoid",
    "ReLU": "relu",
    "LeakyReLU": "leaky_relu",
    "PReLU": "prelu",
    "GELU": "gelu",
    "SiLU": "silu",
    "Mish": "mish",
    "ELU": "elu",
    "SELU": "selu",
}
"""Names in the theory of the nonlinearities that set the scale of the weights before them."""

SIGNIFICANCE = 4.0
"""Standard deviations of the log of a sample variance, sqrt(2 / N) for N Gaussian weights."""

TREND_CODES = ("VP101", "VP102", "VP201", "VP202")

MAX_ODDITY = 4.0
"""Factor between the variance of an odd layer and its peers' from which it is an error: twice, or
half, in standard deviation. What is less is worth a look, and no reason to stop."""


@check_rule(
    "VP301",
    name="weight variance does not fit",
    level="warning",
    what="A layer's weights are of another variance than those of its peers, which agree with each "
    f"other under some law (an error from a factor of {MAX_ODDITY:g}; an info at the ends of a "
    "stack, where the units of inputs and loss are free, and where a norm takes the scale back). "
    "And where signal vanishes or explodes: the variance is not the one that the nonlinearity "
    "behind needs, gain²/fan_in (forward) or gain²/fan_out (backward).",
    why="The error of a layer multiplies what passes through it; that of all layers is raised to "
    "the power of the depth.",
    remedy='vp.initialize(model, "kaiming_normal", nonlinearity=…).',
    reference="He et al. 2015, eq. 10 and 14; Glorot and Bengio 2010, eq. 12.",
)
def find_misfits(analysis: Analysis, run: str) -> Iterator[Finding]:
    """Yield a finding for each odd layer, and one for all that do not fit if signal suffers."""
    weights = [site for site in analysis.select(signal="weight", run=run) if is_drawn(site)]
    odd = find_odd(weights)
    broken = list(_report_odd(analysis, run, odd))
    yield from broken
    # One layer that is broken may be why signal suffers; the law of the others is no matter then.
    if any(f.level == "error" for f in broken) or any(RULES["VP302"].find(analysis, run)):
        return
    if not any(True for code in TREND_CODES for _ in RULES[code].find(analysis, run)):
        return
    followers = list_followers(analysis, run)
    misfits = [
        (site, followers[site.site.module], product)
        for site in weights
        if site.first.fan_in and site.site.module in followers and site not in [o.site for o in odd]
        for product in [_fit(site, compute_gain_squared(followers[site.site.module]))]
        if product is not None
    ]
    if not misfits:
        return
    site, kind, product = misfits[0]
    gain = compute_gain_squared(kind)
    more = f" ({len(misfits)} layers alike)" if len(misfits) > 1 else ""
    yield RULES["VP301"].report(
        site.site.module,
        f"fan_in × second moment of its weight is {product:.3g}, {kind} behind it needs {gain:.3g}"
        f"{more}",
        run=run,
        measured=product,
        expected=gain,
        threshold=MAX_DEPARTURE,
        parameters=[misfit.site.parameter for misfit, _, _ in misfits],
    )


def _report_odd(analysis: Analysis, run: str, odd: Sequence[Odd]) -> Iterator[Finding]:
    conventional = find_conventional_scales(analysis, run)
    owners = {s.site.module for s in analysis.select(signal="weight", run=run) if is_drawn(s)}
    order = [s.site.module for s in analysis.select(signal="activation", run=run)]
    layers = [module for module in order if module in owners]
    for layer in odd:
        module, departure = layer.site.site.module, layer.departure
        excuse = ""
        if layer.is_end or module in layers[:1] + layers[-1:]:
            excuse = "; at the ends of a stack the scale is a choice of units"
        elif module in conventional:
            excuse = "; the norm behind it takes the scale back"
        is_large = max(departure, 1 / departure) > MAX_ODDITY
        yield RULES["VP301"].report(
            module,
            f"{layer.scale} is {layer.measured:.3g}, and {layer.usual:.3g} in its {layer.peers} "
            f"peers (×{departure:.3g}){excuse}",
            run=run,
            level="info" if excuse else "error" if is_large else "warning",
            measured=layer.measured,
            expected=layer.usual,
            threshold=MAX_DEPARTURE_FROM_PEERS,
            remedy=f"Draw its {layer.site.site.output} as those of its peers: multiply it by "
            f"{departure**-0.5:.3g}.",
            parameters=[layer.site.site.parameter],
        )


@functools.cache
def compute_gain_squared(kind: str) -> float:
    """Return fan_in · E[w²] that a nonlinearity of this class wants; see `find_wanted_gain`."""
    return find_wanted_gain(get_nonlinearity(NONLINEARITIES[kind])) ** 2


def list_followers(analysis: Analysis, run: str) -> dict[str, str]:
    """Return, by weighted module, the kind of the nonlinearity that is called next."""
    owners = {s.site.module for s in analysis.select_weighted(signal="activation", run=run)}
    outputs = analysis.select(signal="activation", run=run)
    sites = [site for site in outputs if not site.site.is_operation]
    kinds = {site.site.module: site.first.kind for site in sites}

    def judge(module: str, kind: str) -> Role:
        if module in owners:
            return "weighted"
        if kind in NONLINEARITIES:
            return "nonlinearity"
        # A normalization takes the scale away again.
        return "rescaling" if "Norm" in kind else "other"

    calls = ((s.site.module, judge(s.site.module, s.first.kind)) for s in sites)
    return {module: kinds[follower] for module, follower in find_followers(calls).items()}


def _fit(site: SiteAnalysis, gain: float) -> float | None:
    """Return fan_in · E[w²] if neither fan explains it within chance and tolerance.

    Constant weights have no law to fit; VP302 speaks of them.
    """
    record = site.first
    if not record.fan_in or not record.fan_out or is_constant(site):
        return None
    numel = record.moments.numel * site.draws
    tolerance = math.log(MAX_DEPARTURE) + SIGNIFICANCE * math.sqrt(2.0 / numel)
    departures = [
        abs(math.log(fan * site.second_moment / gain)) for fan in (record.fan_in, record.fan_out)
    ]
    return record.fan_in * site.second_moment if min(departures) > tolerance else None
