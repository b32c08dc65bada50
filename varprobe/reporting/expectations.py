"""What theory expects, as sections: a table for each signal, and what it has no rule for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from varprobe.reporting.numbers import count, format_number, shorten
from varprobe.reporting.report import Column, Section, Table
from varprobe.reporting.tables import MOMENT_NOTE, QUANTITIES, REASONS_SHOWN

if TYPE_CHECKING:
    from varprobe.theory import Expectation, Prediction

STATUSES = ("exact", "approximate", "unknown", "tainted")
"""From the best to the worst, as a summary counts them."""

COLUMNS = (
    Column("depth"),
    Column("layer", numeric=False),
    Column("kind", numeric=False),
    Column("predicted"),
    Column("variance"),
    Column("error bar"),
    Column("status", numeric=False),
)

ERROR_BAR_NOTE = "error bar: standard deviation over draws of ln(second moment) at this width."


def build_section(signal: str, expectations: Sequence[Expectation]) -> Section:
    """Return the section of one signal; reasons stand below the table, each with its rows."""
    rows = tuple(
        (
            str(e.depth),
            str(e.site),
            e.kind,
            format_number(e.second_moment),
            format_number(e.variance),
            format_number(e.log_std),
            e.status,
        )
        for e in expectations
    )
    notes = [MOMENT_NOTE] if signal == "activation" else []
    return Section(
        title=QUANTITIES[signal].heading,
        tables=(Table(columns=COLUMNS, rows=rows),),
        notes=(*notes, ERROR_BAR_NOTE, *_list_reasons(expectations)),
    )


def build_section_of_operations(prediction: Prediction) -> Section:
    """Return the operations without a rule, and what became of the rows that they reach."""
    columns = (Column("operation", numeric=False), Column("rows behind it"))
    rows = tuple((name, str(number)) for name, number in prediction.unsupported.items())
    return Section(
        title="Operations without a rule",
        tables=(Table(columns=columns, rows=rows),),
        notes=(_explain_draws(prediction.meta),),
    )


def summarize_statuses(expectations: Sequence[Expectation]) -> str:
    """Return how many rows there are of each status: "9 tensors: 5 exact, 4 approximate"."""
    found = Counter(e.status for e in expectations)
    counted = ", ".join(f"{found[status]} {status}" for status in STATUSES if found[status])
    return f"{count(len(expectations), 'tensor')}: {counted or 'nothing to predict'}"


def _explain_draws(meta: Mapping[str, object]) -> str:
    if meta.get("draws"):
        return f"The rows behind them are estimated from {meta['draws']} draws of the weights."
    return f"The rows behind them have no numbers: {meta.get('no_draws') or 'nothing was drawn'}."


def _list_reasons(expectations: Sequence[Expectation]) -> list[str]:
    """Say why rows are no better than they are, the reason that most share first."""
    where: dict[tuple[str, str], list[str]] = {}
    for e in expectations:
        if e.reason:
            where.setdefault((e.status, e.reason), []).append(str(e.site))
    most = sorted(where.items(), key=lambda item: -len(item[1]))
    notes = [
        f"{status}: {shorten(list(dict.fromkeys(sites)))}: {reason}."
        for (status, reason), sites in most[:REASONS_SHOWN]
    ]
    more = len(most) - REASONS_SHOWN
    return notes if more <= 0 else [*notes, f"Others, for {count(more, 'more reason')}."]
