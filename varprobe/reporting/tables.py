"""Tables of sites: which numbers are shown, under which heading, in which unit."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from varprobe.analysis import Analysis, SiteAnalysis
from varprobe.reporting.numbers import (
    MISSING,
    count,
    format_number,
    format_score,
    format_share,
    shorten,
)
from varprobe.reporting.report import Column, Section, Table

MOMENT_NOTE = (
    "Second moment = mean of squares, not the variance: after a ReLU, Var[x]/E[x²] = 0.68. "
    "a is the unit of the activations, L that of the loss."
)

REASONS_SHOWN = 3
"""Reasons for missing predictions that are spelled out."""


@dataclass(frozen=True, slots=True)
class Quantity:
    """What is called a second moment of a signal: its name, symbol and unit."""

    name: str
    symbol: str
    unit: str

    @property
    def heading(self) -> str:
        """Name, moment and unit, for the title above a table."""
        return f"{self.name}: second moment {self.symbol} in {self.unit}"


QUANTITIES: Mapping[str, Quantity] = {
    "activation": Quantity("Activations x", "E[x²]", "a²"),
    "gradient": Quantity("Gradients ∂L/∂x", "E[(∂L/∂x)²]", "L²/a²"),
    "weight": Quantity("Parameters w", "E[w²]", "1"),
    "weight_gradient": Quantity("Parameter gradients ∂L/∂w", "E[(∂L/∂w)²]", "L²"),
}

_Cell = Callable[[SiteAnalysis], str]


@dataclass(frozen=True, slots=True)
class _Field:
    """A column, and how its cells are read off a site."""

    column: Column
    cell: _Cell


def _expected(attribute: str) -> _Cell:
    def read(site: SiteAnalysis) -> str:
        known = site.expectation
        return MISSING if known is None else format_number(getattr(known, attribute))

    return read


def _gain(attribute: str) -> _Cell:
    def read(site: SiteAnalysis) -> str:
        return MISSING if site.gain is None else format_number(getattr(site.gain, attribute))

    return read


_DEPTH = _Field(Column("depth"), lambda site: str(site.first.depth))
_LAYER = _Field(Column("layer", numeric=False), lambda site: str(site.site))
_KIND = _Field(Column("kind", numeric=False), lambda site: site.first.kind)
_COMPARED = (
    _Field(Column("measured", required=True), lambda site: format_number(site.second_moment)),
    _Field(Column("predicted"), _expected("second_moment")),
    _Field(Column("ratio"), lambda site: format_number(site.ratio)),
)
_SCORE = _Field(Column("z"), lambda site: format_score(site.z))
_GAINS = (
    _Field(Column("gain"), _gain("measured")),
    _Field(Column("local"), _gain("predicted")),
)
_REST = (
    _Field(Column("error bar"), _expected("log_std")),
    _Field(
        Column("status", numeric=False),
        lambda site: site.expectation.status if site.expectation else MISSING,
    ),
    _Field(Column("variance"), lambda site: format_number(site.variance)),
    _Field(Column("zeros"), lambda site: format_share(site.zero_fraction)),
    _Field(Column("non-finite"), lambda site: str(site.nonfinite)),
)

SCORE_NOTE = (
    "predicted = mean over draws. A typical draw lies below it, more so with depth; z allows for "
    "that: it counts standard errors of ln(ratio) from where a draw of this width should be."
)

GAIN_NOTE = (
    "gain = E[x²] of the layer's output over that of its input; local = the gain that this input, "
    "the layer's fan-in and its weights lead to."
)


def build_table(
    sites: Sequence[SiteAnalysis],
    *,
    title: str = "",
    compact: bool = False,
    codes: Mapping[str, str] | None = None,
) -> Table:
    """Return the table of these sites, a row each.

    Parameters
    ----------
    sites : sequence of SiteAnalysis
        Of one signal.
    title : str
        Heading of the table.
    compact : bool
        Leave out what tells layers apart beside their names, so that tables fit side by side.
    codes : mapping of str to str, optional
        Codes of findings by module, for a last column.
    """
    fields = [_LAYER, *_COMPARED, _SCORE]
    if not compact:
        fields = [_DEPTH, _LAYER, _KIND, *_COMPARED, _SCORE, *_GAINS]
    return _fill(title, fields, sites, codes)


def build_full_table(sites: Sequence[SiteAnalysis], *, title: str = "") -> Table:
    """Return the table of these sites with all that is known of each."""
    fields = [_DEPTH, _LAYER, _KIND, *_COMPARED, _SCORE, *_GAINS, *_REST]
    return _fill(title, fields, sites, None)


def _fill(
    title: str,
    fields: Sequence[_Field],
    sites: Sequence[SiteAnalysis],
    codes: Mapping[str, str] | None,
) -> Table:
    shown = list(fields)
    if codes:
        found = codes
        shown.append(_Field(Column("found", numeric=False), lambda s: found.get(s.site.module, "")))
    return Table(
        title=title,
        columns=tuple(field.column for field in shown),
        rows=tuple(tuple(field.cell(site) for field in shown) for site in sites),
    ).without_empty_columns()


def choose_sites(analysis: Analysis, signal: str, run: str) -> tuple[SiteAnalysis, ...]:
    """Return the outputs of layers that have a fan-in, or of all if there is none."""
    weighted = analysis.select_weighted(signal=signal, run=run)
    return weighted or analysis.select(signal=signal, run=run)


def head_section(signal: str, sites: Sequence[SiteAnalysis], tables: Sequence[Table]) -> Section:
    """Return the section of these tables, with heading and notes for what the sites hold."""
    quantity = QUANTITIES[signal]
    draws = max(site.draws for site in sites)
    averaged = f", geometric mean over {count(draws, 'draw')}" if draws > 1 else ""
    shown = {column.title for table in tables for column in table.columns}
    notes = [MOMENT_NOTE] if signal == "activation" else []
    notes += [SCORE_NOTE] if signal == "activation" and "z" in shown else []
    notes += [GAIN_NOTE] if "gain" in shown else []
    notes += _explain_missing(sites)
    return Section(title=quantity.heading + averaged, tables=tuple(tables), notes=tuple(notes))


def _explain_missing(sites: Sequence[SiteAnalysis]) -> list[str]:
    """Say which rows have no prediction and why; nothing if none was asked for."""
    blank: dict[str, list[str]] = {}
    for site in sites:
        known = site.expectation
        if known is not None and not known.second_moment >= 0.0:
            blank.setdefault(known.reason or known.status, []).append(str(site.site))
    notes = [
        f"No prediction for {shorten(list(dict.fromkeys(where)))}: {reason}."
        for reason, where in list(blank.items())[:REASONS_SHOWN]
    ]
    more = len(blank) - REASONS_SHOWN
    return notes if more <= 0 else [*notes, f"No prediction for others, for {more} more reasons."]
