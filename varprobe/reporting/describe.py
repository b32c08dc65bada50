"""Turn a result into a `Report`: one describer for each type of result."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from varprobe.analysis import Analysis, SiteAnalysis, analyze
from varprobe.diagnosis.finding import Diagnosis, Finding
from varprobe.plotting import plot_compare, plot_depth, plot_identification, plot_phase
from varprobe.recording import Recording
from varprobe.registry import Registry
from varprobe.reporting import origins as origin_tables, phases as phase_tables
from varprobe.reporting.dispatch import find_for
from varprobe.reporting.expectations import (
    build_section,
    build_section_of_operations,
    summarize_statuses,
)
from varprobe.reporting.numbers import MISSING, count, format_number
from varprobe.reporting.report import Column, Report, Section, Table, group_findings
from varprobe.reporting.tables import (
    QUANTITIES,
    build_full_table,
    build_table,
    choose_sites,
    head_section,
)
from varprobe.schema import SIGNALS

if TYPE_CHECKING:
    from varprobe.comparison import Comparison
    from varprobe.identification import Identification
    from varprobe.theory import PhaseDiagram, Prediction

Describer = Callable[[Any], Report]

DESCRIBERS: Registry[str, Describer] = Registry("kind of result")

SHOWN_SIGNALS = ("activation", "gradient")
"""Signals whose second moments over depth are the subject; the parameters' are details."""

GRADIENT_CODES = "VP2"
"""How the codes of checks on gradients begin; a table names the codes that are about its rows."""


def describe(result: object) -> Report:
    """Return what is to be said about a result, before it takes any format.

    Parameters
    ----------
    result : Recording, Prediction, Analysis, Diagnosis, Comparison, PhaseDiagram or Identification
        What a public call returned.

    Raises
    ------
    UnknownNameError
        If it is none of these.

    Examples
    --------
    >>> import torch, varprobe as vp
    >>> report = describe(vp.check(torch.nn.Linear(64, 64), torch.randn(32, 64)))
    >>> report.healthy, report.closing
    (True, '1 layer, 1 draw checked')
    """
    return find_for(result, DESCRIBERS)(result)


@DESCRIBERS.register("Recording")
def describe_recording(recording: Recording) -> Report:
    """Return what was measured, without any theory."""
    return _describe_measured("Recording", analyze(recording))


@DESCRIBERS.register("Analysis")
def describe_analysis(analysis: Analysis) -> Report:
    """Return what was measured beside what was predicted."""
    return _describe_measured("Analysis", analysis)


@DESCRIBERS.register("Diagnosis")
def describe_diagnosis(diagnosis: Diagnosis) -> Report:
    """Return the verdict, and the numbers that it is about."""
    analysis = diagnosis.analysis
    return _describe_measured(
        "Diagnosis",
        analysis,
        healthy=diagnosis.healthy,
        findings=diagnosis.findings,
        closing=_close(diagnosis),
    )


@DESCRIBERS.register("Comparison")
def describe_comparison(comparison: Comparison) -> Report:
    """Return the initializations side by side, and the verdict over each."""
    analyses = comparison.analyses
    findings = [f for diagnosis in comparison.diagnoses.values() for f in diagnosis.findings]
    first = next(iter(analyses.values()))
    overview = Section(
        title="Second moments over depth: factor per layer with a fan-in",
        tables=(_overview(comparison),),
        notes=("Activations from the first to the last layer, gradients the other way.",),
    )
    verdicts = ", ".join(
        f"{name} {_judge(d)}{f' (ignored: {_count_ignored(d)})' if d.ignored else ''}"
        for name, d in comparison.diagnoses.items()
    )
    checked = next(iter(comparison.diagnoses.values())).checked
    return Report(
        title=f"Comparison of {_name(first.recording)}: {', '.join(analyses)}",
        facts=_list_facts(first.recording, without=("init",)),
        findings=group_findings(findings),
        sections=(overview, *_sections_side_by_side(analyses)),
        details=tuple(s for analysis in analyses.values() for s in _list_details(analysis)),
        unobserved=_list_unobserved(a.recording for a in analyses.values()),
        closing=f"{verdicts}: {checked}",
        draw=lambda: plot_compare(comparison.analyses).render("svg"),
    )


