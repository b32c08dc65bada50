"""Root cause first: what follows from another finding is attached to it.

A badly scaled weight makes activations vanish behind it and gradients vanish before it: three
findings, one fault. A finding is the consequence of another if the fault can have that effect, lies
on its path (what is wrong with activations comes from before, with gradients from behind), and is
large enough for it. Weights are what they are drawn as: a fault in them follows from nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from varprobe.analysis import Analysis
from varprobe.diagnosis.finding import LEVELS, Finding

_VANISHING = frozenset({"VP101", "VP105", "VP201"})
_OVERFLOW = frozenset({"VP901", "VP902"})
_EXPLODING = frozenset({"VP102", "VP103", "VP104", "VP105", "VP201", "VP202"}) | _OVERFLOW
"""Weights that are too large saturate what follows, and gradients vanish there."""

_ANY = _VANISHING | _EXPLODING

EFFECTS: Mapping[str, frozenset[str]] = {
    "VP302": _ANY | {"VP301", "VP303"},
    "VP901": _ANY | {"VP203", "VP301", "VP303"},
    "VP301": _ANY,
    "VP103": _VANISHING | {"VP102"},
    "VP303": _ANY,
    "VP102": frozenset({"VP102", "VP103", "VP104", "VP202"}) | _OVERFLOW,
    "VP104": frozenset({"VP105", "VP201"}),
    "VP101": _VANISHING,
    "VP202": frozenset({"VP202"}) | _OVERFLOW,
    "VP201": frozenset({"VP201"}),
}
"""What each fault may lead to, the strongest causes first. Layers of another role that vanish or
explode as well do so for the same reason. Codes that are missing stand alone."""

RANKS = {code: rank for rank, code in enumerate(EFFECTS)}

FACTORS = frozenset({"VP301", "VP303"})
"""Causes that measure a factor: it has a direction and a size, and so has what it leads to."""

GROWTH = frozenset({"VP101", "VP102", "VP201", "VP202"})
"""Findings that measure a factor, which a cause must be large enough for."""

SUFFICIENT = 0.5
"""Share of the log of a factor that the layers' own departures must make up: no two causes can
explain more than half of it each."""


def attribute(findings: Iterable[Finding], analysis: Analysis) -> tuple[Finding, ...]:
    """Return one finding for each cause, what follows from it attached.

    Parameters
    ----------
    findings : iterable of Finding
        What the checks found, in any order.
    analysis : Analysis
        What they looked at.

    Returns
    -------
    tuple of Finding
        Errors first, then the strongest causes. A cause weighs as much as the worst of its
        consequences.
    """
    order = _Order.of(analysis)
    owners: dict[int, Finding] = {}
    attached: dict[int, list[Finding]] = {}
    ranked = sorted(findings, key=lambda finding: _rank(finding, order))
    for index, finding in enumerate(ranked):
        causes = (c for c in ranked[:index] if _explains(c, finding, order))
        owner = owners[id(cause)] if (cause := next(causes, None)) else finding
        owners[id(finding)] = owner
        if owner is finding:
            attached[id(owner)] = []
        else:
            attached[id(owner)].append(finding)
    primary = [_attach(f, attached[id(f)]) for f in ranked if id(f) in attached]
    # A misfit says most: how far off the weights are, and what they should be.
    return tuple(sorted(primary, key=lambda f: (LEVELS.index(f.level), f.code != "VP301")))


@dataclass(frozen=True, slots=True)
class _Order:
    """The position of each module in the order of first execution, by run."""

    positions: Mapping[tuple[str, str], int]

    @classmethod
    def of(cls, analysis: Analysis) -> _Order:
        found: dict[tuple[str, str], int] = {}
        for position, site in enumerate(analysis.select(signal="activation")):
            found.setdefault((site.first.run, site.site.module), position)
        return cls(found)

    def find(self, finding: Finding) -> int:
        return self.positions.get((finding.run, finding.module), 0)

    def span(self, finding: Finding) -> tuple[float, float]:
        """Return the first and the last position of the layers at fault; all, if not known."""
        layers = {parameter.rpartition(".")[0] for parameter in finding.parameters}
        found = [
            self.positions[key]
            for layer in layers or {finding.module}
            if (key := (finding.run, layer)) in self.positions
        ]
        return (min(found), max(found)) if found else (-math.inf, math.inf)


def _rank(finding: Finding, order: _Order) -> tuple[int, float, int]:
    # A value that is not finite, and no weight, was made on the way: first comes what made it.
    made = finding.code in _OVERFLOW and not finding.parameters
    rank = len(RANKS) if made else RANKS.get(finding.code, len(RANKS))
    position = order.find(finding)
    along = -position if _goes_back(finding) else position
    return rank, -_measure_departure(finding), along


def _goes_back(finding: Finding) -> bool:
    return finding.code.startswith("VP2")


def _explains(cause: Finding, effect: Finding, order: _Order) -> bool:
    if cause.run != effect.run or effect.code not in _list_effects(cause):
        return False
    if cause.level == "info":
        return False  # a design is no fault
    if effect.parameters:
        # Weights are as they were drawn. Whether the same ones are of a wrong scale, too, if they
        # are constant or not finite, is no second fault.
        return set(effect.parameters) <= set(cause.parameters)
    if effect.level == "info":
        return False  # nor does it follow from one
    if cause.code == "VP901" and cause.parameters:
        return True  # what is not finite spoils both directions
    first, last = order.span(cause)
    if cause.code == "VP103":
        first -= 1  # what shifts units below zero is the layer before them, and looks large
    where = order.find(effect)
    on_path = where <= last if _goes_back(effect) else where >= first
    if cause.code not in FACTORS or effect.code not in GROWTH:
        return on_path
    growth = abs(math.log(effect.measured)) if effect.measured > 0.0 else math.inf
    return on_path and _measure_departure(cause) >= SUFFICIENT * growth


def _list_effects(cause: Finding) -> frozenset[str]:
    if cause.code not in FACTORS:
        return EFFECTS.get(cause.code, frozenset())
    return _VANISHING if cause.measured < cause.expected else _EXPLODING


def _measure_departure(finding: Finding) -> float:
    """Return |ln(measured / expected)| over all layers of a cause; 0 for other findings."""
    if finding.code not in FACTORS or not finding.measured > 0.0:
        return 0.0
    return max(len(finding.parameters), 1) * abs(math.log(finding.measured / finding.expected))


def _attach(cause: Finding, consequences: list[Finding]) -> Finding:
    consequences.sort(key=lambda finding: finding.code)
    level = min((cause.level, *(c.level for c in consequences)), key=LEVELS.index)
    return replace(cause, level=level, consequences=tuple(consequences))
