"""A phase diagram, as sections: the edge of chaos, and networks along one variance of biases."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from varprobe.reporting.numbers import count, format_number, shorten
from varprobe.reporting.report import Column, Section, Table
from varprobe.schema import PHASES

if TYPE_CHECKING:
    from varprobe.theory import PhaseDiagram
    from varprobe.theory.mean_field import MeanField

FEW = 30
"""Networks that are all shown; of more, those of one sigma_b2."""

EDGE_COLUMNS = tuple(map(Column, ("sigma_b2", "sigma_w2", "q*", "xi_q")))
COLUMNS = (
    Column("sigma_w2"),
    Column("phase", numeric=False),
    *map(Column, ("q*", "c*", "chi", "xi_q", "xi_c", "xi_gradient")),
)

WORDS_NOTE = (
    "sigma_w2 = fan_in × variance of a weight, sigma_b2 = variance of a bias; q* = limit of the "
    "pre-activations' second moment from 1, c* = limit of the correlation of two inputs."
)
EDGE_NOTE = "On the edge xi_c and xi_gradient are infinite: signals go through any depth."
SCALES_NOTE = (
    "xi: layers in which the distance to q*, the distance to c* and the second moment of gradients "
    "change by a factor e. Tanh networks could be trained up to a depth of about 6 xi_c "
    "(Schoenholz et al. 2017)."
)


def build_sections(diagram: PhaseDiagram) -> tuple[Section, ...]:
    """Return the edge of chaos, if there is one, and the networks or those of one sigma_b2."""
    few = len(diagram.points) <= FEW
    shown = diagram.sigma_b2 if few else (diagram.sigma_b2[len(diagram.sigma_b2) // 2],)
    networks = Section(
        title="Networks", tables=_list_networks(diagram, shown), notes=(SCALES_NOTE,)
    )
    notes = (*explain_edge(diagram), WORDS_NOTE)
    if not diagram.edge:
        return (replace(networks, notes=(*notes, SCALES_NOTE)),)
    rows = tuple(
        (
            _spell(n.sigma_b2),
            _spell(n.sigma_w2),
            format_number(n.q_star),
            format_number(n.xi_q),
        )
        for n in diagram.edge
    )
    edge = Section(
        title="Edge of chaos: chi = 1",
        tables=(Table(columns=EDGE_COLUMNS, rows=rows),),
        notes=(*notes, EDGE_NOTE),
    )
    return edge, networks


def build_section_of_all(diagram: PhaseDiagram) -> Section:
    """Return every network, a table for each sigma_b2."""
    title = f"Networks, all {len(diagram.points)}"
    return Section(title=title, tables=_list_networks(diagram, diagram.sigma_b2))


def summarize_phases(diagram: PhaseDiagram) -> str:
    """Return how many networks there are of each phase."""
    found = Counter(network.phase for network in diagram.points)
    counted = ", ".join(f"{found[phase]} {phase}" for phase in PHASES if found[phase])
    return f"{count(len(diagram.points), 'network')}: {counted}"


def explain_edge(diagram: PhaseDiagram) -> tuple[str, ...]:
    """Say why there is no edge of chaos where there is none, and what there is in its place."""
    name = repr(diagram.nonlinearity)
    if diagram.is_scale_invariant:
        chi = float(diagram.nonlinearity.derivative_second_moment(1.0))
        return (
            f"{name} scales with its input, so that chi = {chi:.4g} sigma_w2 at every second "
            f"moment: there is no critical line, but a point. At sigma_w2 = {1 / chi:.4g} without "
            "biases every second moment stays as it is (for ReLU that is He's initialization); "
            "with biases it grows by sigma_b2 in each layer. Below, gradients vanish; above, they "
            "and activations explode.",
        )
    found = {network.sigma_b2 for network in diagram.edge}
    missing = [_spell(value) for value in diagram.sigma_b2 if value not in found]
    notes = []
    if missing:
        notes.append(
            f"{name} has no edge of chaos at sigma_b2 = {shorten(missing)}: no second moment is a "
            "stable fixed point with chi = 1."
        )
    ends = [
        f"{_spell(start)} (sigma_b2 = {_spell(value)})"
        for value, start in zip(diagram.sigma_b2, diagram.unbounded_from, strict=True)
        if math.isfinite(start)
    ]
    if ends:
        notes.append(f"q* is infinite, activations explode, beyond sigma_w2 = {shorten(ends)}.")
    return tuple(notes)


def _list_networks(diagram: PhaseDiagram, sigma_b2: Sequence[float]) -> tuple[Table, ...]:
    return tuple(
        Table(
            title=f"sigma_b2 = {_spell(value)}",
            columns=COLUMNS,
            rows=tuple(_write_row(network) for network in diagram.select(value)),
        )
        for value in sigma_b2
    )


def _write_row(network: MeanField) -> tuple[str, ...]:
    numbers = (
        network.q_star,
        network.c_star,
        network.chi,
        network.xi_q,
        network.xi_c,
        network.xi_gradient,
    )
    return (_spell(network.sigma_w2), network.phase, *map(format_number, numbers))


def _spell(variance: float) -> str:
    return f"{variance:.4g}"
