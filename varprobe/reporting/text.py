"""A report for the terminal."""

from __future__ import annotations

import io
from collections.abc import Iterator

from rich.box import SIMPLE_HEAD
from rich.columns import Columns
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table as RichTable
from rich.text import Text

from varprobe.reporting.describe import describe
from varprobe.reporting.numbers import shorten
from varprobe.reporting.report import FindingGroup, Report, Section, Table

LEVEL_STYLES = {"error": "bold red", "warning": "bold yellow", "info": "bold cyan"}

WIDTH = 100
"""Columns of a text that is not written to a terminal."""

UNOBSERVED_SHOWN = 8
"""Lines of what was not observed that a terminal shows; other formats show all."""


def to_text(result: object, *, width: int = WIDTH) -> str:
    """Return a result as plain text: tables of the layers, findings, what was looked at.

    Parameters
    ----------
    result : Recording, Prediction, Analysis, Diagnosis, Comparison, PhaseDiagram or Identification
        What a public call returned.
    width : int
        Columns that a line may take.

    Raises
    ------
    UnknownNameError
        If ``result`` is none of these.

    Examples
    --------
    >>> import torch, varprobe as vp
    >>> recording = vp.profile(torch.nn.Linear(64, 64), torch.randn(32, 64))
    >>> print(to_text(recording).splitlines()[0])
    Recording of Linear
    """
    console = Console(file=io.StringIO(), width=width, color_system=None, legacy_windows=False)
    with console.capture() as capture:
        console.print(render(describe(result)))
    return "\n".join(line.rstrip() for line in capture.get().splitlines()) + "\n"


def render(report: Report) -> RenderableType:
    """Return a report as something that a rich console prints."""
    return Group(*_render_parts(report))


def render_findings(report: Report) -> RenderableType:
    """Return only the verdict of a report, its findings and what was looked at."""
    return Group(*_render_verdict(report))


def _render_parts(report: Report) -> Iterator[RenderableType]:
    yield Text(report.title, style="bold")
    if report.facts:
        yield Text(", ".join(f"{name} {value}" for name, value in report.facts), style="dim")
    for section in report.sections:
        yield from _render_section(section)
    yield Text()
    yield from _render_verdict(report)


def _render_section(section: Section) -> Iterator[RenderableType]:
    yield Text(f"\n{section.title}", style="bold")
    tables = [_render_table(table) for table in section.tables]
    yield Columns(tables, padding=(0, 4)) if len(tables) > 1 else tables[0]
    for note in section.notes:
        yield Text(note, style="dim")


def _render_table(table: Table) -> RichTable:
    drawn = RichTable(
        title=Text(table.title) if table.title else None,
        title_justify="left",
        box=SIMPLE_HEAD,
        pad_edge=False,
        show_edge=False,
    )
    for column in table.columns:
        drawn.add_column(
            Text(column.title),
            justify="right" if column.numeric else "left",
            no_wrap=column.numeric,
            overflow="fold",
        )
    for row in table.rows:
        # Text takes a module's name as it is; a string would be read for markup.
        drawn.add_row(*(Text(cell) for cell in row))
    return drawn


def _render_verdict(report: Report) -> Iterator[RenderableType]:
    for group in report.findings:
        yield from _render_group(group)
    shown = report.unobserved[:UNOBSERVED_SHOWN]
    if shown:
        yield Text("Not observed:", style="bold")
        yield from (Padding(Text(line), (0, 0, 0, 2), expand=False) for line in shown)
        if len(report.unobserved) > len(shown):
            yield Padding(
                Text(f"… and {len(report.unobserved) - len(shown)} more"),
                (0, 0, 0, 2),
                expand=False,
            )
    if report.healthy is None:
        yield Text(f"{report.closing}.")
        return
    verdict, style = ("healthy", "bold green") if report.healthy else ("UNHEALTHY", "bold red")
    yield Text.assemble((verdict, style), f": {report.closing}.")


def _render_group(group: FindingGroup) -> Iterator[RenderableType]:
    finding = group.first
    yield Text.assemble(
        (f"{finding.code} {finding.level}", LEVEL_STYLES[finding.level]),
        f" {finding.name}",
        f" under {finding.run}" if finding.run else "",
        f": {finding.module or '(root)'}",
        style="bold",
    )
    lines = [Text(finding.message), Text.assemble(("fix: ", "bold"), finding.remedy)]
    if finding.effect:
        lines.append(Text.assemble(("predicted: ", "bold"), finding.effect))
    for c in finding.consequences:
        lines.append(Text.assemble(("hence: ", "bold"), f"{c.title}: {c.where}: {c.message}"))
    if group.others:
        names = shorten(group.other_modules)
        lines.append(Text.assemble(("also: ", "bold"), f"{len(group.others)} more ({names})"))
    lines.append(Text.assemble(("next: ", "bold"), f"varprobe explain {finding.code}"))
    yield from (Padding(line, (0, 0, 0, 4), expand=False) for line in lines)
    yield Text()
