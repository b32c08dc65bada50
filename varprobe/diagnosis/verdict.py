"""Run the checks over an analysis."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from varprobe.analysis import Analysis
from varprobe.diagnosis import (  # noqa: F401
    arrival,
    collapse,
    dead,
    departure,
    designs,
    drift,
    dtype_range,
    growth,
    narrow,
    nothing,
    numerics,
    saturation,
    symmetry,
    weights,
)
from varprobe.diagnosis.causes import attribute
from varprobe.diagnosis.finding import Diagnosis
from varprobe.diagnosis.fixes import prescribe
from varprobe.diagnosis.policy import Policy


def diagnose(
    analysis: Analysis,
    *,
    policy: Policy | None = None,
    select: Iterable[str] | None = None,
    ignore: Iterable[str] | None = None,
) -> Diagnosis:
    """Judge an analysis with every check.

    Parameters
    ----------
    analysis : Analysis
        From `varprobe.analyze`.
    policy : Policy, optional
        Which checks run, where, and how much their findings weigh.
    select : iterable of str, optional
        Codes of the checks to run; a beginning ("VP2") stands for all codes that begin with it.
        None leaves it to the policy, which runs all unless it says otherwise. VP001 always runs: a
        gate that looked at nothing never passes; and so does VP305 where there is a baseline.
    ignore : iterable of str, optional
        Codes or beginnings whose findings are left out, and counted. None leaves it to the policy.

    Returns
    -------
    Diagnosis
        One finding for each cause, errors first.

    Raises
    ------
    UnknownNameError
        If a code in ``select`` or ``ignore`` matches no check.
    InvalidArgumentError
        If VP001 is to be ignored.

    Examples
    --------
    >>> import torch, varprobe as vp
    >>> model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU())
    >>> vp.diagnose(vp.analyze(vp.profile(model, torch.randn(32, 64))))
    <Diagnosis: healthy, 0 finding(s), 3 layers, 1 draw checked>
    """
    followed = (policy or Policy()).override(select=select, ignore=ignore)
    if analysis.baseline is not None and followed.select is not None:
        # Who gives a baseline wants it compared with, whatever else is looked at.
        followed = followed.override(select=[*followed.select, "VP305"])
    judged = [
        followed.find(code, analysis, run)
        for run in analysis.recording.runs or ("",)
        for code in followed.checks
    ]
    found = [finding for counted, _ in judged for finding in counted]
    return Diagnosis(
        findings=tuple(prescribe(cause, analysis, found) for cause in attribute(found, analysis)),
        analysis=analysis,
        checks=followed.checks,
        ignored=Counter(finding.code for _, ignored in judged for finding in ignored),
    )
