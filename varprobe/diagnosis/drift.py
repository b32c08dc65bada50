"""VP305: second moments that are no longer those of the baseline.

Both are measurements, of draws of their own: their logs differ by chance as much as the error bars
of both allow. That of an activation or a gradient is the theory's, as everywhere. A weight is drawn
element by element: the log of a mean of N squares has the variance (κ - 1)/N, with κ = 3 the
kurtosis of a normal; a uniform law scatters less. Inputs that are drawn anew move every layer
behind them, by as much as they differ themselves, which is known.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

from varprobe.analysis import MODEL_ERROR, Analysis, SiteAnalysis
from varprobe.baseline import DIGITS, Baseline
from varprobe.diagnosis.finding import Finding
from varprobe.diagnosis.rule import RULES, check_rule

SIGNIFICANCE = 6.0
"""Standard errors beyond which a second moment has drifted. Hundreds of sites are compared at every
commit, and the error bars of what no rule of theory reaches are estimates from 16 draws: a Student
t with 15 degrees of freedom exceeds 6 in 2 of 10⁵ cases."""

WEIGHT_VARIANCE = 2.0
"""κ - 1 of a normal distribution."""

CONSTANT = 1e-12
"""Share of the second moment below which a variance is that of rounding: such weights were not
drawn, and do not scatter."""


class Drift(NamedTuple):
    """A site, what it was, and by how much it departs from that."""

    site: SiteAnalysis
    before: float
    error: float
    """Standard error of the log of the ratio."""

    @property
    def ratio(self) -> float:
        """Second moment now over that of the baseline."""
        now = self.site.second_moment
        return now / self.before if self.before else math.inf if now else 1.0

    @property
    def is_significant(self) -> bool:
        """Whether it is more than chance allows; 0, NaN and infinity are like nothing else."""
        now, before = self.site.second_moment, self.before
        if not (0.0 < now < math.inf and 0.0 < before < math.inf):
            return True
        return abs(math.log(self.ratio)) > SIGNIFICANCE * self.error


@check_rule(
    "VP305",
    name="drift from the baseline",
    what=f"A second moment differs from that of the baseline by more than {SIGNIFICANCE:g} "
    "standard errors of the two measurements.",
    why="Somebody changed an initialization, a layer or the data: on purpose, or without noticing.",
    remedy="If the change is meant, write the baseline again and commit it (varprobe check TARGET "
    "--baseline FILE --update-baseline, or pytest --varprobe-update-baselines); else undo it in "
    "the layer named first.",
)
def find_drift(analysis: Analysis, run: str) -> Iterator[Finding]:
    """Yield a finding for the first cause of drift, and one for what nobody can tell."""
    baseline = analysis.baseline
    if baseline is None:
        return
    drifts, blind = [], []
    for site in analysis.sites:
        before = baseline.find(site.site)
        if site.first.run != run or before is None or site.first.backward:
            continue
        if _is_same(site.second_moment, before):
            continue
        error = measure_error(site, analysis, baseline)
        if error is None:
            blind.append(site)
        else:
            drifts.append(Drift(site, before, error))
    found = [drift for drift in drifts if drift.is_significant]
    if found:
        yield _report(found, run)
    if blind:
        yield _report_blind(blind, run)


def measure_error(site: SiteAnalysis, analysis: Analysis, baseline: Baseline) -> float | None:
    """Return the standard error of ln(second moment now / before); None if theory gives none."""
    pairs = 1.0 / site.draws + 1.0 / baseline.draws
    if site.site.signal == "weight":
        record = site.first
        constant = record.moments.variance <= CONSTANT * record.moments.second_moment
        drawn = 0.0 if constant else WEIGHT_VARIANCE * pairs / max(record.moments.numel, 1)
        return math.hypot(math.sqrt(drawn), MODEL_ERROR["exact"])
    known = site.expectation
    if known is None or not known.log_std >= 0.0:
        return None
    received = analysis.input_moment
    inputs = math.log(received / baseline.input) if received and baseline.input else 0.0
    return math.hypot(
        known.log_std * math.sqrt(pairs),
        MODEL_ERROR[known.status],
        site.sampling_error,
        inputs,
    )


def _is_same(now: float, before: float) -> bool:
    """Tell whether two numbers agree to the digits of the file: that needs no error bar."""
    same = math.isclose(now, before, rel_tol=10.0 ** (1 - DIGITS))
    return same or (math.isnan(now) and math.isnan(before))


def _report(found: list[Drift], run: str) -> Finding:
    """Return the finding about the first cause: a weight, else the first that the signal meets."""
    weights = [drift for drift in found if drift.site.site.signal == "weight"]
    forward = [drift for drift in found if drift.site.site.signal == "activation"]
    first = weights[0] if weights else forward[0] if forward else found[-1]
    site, signal = first.site.site, first.site.site.signal
    what = f"its {signal} {site.output!r}" if signal == "weight" else f"its {signal}"
    layers = len({drift.site.site.module for drift in found} - {site.module})
    more = f"; {layers} more layers drifted, too" if layers else ""
    allowed = math.exp(SIGNIFICANCE * first.error)
    return RULES["VP305"].report(
        site.module,
        f"the second moment of {what} was {first.before:.4g} and is {first.site.second_moment:.4g} "
        f"(×{first.ratio:.3g}); chance allows a factor of {allowed:.3g}{more}",
        run=run,
        measured=first.site.second_moment,
        expected=first.before,
        threshold=allowed,
    )


def _report_blind(sites: list[SiteAnalysis], run: str) -> Finding:
    first = sites[0]
    known = first.expectation
    reason = (known.reason or known.status) if known else "no prediction was made"
    return RULES["VP305"].report(
        first.site.module,
        f"{len(sites)} second moments have changed and have no error bar that says whether by "
        f"chance ({reason})",
        run=run,
        measured=math.nan,
        expected=math.nan,
        threshold=math.nan,
        remedy="Nothing; a rule of theory for the operation would give them one: varprobe.rule.",
        level="info",
    )