@DESCRIBERS.register("Prediction")
def describe_prediction(prediction: Prediction) -> Report:
    """Return what theory expects, site by site."""
    signals = {signal: [e for e in prediction if e.site.signal == signal] for signal in SIGNALS}
    sections = {signal: build_section(signal, rows) for signal, rows in signals.items() if rows}
    shown = [section for signal, section in sections.items() if signal in SHOWN_SIGNALS]
    if prediction.unsupported:
        shown.append(build_section_of_operations(prediction))
    hidden = {"model", "no_draws"}  # The title names the model, the operations say about draws.
    meta = {key: value for key, value in prediction.meta.items() if key not in hidden}
    return Report(
        title=f"Prediction for {prediction.meta.get('model', 'a model')}",
        facts=_list_meta(meta),
        sections=tuple(shown),
        details=tuple(s for signal, s in sections.items() if signal not in SHOWN_SIGNALS),
        closing=summarize_statuses(tuple(prediction)),
        draw=_draw_prediction(prediction),
    )


@DESCRIBERS.register("PhaseDiagram")
def describe_phases(diagram: PhaseDiagram) -> Report:
    """Return where signals vanish and explode, network by network."""
    return Report(
        title=f"Phase diagram of {diagram.nonlinearity!r}",
        facts=(
            ("sigma_w2", _span(diagram.sigma_w2)),
            ("sigma_b2", _span(diagram.sigma_b2)),
        ),
        sections=phase_tables.build_sections(diagram),
        details=(phase_tables.build_section_of_all(diagram),),
        closing=phase_tables.summarize_phases(diagram),
        draw=(lambda: plot_phase(diagram).render("svg")) if diagram.is_drawable else None,
    )


def _span(values: Sequence[float]) -> str:
    first, last = values[0], values[-1]
    return f"{first:g}" if len(values) == 1 else f"{first:g} … {last:g} ({len(values)} values)"


@DESCRIBERS.register("Identification")
def describe_identification(identification: Identification) -> Report:
    """Return what drew each parameter, and whether it suits what comes behind."""
    origins = tuple(identification)
    misfits = sum(origin.fits is False for origin in origins)
    misfit = f"; {misfits} of {sum(o.fits is not None for o in origins)} do not fit" * bool(misfits)
    return Report(
        title=f"Identification of {identification.meta.get('model', 'a model')}",
        facts=_list_meta({k: v for k, v in identification.meta.items() if k != "model"}),
        sections=origin_tables.build_sections(origins),
        details=origin_tables.build_details(origins),
        unobserved=tuple(map(str, identification.unobserved)),
        closing=f"{count(len(origins), 'parameter')}: {identification.counted or 'none'}{misfit}",
        draw=(lambda: plot_identification(identification).render("svg")) if origins else None,
    )


def _describe_measured(
    what: str,
    analysis: Analysis,
    *,
    healthy: bool | None = None,
    findings: Sequence[Finding] = (),
    closing: str = "",
) -> Report:
    recording = analysis.recording
    layers, draws = count(len(recording.modules), "layer"), count(recording.draws, "draw")
    return Report(
        title=f"{what} of {_name(recording)}",
        facts=_list_facts(recording),
        healthy=healthy,
        findings=group_findings(findings),
        sections=_sections_by_run(analysis, findings),
        details=_list_details(analysis),
        unobserved=_list_unobserved([recording]),
        closing=closing or f"{layers}, {draws} recorded",
        draw=_draw_analysis(analysis),
    )


def _sections_by_run(analysis: Analysis, findings: Sequence[Finding]) -> tuple[Section, ...]:
    all_findings = [f for finding in findings for f in (finding, *finding.consequences)]
    sections = []
    for signal in SHOWN_SIGNALS:
        tables: list[Table] = []
        shown: list[SiteAnalysis] = []
        for run in analysis.recording.runs:
            sites = choose_sites(analysis, signal, run)
            found = _join_codes(all_findings, signal, run)
            # One run needs no name above its table.
            title = run if len(analysis.recording.runs) > 1 else ""
            if sites:
                tables.append(build_table(sites, title=title, codes=found))
                shown += sites
        if tables:
            sections.append(head_section(signal, shown, tables))
    return tuple(sections)


def _sections_side_by_side(analyses: Mapping[str, Analysis]) -> tuple[Section, ...]:
    sections = []
    for signal in SHOWN_SIGNALS:
        tables: list[Table] = []
        shown: list[SiteAnalysis] = []
        for name, analysis in analyses.items():
            for run in analysis.recording.runs:
                sites = choose_sites(analysis, signal, run)
                if sites:
                    tables.append(build_table(sites, title=name, compact=True))
                    shown += sites
        if tables:
            sections.append(head_section(signal, shown, tables))
    return tuple(sections)


