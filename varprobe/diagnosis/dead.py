"""VP103: units that are off for the whole batch."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cache

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

SIGNIFICANCE = 1e-9
"""Chance of so many zeros in a healthy layer, that of six standard deviations. Deep in a stack
samples look alike: a unit is on or off for all of them at once, with even odds, and the zeros of a
layer are those of so many coins. Thirty coins at least must fall alike."""

MANY_COINS = 64
"""Of more coins 86 % of heads are too rare already: `MAX_ZERO_FRACTION` is what counts."""


@check_rule(
    "VP103",
    name="dead units",
    what=f"More than {MAX_ZERO_FRACTION:.0%} of a rectifier's outputs are exactly 0, and more than "
    f"fair coins, one for each unit, exceed with a chance of {SIGNIFICANCE:g}.",
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
    return max(MAX_ZERO_FRACTION, bound_zeros(units * site.draws))


@cache
def bound_zeros(coins: int) -> float:
    """Return the share of heads that fair coins exceed with a chance of `SIGNIFICANCE` at most."""
    if coins > MANY_COINS:
        return HALF
    allowed = SIGNIFICANCE * 2**coins
    heads, ways = coins, 1  # to throw `heads` or more
    while ways <= allowed:
        heads -= 1
        ways += math.comb(coins, heads)
    return heads / coins
