"""VP304: designs that look like faults and are none, said so that nobody has to wonder."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence

from varprobe.analysis import Analysis, SiteAnalysis
from varprobe.diagnosis.finding import Finding
from varprobe.diagnosis.peers import find_odd
from varprobe.diagnosis.rule import RULES, check_rule
from varprobe.diagnosis.symmetry import is_constant, is_drawn, is_zero_norm

MAX_LAYER_SCALE = 0.1
"""Largest constant that scales a residual branch channel by channel from the beginning: Touvron et
al. take 0.1 down to 1e-6 by depth."""

SMALL_HEAD = 0.01
"""Variance of the last layer's weights, times fan_in, as a share of the median of the other layers,
below which it is a head that begins small. Layers under one law differ by far less."""


@check_rule(
    "VP304",
    name="deliberate design",
    level="info",
    what="Parts that begin at 0 or small by design, while signal and gradients find their way: "
    "zero-initialized branches and norms, ReZero and SkipInit scalars, LayerScale, small heads.",
    why="Gradients behind or before them are 0 or small in the first steps, as intended.",
    remedy="Nothing, if it is meant.",
    reference="Zhang et al. 2019, Fixup; Bachlechner et al. 2021, ReZero; De and Smith 2020, "
    "SkipInit; Touvron et al. 2021, LayerScale; Goyal et al. 2017, section 5.1.",
)
def find_designs(analysis: Analysis, run: str) -> Iterator[Finding]:
    """Yield one info for each kind of design that is there."""
    weights = analysis.select(signal="weight", run=run)
    blamed = {f.module for f in RULES["VP302"].find(analysis, run)}
    for what, belongs in DESIGNS.items():
        found = [s for s in weights if belongs(s) and s.site.module not in blamed]
        if found and not (is_drawn(found[0]) and blamed):
            yield _report(found, what)
    head = _find_small_head(analysis, run, weights)
    # If its peers tell more about it, VP301 says it.
    if head is not None and head not in [odd.site for odd in find_odd(_list_drawn(weights))]:
        yield _report([head], "a head that begins small")


def _list_drawn(weights: Sequence[SiteAnalysis]) -> list[SiteAnalysis]:
    return [site for site in weights if is_drawn(site)]


def _is_zero_layer(site: SiteAnalysis) -> bool:
    return is_drawn(site) and site.second_moment == 0.0


def _is_zero_scalar(site: SiteAnalysis) -> bool:
    is_shift = "bias" in site.site.output or "Norm" in site.first.kind
    return site.first.moments.numel == 1 and not is_shift and site.second_moment == 0.0


def _is_layer_scale(site: SiteAnalysis) -> bool:
    record = site.first
    is_vector = len(record.shape) == 1 and record.moments.numel > 1
    if not is_vector or "Norm" in record.kind or "bias" in site.site.output:
        return False
    return is_constant(site) and 0.0 < abs(record.moments.mean) <= MAX_LAYER_SCALE


DESIGNS: Mapping[str, Callable[[SiteAnalysis], bool]] = {
    "a layer that begins at 0": _is_zero_layer,
    "a norm whose scale begins at 0: its branch begins as nothing": is_zero_norm,
    "a scalar that begins at 0: its branch begins as nothing (ReZero, SkipInit)": _is_zero_scalar,
    "a scale that begins small: so does its branch (LayerScale)": _is_layer_scale,
}


def _find_small_head(
    analysis: Analysis, run: str, weights: Sequence[SiteAnalysis]
) -> SiteAnalysis | None:
    layers = analysis.select_weighted(signal="activation", run=run)
    if not layers:
        return None
    scales = {
        site.site.module: site.first.fan_in * site.second_moment
        for site in weights
        if site.first.fan_in and site.second_moment > 0.0
    }
    last = scales.pop(layers[-1].site.module, math.nan)
    if not scales or not last < SMALL_HEAD * statistics.median(scales.values()):
        return None
    return next(s for s in weights if s.site.module == layers[-1].site.module and s.first.fan_in)


def _report(found: Sequence[SiteAnalysis], what: str) -> Finding:
    first = found[0]
    more = f" ({len(found)} alike)" if len(found) > 1 else ""
    return RULES["VP304"].report(
        first.site.module,
        f"its {first.site.output} is {what}{more}",
        run=first.first.run,
        measured=math.sqrt(first.second_moment),
        expected=math.nan,
        threshold=math.nan,
    )
