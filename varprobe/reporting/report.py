"""What is to be said about a result, before it takes any format."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from varprobe.diagnosis.finding import Finding
from varprobe.reporting.numbers import MISSING


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table: its title, whether it holds numbers, and must be there without any."""

    title: str
    numeric: bool = True
    required: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Rows of cells that are text already.

    Parameters
    ----------
    title : str
        What the rows are, "" where the section says it.
    columns : tuple of Column
        One for each cell of a row.
    rows : tuple of tuple of str
        The cells.
    """

    title: str = ""
    columns: tuple[Column, ...]
    rows: tuple[tuple[str, ...], ...]

    def without_empty_columns(self) -> Table:
        """Return the table without the columns of numbers that hold none, unless required."""
        kept = [
            index
            for index, column in enumerate(self.columns)
            if column.required
            or not column.numeric
            or any(row[index] != MISSING for row in self.rows)
        ]
        return Table(
            title=self.title,
            columns=tuple(self.columns[index] for index in kept),
            rows=tuple(tuple(row[index] for index in kept) for row in self.rows),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """Tables that belong together and may stand side by side.

    Parameters
    ----------
    title : str
        Which quantity they show, of which moment, in which unit.
    tables : tuple of Table
        At least one.
    notes : tuple of str
        How to read them, and what is missing from them.
    """

    title: str
    tables: tuple[Table, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class FindingGroup:
    """The findings of one check in one run: the first speaks for those behind it.

    Parameters
    ----------
    first : Finding
        Shown whole.
    others : tuple of Finding
        Shown by the names of their layers.
    """

    first: Finding
    others: tuple[Finding, ...] = ()

    @property
    def other_modules(self) -> list[str]:
        """Names of the further layers, each once."""
        return list(dict.fromkeys(finding.module or "(root)" for finding in self.others))


def group_findings(findings: Iterable[Finding]) -> tuple[FindingGroup, ...]:
    """Put the findings of one code, level and run together, in the order of their first.

    One with a cure or with consequences of its own stands alone: no other can speak for it.
    """
    groups: dict[object, list[Finding]] = {}
    for finding in findings:
        alone = finding.fixes or finding.consequences
        key = id(finding) if alone else (finding.code, finding.level, finding.run)
        groups.setdefault(key, []).append(finding)
    return tuple(FindingGroup(first, tuple(others)) for first, *others in groups.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What is to be said about a result.

    Parameters
    ----------
    title : str
        What the result is, and of which model.
    facts : tuple of (str, str)
        How it came about: initialization, seed, loss, …
    healthy : bool or None
        The verdict; None where nothing was judged.
    findings : tuple of FindingGroup
        What the checks found.
    sections : tuple of Section
        The numbers, of the layers that have a fan-in.
    details : tuple of Section
        The numbers of everything that was observed, for a format that can fold them away.
    unobserved : tuple of str
        What was not seen, each with its reason.
    closing : str
        What was looked at, "48 layers, 3 draws checked".
    draw : callable or None
        Returns the figure as SVG; None where there is no curve. Matplotlib takes a second, so only
        a format that shows the figure asks for it.
    """

    title: str
    facts: tuple[tuple[str, str], ...] = ()
    healthy: bool | None = None
    findings: tuple[FindingGroup, ...] = ()
    sections: tuple[Section, ...] = ()
    details: tuple[Section, ...] = ()
    unobserved: tuple[str, ...] = ()
    closing: str = ""
    draw: Callable[[], bytes] | None = field(default=None, compare=False)
