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
    dtype_range,
    growth,
    nothing,
    numerics,
    saturation,
    symmetry,
    weights,
)
from varprobe.diagnosis.causes import attribute
from varprobe.diagnosis.finding import Diagnosis
from varprobe.diagnosis.fixes import prescribe
from varprobe.diagnosis.rule import RULES


def diagnose(
    analysis: Analysis, *, select: Iterable[str] | None = None, ignore: Iterable[str] = ()
) -> Diagnosis:
    """Judge an analysis with every check.

    Parameters
    ----------
    analysis : Analysis
        From `varprobe.analyze`.
    select : iterable of str, optional
        Codes of the checks to run; a prefix ("VP2") stands for all codes that begin with it. None
        runs all. VP001 always runs: a gate that looked at nothing never passes.
    ignore : iterable of str
        Codes or prefixes whose findings are left out, and counted.

    Returns
    -------
    Diagnosis
        One finding for each cause, errors first.

    Raises
    ------
    UnknownNameError
        If a code in ``select`` or ``ignore`` matches no check.

    Examples
    --------
    >>> import torch, varprobe as vp
    >>> model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU())
    >>> vp.diagnose(vp.analyze(vp.profile(model, torch.randn(32, 64))))
    <Diagnosis: healthy, 0 finding(s), 3 layers, 1 draw checked>
    """
    chosen = set(RULES) if select is None else {"VP001", *_expand(select)}
    ignored = _expand(ignore)
    found = [
        finding
        for run in analysis.recording.runs or ("",)
        for code in sorted(chosen)
        for finding in RULES[code].find(analysis, run)
    ]
    kept = [finding for finding in found if finding.code not in ignored]
    return Diagnosis(
        findings=tuple(prescribe(cause, analysis, kept) for cause in attribute(kept, analysis)),
        analysis=analysis,
        ignored=Counter(f.code for f in found if f.code in ignored),
    )


def _expand(codes: Iterable[str]) -> set[str]:
    expanded: set[str] = set()
    for code in [codes] if isinstance(codes, str) else codes:
        matching = {known for known in RULES if known.startswith(code)}
        expanded |= matching or {_look_up(code)}
    return expanded


def _look_up(code: str) -> str:
    return RULES[code].code