def _list_details(analysis: Analysis) -> tuple[Section, ...]:
    """Return every site of every signal, with all columns."""
    sections = []
    for run in analysis.recording.runs:
        for signal in SIGNALS:
            sites = analysis.select(signal=signal, run=run, operations=True)
            if sites:
                title = f"{run}: {QUANTITIES[signal].name}" if run else QUANTITIES[signal].name
                table = build_full_table(sites)
                sections.append(Section(title=f"{title}, all {len(sites)}", tables=(table,)))
    return tuple(sections)


def _overview(comparison: Comparison) -> Table:
    """Return a row for each initialization: verdict, codes, factors per layer."""
    rows = []
    for name, analysis in comparison.analyses.items():
        diagnosis = comparison.diagnoses[name]
        codes = dict.fromkeys(finding.code for finding in diagnosis.all_findings)
        rows.append(
            (
                name,
                _judge(diagnosis),
                ", ".join(codes) or MISSING,
                *(format_number(factor) for factor in _factors_per_layer(analysis)),
            )
        )
    columns = (
        Column("initialization", numeric=False),
        Column("verdict", numeric=False),
        Column("found", numeric=False),
        Column("activations"),
        Column("predicted"),
        Column("gradients"),
        Column("predicted"),
    )
    return Table(columns=columns, rows=tuple(rows))


def _factors_per_layer(analysis: Analysis) -> list[float]:
    factors = []
    for signal in SHOWN_SIGNALS:
        sites = analysis.select_weighted(signal=signal)
        along = sites if signal == "activation" else sites[::-1]
        factors.append(_factor([site.second_moment for site in along]))
        factors.append(
            _factor([s.expectation.second_moment if s.expectation else math.nan for s in along])
        )
    return factors


def _factor(moments: Sequence[float]) -> float:
    """Return the geometric mean of the steps from the first of the numbers to the last."""
    if len(moments) < 2 or not (moments[0] > 0.0 and moments[-1] > 0.0):
        return math.nan
    return math.exp((math.log(moments[-1]) - math.log(moments[0])) / (len(moments) - 1))


def _join_codes(findings: Iterable[Finding], signal: str, run: str) -> dict[str, str]:
    """Return the codes found at each module in one run, for the table that they belong to."""
    codes: dict[str, dict[str, None]] = {}
    for finding in findings:
        belongs = "gradient" if finding.code.startswith(GRADIENT_CODES) else "activation"
        if belongs == signal and finding.run == run:
            codes.setdefault(finding.module, {})[finding.code] = None
    return {module: ", ".join(found) for module, found in codes.items()}


def _judge(diagnosis: Diagnosis) -> str:
    return "healthy" if diagnosis.healthy else "unhealthy"


def _close(diagnosis: Diagnosis) -> str:
    ignored = f"; ignored: {_count_ignored(diagnosis)}" if diagnosis.ignored else ""
    return diagnosis.checked + ignored


def _count_ignored(diagnosis: Diagnosis) -> str:
    return ", ".join(f"{code} ×{number}" for code, number in diagnosis.ignored.items())


def _name(recording: Recording) -> str:
    return str(recording.meta.get("model", "a model"))


def _list_facts(recording: Recording, without: Sequence[str] = ()) -> tuple[tuple[str, str], ...]:
    hidden = {"model", *without}  # The title names the model.
    meta = {key: value for key, value in recording.meta.items() if key not in hidden}
    return (*_list_meta(meta), ("draws", str(recording.draws)))


def _list_meta(meta: Mapping[str, object]) -> tuple[tuple[str, str], ...]:
    return tuple((key, str(value)) for key, value in meta.items() if value not in (None, []))


def _list_unobserved(recordings: Iterable[Recording]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(str(u) for recording in recordings for u in recording.unobserved))


def _draw_analysis(analysis: Analysis) -> Callable[[], bytes] | None:
    """Return what draws the curves over depth, only if a format asks for it.

    None if there is nothing to draw: a format that shows a figure must not fail for want of one.
    """
    recording = analysis.recording
    if not any(recording.select(signal=signal) for signal in SHOWN_SIGNALS):
        return None
    if len(recording.runs) > 1:
        return lambda: plot_compare(recording).render("svg")
    return lambda: plot_depth(analysis).render("svg")


def _draw_prediction(prediction: Prediction) -> Callable[[], bytes] | None:
    if not any(e.site.signal in SHOWN_SIGNALS for e in prediction):
        return None
    return lambda: plot_depth(None, prediction).render("svg")
