"""A report as GitHub-flavoured Markdown, for pull requests and issues."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator

from varprobe.reporting.describe import describe
from varprobe.reporting.numbers import shorten
from varprobe.reporting.report import FindingGroup, Report, Table

_SPECIAL = re.compile(r"([\\`*_{}\[\]#+!|~$])")
"""What Markdown may read as more than itself, within a line."""


def to_markdown(result: object) -> str:
    """Return a result as Markdown: verdict, findings, tables.

    Parameters
    ----------
    result : Recording, Prediction, Analysis, Diagnosis, Comparison, PhaseDiagram or Identification
        What a public call returned.

    Raises
    ------
    UnknownNameError
        If ``result`` is none of these.

    Examples
    --------
    >>> import torch, varprobe as vp
    >>> print(to_markdown(vp.check(torch.nn.Linear(64, 64), torch.randn(32, 64)))[:60])
    ## Diagnosis of Linear
    <BLANKLINE>
    **Healthy**: 1 layer, 1 draw checked
    """
    return render_markdown(describe(result))


def render_markdown(report: Report) -> str:
    """Return a report as Markdown."""
    return "\n".join(_list_lines(report)).rstrip() + "\n"


def _list_lines(report: Report) -> Iterator[str]:
    verdict = {None: "", True: "**Healthy**: ", False: "**Unhealthy**: "}[report.healthy]
    yield from (f"## {_escape(report.title)}", "", f"{verdict}{_escape(report.closing)}.", "")
    if report.facts:
        yield ", ".join(f"{_escape(name)}: {_escape(value)}" for name, value in report.facts)
        yield ""
    for group in report.findings:
        yield from _list_group(group)
    if report.findings:
        yield ""
    for section in report.sections:
        yield from (f"### {_escape(section.title)}", "")
        for table in section.tables:
            yield from _list_table(table)
        for note in section.notes:
            yield from (_escape(note), "")
    if report.unobserved:
        yield from ("### Not observed", "")
        yield from (f"- {_escape(line)}" for line in report.unobserved)


def _list_group(group: FindingGroup) -> Iterator[str]:
    finding = group.first
    run = f" under {_escape(finding.run)}" if finding.run else ""
    name, module = _escape(finding.name), _escape(finding.module or "(root)")
    yield f"- **{finding.code} {finding.level}** {name}{run}: **{module}**<br>"
    more = group.others
    yield f"  {_escape(finding.message)}<br>"
    lines = [f"Fix: {_escape(finding.remedy)}"]
    if finding.effect:
        lines.append(f"Predicted: {_escape(finding.effect)}")
    if more:
        lines.append(f"Also {len(more)} more: {_escape(shorten(group.other_modules))}")
    yield "<br>\n".join(f"  {line}" for line in lines)
    for c in finding.consequences:
        yield f"  - hence {_escape(c.title)}: **{_escape(c.where)}**: {_escape(c.message)}"


def _list_table(table: Table) -> Iterator[str]:
    if table.title:
        yield from (f"**{_escape(table.title)}**", "")
    yield _join([_escape(column.title) for column in table.columns])
    yield _join(["---:" if column.numeric else "---" for column in table.columns])
    yield from (_join([_escape(cell) for cell in row]) for row in table.rows)
    yield ""


def _join(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _escape(text: str) -> str:
    """Return text that Markdown shows as it is, in one line."""
    return _SPECIAL.sub(r"\\\1", html.escape(" ".join(text.split()), quote=False))
