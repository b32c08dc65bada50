"""VP103: units that are off for the whole batch."""

from __future__ import annotations

import math
from collections.abc import Iterator

from varprobe.analysis import Analysis, SiteAnalysis
from varprobe.diagnosis.finding import Finding
from varprobe.diagnosis.rule import RULES, check_rule

RECTIFIERS = frozenset({"ReLU", "ReLU6", "Threshold", "Hardswish"})
"""Nonlinearities that are exactly 0 on a half-line."""

HALF = 0.5
"""Share of zeros behind a rectifier whose input is as often positive as negative."""

MAX_ZERO_FRACTION = 0.9
"""Share of zeros at which nine of ten units carry nothing. Inputs must lie 1.28 standard deviations
below 0 for it; no initialization with zero-mean weights and small biases comes near."""

SIGNIFICANCE = 6.0
"""Standard deviations of a binomial of the layer's units. Deep in a stack samples look alike, and
the units of a layer are on or off for all of them at once."""


@check_rule(
    "VP103",
    name="dead units",
    what=f"More than {MAX_ZERO_FRACTION:.0%} of a rectifier's outputs are exactly 0, and more than "
    f"{SIGNIFICANCE:g} standard deviations above one half for its number of units.",
    why="A unit that is off for every sample passes no gradient and cannot recover.",
    remedy="Set the biases of the layer before to 0 and draw its weights with mean 0: "
    'vp.initialize(model, "kaiming_normal").',
    reference="Lu et al. 2020, Dying ReLU and Initialization.",
)
def find_dead_units(analysis: Analysis, run: str) -> Iterator[Finding]:
    """Yield a finding for the first of the rectifiers that are mostly off."""
    dead = [site for site in analysis.select(signal="activation", run=run) if is_dead(site)]
    if not dead:
        return
    first = dead[0]
    more = f", and so are {len(dead) - 1} more rectifiers" if len(dead) > 1 else ""
    yield RULES["VP103"].report(
        first.site.module,
        f"{first.zero_fraction:.1%} of its outputs are exactly 0, one half is usual, allowed are "
        f"{_limit(first):.1%}{more}",
        run=run,
        measured=first.zero_fraction,
        expected=HALF,
        threshold=_limit(first),
    )


def is_dead(site: SiteAnalysis) -> bool:
    """Tell whether a site is the output of a rectifier that is mostly off."""
    return site.first.kind in RECTIFIERS and site.zero_fraction > _limit(site)


def _limit(site: SiteAnalysis) -> float:
    shape = site.first.shape
    units = shape[1] if len(shape) > 1 else shape[0] if shape else 1
    return max(MAX_ZERO_FRACTION, HALF + SIGNIFICANCE * HALF / math.sqrt(units * site.draws))
