"""A verdict as GitHub shows it: annotations on the change, and the summary of a job."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from varprobe.reporting.describe import describe
from varprobe.reporting.markdown import render_markdown
from varprobe.reporting.numbers import shorten
from varprobe.reporting.report import FindingGroup, Report
from varprobe.reporting.verdicts import Source, list_verdicts

COMMANDS = {"error": "error", "warning": "warning", "info": "notice"}
"""Level of a finding: command that a workflow understands."""


def to_github(result: object, *, source: Source | None = None) -> str:
    """Return a verdict as workflow commands: an annotation for each kind of finding.

    Parameters
    ----------
    result : Diagnosis or Comparison
        What a public call returned.
    source : Source, optional
        What was checked, and the line to put annotations on; without it they stand by the job.

    Returns
    -------
    str
        A line for each annotation, and one that says what was checked.

    Raises
    ------
    UnknownNameError
        If ``result`` holds no verdict.

    Examples
    --------
    >>> import torch, varprobe as vp
    >>> print(to_github(vp.check(torch.nn.Linear(64, 64), torch.randn(32, 64))), end="")
    ::notice title=varprobe::healthy: 1 layer, 1 draw checked.
    """
    healthy = all(diagnosis.healthy for diagnosis in list_verdicts(result).values())
    return "".join(f"{line}\n" for line in _list_lines(describe(result), healthy, source))


def summarize_for_github(result: object, *, source: Source | None = None) -> str:
    """Return a verdict as Markdown without its tables, for the file $GITHUB_STEP_SUMMARY.

    Parameters
    ----------
    result : Diagnosis or Comparison
        What a public call returned.
    source : Source, optional
        What was checked, for the title.

    Raises
    ------
    UnknownNameError
        If ``result`` holds no verdict.
    """
    list_verdicts(result)
    # GitHub drops a summary above 1 MiB, which the tables of a large model exceed.
    report = replace(describe(result), sections=(), unobserved=())
    return render_markdown(report if source is None else replace(report, title=source.name))


def _list_lines(report: Report, healthy: bool, source: Source | None) -> Iterator[str]:
    where = {"file": source.path, "line": str(source.line)} if source and source.path else {}
    for group in report.findings:
        title = f"{group.first.code} {group.first.name}"
        yield _command(COMMANDS[group.first.level], _tell(group), title=title, **where)
    closing = f"{'healthy' if healthy else 'UNHEALTHY'}: {report.closing}."
    title = f"varprobe check {source.name}" if source else "varprobe"
    yield _command("notice", closing, title=title) if healthy else closing


def _tell(group: FindingGroup) -> str:
    finding = group.first
    run = f" (under {finding.run})" if finding.run else ""
    lines = [f"{finding.where}{run}: {finding.message}", *finding.notes]
    if group.others:
        lines.append(f"also: {len(group.others)} more ({shorten(group.other_modules)})")
    return "\n".join(lines)


def _command(name: str, message: str, **properties: str) -> str:
    """Return ``::name key=value,…::message``, in which a line break or a colon ends nothing."""
    spelled = ",".join(
        f"{key}={_escape(value).replace(':', '%3A').replace(',', '%2C')}"
        for key, value in properties.items()
    )
    return f"::{name} {spelled}::{_escape(message)}"


def _escape(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
