"""What theory predicts of a fix, in words and numbers.

The same theory that says what a model should show says what it would show with other weights: the
laws of the parameters at fault are replaced, and the moments follow.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from varprobe.analysis import Analysis, SiteAnalysis
from varprobe.diagnosis.finding import Diagnosis, Finding
from varprobe.errors import VarprobeError

if TYPE_CHECKING:
    from varprobe.theory.prediction import Prediction

MOST_PREDICTED = 4
"""Findings whose fix is predicted: each takes as long as the prediction of the model, and who has
five bad layers will look at the first of them first."""

Repredict = Callable[[Finding], "Prediction"]
"""Returns what theory expects of the model with a finding's fixes."""


def add_effects(diagnosis: Diagnosis, repredict: Repredict) -> Diagnosis:
    """Return the diagnosis, its findings with the predicted effects of their fixes.

    Parameters
    ----------
    diagnosis : Diagnosis
        Of a model as it is.
    repredict : callable
        From a finding to the `varprobe.Prediction` for the model with its fixes.
    """
    if not any(finding.fixes for finding in diagnosis.findings):
        return diagnosis
    told: list[Finding] = []
    for finding in diagnosis.findings:
        predicted = sum(bool(f.effect) for f in told)
        if finding.fixes and predicted < MOST_PREDICTED:
            finding = replace(finding, effect=_tell(finding, diagnosis.analysis, repredict))
        told.append(finding)
    return replace(diagnosis, findings=tuple(told))


def _tell(finding: Finding, analysis: Analysis, repredict: Repredict) -> str:
    try:
        prediction = repredict(finding)
    except VarprobeError as error:
        return f"nothing, for {error}"
    lines = list(_compare(finding, analysis, prediction))
    if not lines:
        return "nothing: a ratio takes two layers"
    return f"{'; '.join(lines)} (second moments; ×/÷ one standard deviation over draws)"


def _compare(finding: Finding, analysis: Analysis, prediction: Prediction) -> Iterator[str]:
    """Yield what becomes of the gradients, then of the activations, from one end to the other."""
    for signal, what, backwards in (
        ("gradient", "gradient", True),
        ("activation", "output", False),
    ):
        # As in the checks of growth: a head is scaled by its own reasons.
        layers = list(analysis.select_weighted(signal=signal, run=finding.run))
        layers = layers[:-1] if len(layers) > 2 else layers
        if len(layers) < 2:
            continue
        start, end = (layers[-1], layers[0]) if backwards else (layers[0], layers[-1])
        names = [site.site.module or "(root)" for site in (end, start)]
        before = _spell_ratio(end, start)
        expected = [prediction.find(site.site) for site in (end, start)]
        unknown = next((e for e in expected if e and math.isnan(e.second_moment)), None)
        if unknown is not None or None in expected:
            why = unknown.reason if unknown else "theory did not see it"
            yield f"{what} at {names[0]} unknown ({why})"
            continue
        numerator, denominator = (e.second_moment for e in expected if e)
        after = numerator / denominator if denominator else math.nan
        scatter = math.exp(max(e.log_std for e in expected if e))
        yield (
            f"{what} at {names[0]} from {before} to {after:.2g} ×/÷ {scatter:.2g} of that at "
            f"{names[1]}"
        )


def _spell_ratio(end: SiteAnalysis, start: SiteAnalysis) -> str:
    if end.nonfinite or start.nonfinite:
        return "values that are not finite"
    if not start.second_moment > 0.0:
        return "nothing" if not end.second_moment > 0.0 else "inf"
    return f"{end.second_moment / start.second_moment:.2g}"
