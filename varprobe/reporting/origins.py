"""Tables of parameters: what drew each, and whether that suits what comes behind it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from varprobe.reporting.numbers import MISSING, format_number, format_score
from varprobe.reporting.report import Column, Section, Table

if TYPE_CHECKING:
    from varprobe.identification import Origin

LAWS_SHOWN = 2
"""Compatible laws of a parameter that a table names, the likeliest first; JSON has all."""

FITS = {True: "yes", False: "no", None: MISSING}

LAWS_NOTE = (
    "laws: the variance laws that the numbers are compatible with. Laws that give one number for a "
    "shape, as fan_in and fan_out of a square matrix do, cannot be told apart."
)

FITS_NOTE = (
    "expected: the fan-in law for the nonlinearity behind the layer. ratio: second moment of the "
    "weights over the variance by that law; it fits within a factor of 1.25."
)

NO_FOLLOWER_NOTE = (
    "No nonlinearity was found right behind any layer. With inputs a forward pass shows the order "
    "of calls; without, only that of the modules is known."
)


def build_sections(origins: Sequence[Origin]) -> tuple[Section, ...]:
    """Return the section of what was recognised, and of what was seen besides."""
    if not origins:
        return ()
    follows = any(origin.expected for origin in origins)
    notes = (LAWS_NOTE, FITS_NOTE if follows else NO_FOLLOWER_NOTE)
    sections = [Section(title="Parameters", tables=(_tabulate(origins),), notes=notes)]
    seen = [origin for origin in origins if origin.note]
    if seen:
        sections.append(Section(title="Seen besides", tables=(_tabulate_notes(seen),)))
    return tuple(sections)


def build_details(origins: Sequence[Origin]) -> tuple[Section, ...]:
    """Return the section with all that is known of each parameter."""
    if not origins:
        return ()
    columns = (
        Column("parameter", numeric=False),
        Column("kind", numeric=False),
        Column("elements"),
        Column("mean"),
        Column("std"),
        Column("p-value"),
        Column("laws", numeric=False),
        Column("z"),
    )
    rows = tuple(
        (
            o.label,
            o.kind,
            str(o.numel),
            format_number(o.mean),
            format_number(o.std),
            format_number(o.p_value),
            _join(f"{law.name} ({format_number(law.variance**0.5)})" for law in o.laws),
            format_score(o.z),
        )
        for o in origins
    )
    table = Table(columns=columns, rows=rows).without_empty_columns()
    return (Section(title=f"Parameters, all of {len(origins)}", tables=(table,)),)


def _tabulate(origins: Sequence[Origin]) -> Table:
    columns = (
        Column("parameter", numeric=False),
        Column("shape", numeric=False),
        Column("std", required=True),
        Column("distribution", numeric=False),
        Column("laws", numeric=False),
        Column("expected", numeric=False),
        Column("ratio"),
        Column("fits", numeric=False),
    )
    rows = tuple(
        (
            o.label,
            o.size,
            format_number(o.std),
            _spell_distribution(o),
            _shorten([law.name for law in o.laws]),
            f"{o.follower}: {o.expected.name}" if o.expected else MISSING,
            format_number(o.ratio),
            FITS[o.fits],
        )
        for o in origins
    )
    if any(o.expected for o in origins):
        return Table(columns=columns, rows=rows)
    known = [column.title for column in columns].index("expected")
    return Table(columns=columns[:known], rows=tuple(row[:known] for row in rows))


def _tabulate_notes(origins: Sequence[Origin]) -> Table:
    columns = (Column("parameter", numeric=False), Column("note", numeric=False))
    return Table(columns=columns, rows=tuple((o.label, o.note) for o in origins))


def _spell_distribution(origin: Origin) -> str:
    is_constant = origin.candidates == ("constant",)
    return f"constant {origin.mean:.3g}" if is_constant else origin.distribution


def _shorten(names: Sequence[str]) -> str:
    more = [f"{len(names) - LAWS_SHOWN} more"] if len(names) > LAWS_SHOWN else []
    return _join([*names[:LAWS_SHOWN], *more])


def _join(names: Iterable[str]) -> str:
    return ", ".join(names) or MISSING
