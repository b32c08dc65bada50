"""VP104: tanh and sigmoid units that sit on their flat ends."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

from varprobe.analysis import Analysis, SiteAnalysis
from varprobe.diagnosis.finding import Finding
from varprobe.diagnosis.rule import RULES, check_rule
from varprobe.moments import Moments


class Bounded(NamedTuple):
    """A nonlinearity between two flat ends whose slope follows from its output.

    ``slope`` is the mean slope over the steepest one, from the moments of the outputs: exact, since
    tanh′ = 1 - tanh² and σ′ = σ (1 - σ). ``gates`` says whether people close it on purpose.
    """

    slope: Callable[[Moments], float]
    gates: bool


BOUNDED = {
    "Tanh": Bounded(lambda y: 1.0 - y.second_moment, gates=False),
    "Sigmoid": Bounded(lambda y: 4.0 * (y.mean - y.second_moment), gates=True),
}

MIN_SLOPE = 0.1
"""Mean slope, as a share of the steepest, below which nine tenths of the gradient stop here. For
tanh that takes inputs of standard deviation 8, for the sigmoid 16: weights of N(0, 1) behind 64 or
256 units. Xavier's leave a half and more, also with tanh's gain of 5/3."""

MIN_UNITS = 8
"""Fewer units may be saturated by chance: the slope of one scatters by 0.3 around 0.6 or so, and
the mean of eight is five standard deviations above the limit."""

CLOSED = 0.25
"""Share of the largest variance, 1/4 for the sigmoid, below which its units sit on one end all
together: gates that a bias closes on purpose, and outputs that begin at a small prior."""


@check_rule(
    "VP104",
    name="saturated units",
    what=f"The mean slope of a tanh or sigmoid is below {MIN_SLOPE:g} of its steepest.",
    why="What comes back through it is multiplied by that slope; weights before it hardly move.",
    remedy='Draw the layer before with vp.initialize(model, "xavier_normal"), and standardize the '
    "inputs if it is the first.",
    reference="Glorot and Bengio 2010, section 3; LeCun et al. 1998, section 4.4.",
)
def find_saturated_units(analysis: Analysis, run: str) -> Iterator[Finding]:
    """Yield a finding for the first saturated nonlinearity, and an info for the closed gates."""
    saturated = [
        site for site in analysis.select(signal="activation", run=run) if _is_saturated(site)
    ]
    gates = [site for site in saturated if _is_closed_gate(site)]
    guilty = [site for site in saturated if site not in gates]
    for sites, level in ((guilty, "error"), (gates, "info")):
        if not sites:
            continue
        first = sites[0]
        slope, more = _slope(first), _count_others(sites)
        design = "" if level == "error" else ": a gate that starts closed"
        yield RULES["VP104"].report(
            first.site.module,
            f"the mean slope of its {first.first.kind} is {slope:.2g} of the steepest{more}{design}"
            f"; at least {MIN_SLOPE:g} is usual",
            run=run,
            level=level,
            measured=slope,
            expected=1.0,
            threshold=MIN_SLOPE,
        )


def _is_saturated(site: SiteAnalysis) -> bool:
    record = site.first
    if record.kind not in BOUNDED or site.nonfinite or record.moments.variance == 0.0:
        return False
    units = math.prod(record.shape[1:]) if len(record.shape) > 1 else record.moments.numel
    return units >= MIN_UNITS and _slope(site) < MIN_SLOPE


def _slope(site: SiteAnalysis) -> float:
    slope = BOUNDED[site.first.kind].slope
    return math.fsum(slope(record.moments) for record in site.records) / site.draws


def _is_closed_gate(site: SiteAnalysis) -> bool:
    largest = 0.25
    return BOUNDED[site.first.kind].gates and site.variance < CLOSED * largest


def _count_others(sites: list[SiteAnalysis]) -> str:
    return f", and {len(sites) - 1} more are saturated" if len(sites) > 1 else ""
