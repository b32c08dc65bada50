"""VP301 and VP302: weights that do not fit what they are for, or cannot tell units apart."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator

from varprobe.analysis import Analysis, SiteAnalysis
from varprobe.diagnosis.finding import Finding
from varprobe.diagnosis.rule import RULES, check_rule
from varprobe.theory.nonlinearities import get_nonlinearity

NONLINEARITIES = {
    "ReLU": "relu",
    "LeakyReLU": "leaky_relu",
    "PReLU": "prelu",
    "GELU": "gelu",
    "SiLU": "silu",
    "Mish": "mish",
    "ELU": "elu",
    "SELU": "selu",
}
"""Names in the theory of the nonlinearities whose gain sets the scale of the weights before."""

CENTRED = frozenset({"Tanh", "Sigmoid"})
"""Nonlinearities that saturate: kept in their linear part around 0, they want Glorot's weights."""

MAX_DEPARTURE = 1.25
"""Factor between a weight's variance and the law that fits. LeCun for SiLU or Kaiming for GELU are
choices that people make on purpose and nobody trips over at any depth below ten."""

SIGNIFICANCE = 4.0
"""Standard deviations of the log of a sample variance, sqrt(2 / N) for N Gaussian weights."""

TREND_CODES = ("VP101", "VP102", "VP201", "VP202")


@check_rule(
    "VP301",
    name="weight variance does not fit",
    level="warning",
    what="Where signal vanishes or explodes: the variance of a weight is not the one that the "
    "nonlinearity behind it needs, gain²/fan_in (forward) or gain²/fan_out (backward).",
    why="The error of a layer is raised to the power of the depth.",
    remedy='vp.initialize(model, "kaiming_normal", nonlinearity=…).',
    reference="He et al. 2015, eq. 10 and 14; Glorot and Bengio 2010, eq. 12.",
)
def find_misfits(analysis: Analysis, run: str) -> Iterator[Finding]:
    """Yield one finding for all layers that share a cause, if the signal suffers from it."""
    if not any(True for code in TREND_CODES for _ in RULES[code].find(analysis, run)):
        return
    followers = _find_followers(analysis, run)
    misfits = [
        (site, followers[site.site.module], product)
        for site in analysis.select(signal="weight", run=run)
        if site.first.fan_in and site.site.module in followers
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
        remedy=_spell_remedy(kind),
    )


@functools.cache
def compute_gain_squared(kind: str) -> float:
    """Return fan_in · E[w²] that keeps the scale of a unit signal through a layer and ``kind``.

    1/E φ² for z ~ N(0, 1); 1 for nonlinearities that are centred and saturate.
    """
    return 1.0 if kind in CENTRED else get_nonlinearity(NONLINEARITIES[kind]).gain ** 2


def _find_followers(analysis: Analysis, run: str) -> dict[str, str]:
    """Return, by weighted module, the kind of the nonlinearity that is called next."""
    followers: dict[str, str] = {}
    pending: str | None = None
    owners = {s.site.module for s in analysis.select_weighted(signal="activation", run=run)}
    for site in analysis.select(signal="activation", run=run):
        if site.site.module in owners:
            pending = site.site.module
        elif pending is not None and site.first.kind in CENTRED | NONLINEARITIES.keys():
            followers[pending] = site.first.kind
            pending = None
        elif "Norm" in site.first.kind:
            pending = None  # a normalization takes the scale away again
    return followers


def _fit(site: SiteAnalysis, gain: float) -> float | None:
    """Return fan_in · E[w²] if neither fan explains it within chance and tolerance.

    Constant weights have no law to fit; VP302 speaks of them.
    """
    record = site.first
    if not record.fan_in or not record.fan_out or _is_constant(site):
        return None
    numel = record.moments.numel * site.draws
    tolerance = math.log(MAX_DEPARTURE) + SIGNIFICANCE * math.sqrt(2.0 / numel)
    departures = [
        abs(math.log(fan * site.second_moment / gain)) for fan in (record.fan_in, record.fan_out)
    ]
    return record.fan_in * site.second_moment if min(departures) > tolerance else None


def _spell_remedy(kind: str) -> str:
    if kind in CENTRED:
        return 'vp.initialize(model, "xavier_normal")'
    if kind in ("ReLU", "LeakyReLU"):
        name = NONLINEARITIES[kind]
        return f'vp.initialize(model, "kaiming_normal", nonlinearity="{name}")'
    if kind == "SELU":
        return 'vp.initialize(model, "lecun_normal")'
    gain = math.sqrt(compute_gain_squared(kind))
    return f'vp.initialize(model, "kaiming_normal", gain={gain:.4g})'


@check_rule(
    "VP302",
    name="constant weights",
    what="A weight of a Linear or ConvNd layer has variance 0: all its elements are equal.",
    why="Units that start equal get equal gradients and stay equal: the layer is one unit wide.",
    remedy='Draw the weights at random, for example vp.initialize(model, "kaiming_normal").',
    reference="Goodfellow et al. 2016, section 8.4.",
)
def find_constant_weights(analysis: Analysis, run: str) -> Iterator[Finding]:
    """Yield a finding for the constant weights; zeros are a design unless all weights are zeros."""
    weights = [s for s in analysis.select(signal="weight", run=run) if s.first.fan_in]
    constant = [s for s in weights if s.first.moments.numel > 1 and _is_constant(s)]
    zeros = [s for s in constant if s.second_moment == 0.0]
    guilty = constant if len(zeros) == len(weights) else [s for s in constant if s not in zeros]
    if not guilty:
        return
    first = guilty[0]
    value = first.first.moments.mean
    more = f", and those of {len(guilty) - 1} more layers are constant" if len(guilty) > 1 else ""
    yield RULES["VP302"].report(
        first.site.module,
        f"all {first.first.moments.numel} elements of its weight are {value:.6g}{more}",
        run=run,
        measured=0.0,
        expected=math.nan,
        threshold=0.0,
    )


def _is_constant(site: SiteAnalysis) -> bool:
    # Equal float32 numbers may leave a variance of the rounding of their mean.
    return all(
        record.moments.variance <= 1e-14 * record.moments.second_moment for record in site.records
    )
