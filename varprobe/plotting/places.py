"""Where on the depth axis: which tensors of a recording are drawn, and in which order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from varprobe.errors import InvalidArgumentError, NothingRecordedError, UnknownNameError
from varprobe.recording import Recording, Site

if TYPE_CHECKING:
    from varprobe.theory.prediction import Prediction

SIGNALS = ("activation", "gradient")
"""The signals that flow along the depth of a model."""

CHOICES = ("leaves", "weighted")
"""What can be drawn without naming modules one by one."""

WEIGHTED_KINDS = frozenset(
    {"Linear", *(f"Conv{kind}{n}d" for kind in ("", "Transpose") for n in (1, 2, 3))}
)
"""Classes with a fan-in. A prediction knows them by name only, a recording knows the fans."""

Modules = str | Sequence[str]


@dataclass(frozen=True, slots=True)
class Places:
    """The tensors along the depth axis.

    Parameters
    ----------
    sites : tuple of Site
        In order of execution. They stand for a place, whatever the signal: theirs is "activation".
    meaning : str
        What they are, for the axis label.
    """

    sites: tuple[Site, ...]
    meaning: str


def find_places(sources: Sequence[Recording | Prediction], modules: Modules) -> Places:
    """Return the places of all ``sources`` together.

    Raises
    ------
    NothingRecordedError
        If there is neither an activation nor a gradient.
    UnknownNameError
        If ``modules`` names something that was not recorded.
    """
    rows = [row for source in sources for row in source if row.site.signal in SIGNALS]
    if not rows:
        raise NothingRecordedError(
            "VP001: there are neither activations nor gradients, so there is nothing to draw over "
            'depth. Record them with vp.profile, or with vp.Probe(signals=("activation", '
            '"gradient", "weight")).'
        )
    names, meaning = _choose_modules({row.site.module for row in rows}, sources, modules)
    if modules == "weighted":
        rows = [row for row in rows if not row.site.is_operation]
    elif modules == "leaves" and any(row.site.is_operation for row in rows):
        meaning = f"{meaning} and operations"
    depths: dict[Site, int] = {}
    for row in rows:
        if row.site.module in names or (modules == "leaves" and row.site.is_operation):
            place = replace(row.site, signal="activation")
            depths[place] = min(row.depth, depths.get(place, row.depth))
    return Places(tuple(sorted(depths, key=depths.__getitem__)), meaning)


def find_signals(
    sources: Sequence[Recording | Prediction], signals: Sequence[str]
) -> tuple[str, ...]:
    """Return those of the asked ``signals`` that were recorded.

    Raises
    ------
    UnknownNameError
        If one of them is not drawn over depth.
    NothingRecordedError
        If none of them was recorded.
    """
    asked = (signals,) if isinstance(signals, str) else tuple(signals)
    for signal in asked:
        if signal not in SIGNALS:
            raise UnknownNameError.among("signal over depth", signal, SIGNALS)
    recorded = {row.site.signal for source in sources for row in source}
    found = tuple(signal for signal in asked if signal in recorded)
    if not found:
        seen = ", ".join(sorted(recorded)) or "nothing"
        raise NothingRecordedError(
            f"VP001: no {' and no '.join(asked) or 'signal'} was recorded, only {seen}. Gradients "
            "need a backward pass: vp.profile without loss=False, or loss.backward() inside the "
            "probe."
        )
    return found


def find_run(recording: Recording, run: str | None) -> str:
    """Return the label of the run to draw, which must be named if there are several.

    Raises
    ------
    UnknownNameError, InvalidArgumentError
        If there is no such run; if ``run`` is None and there are several.
    """
    runs = recording.runs
    if run is not None and run not in runs:
        raise UnknownNameError.among("run", run, runs)
    if run is None and len(runs) > 1:
        raise InvalidArgumentError(
            f"The recording holds {len(runs)} runs ({', '.join(runs)}), and one is drawn here. "
            f"Choose it, for example run={runs[0]!r}, or overlay all of them with vp.plot_compare."
        )
    return runs[0] if run is None else run


def find_step(recording: Recording, step: int | None) -> int:
    """Return the optimizer step to draw, by default the first that was recorded.

    Raises
    ------
    InvalidArgumentError
        If nothing was recorded at ``step``.
    """
    steps = sorted({record.step for record in recording})
    if step is not None and step not in steps:
        known = ", ".join(map(str, steps))
        raise InvalidArgumentError(f"Nothing was recorded at step {step}. Steps: {known}.")
    return steps[0] if step is None else step


def _choose_modules(
    names: set[str], sources: Sequence[Recording | Prediction], modules: Modules
) -> tuple[set[str], str]:
    if not isinstance(modules, str):
        for name in modules:
            if name not in names:
                raise UnknownNameError.among("recorded module", name, names)
        return set(modules), "chosen modules"
    if modules not in CHOICES:
        what = "choice of modules (or give a list of their names)"
        raise UnknownNameError.among(what, modules, CHOICES)
    weighted = names & set().union(*map(_find_weighted, sources))
    if modules == "weighted" and weighted:
        return weighted, "weighted layers"
    # A container returns the tensor of its last child: it would be the same place twice.
    return names.difference(*map(_list_parents, names)), "leaf modules"


def _find_weighted(source: Recording | Prediction) -> set[str]:
    if isinstance(source, Recording):
        return {r.site.module for r in source if r.fan_in is not None or r.linear_input is not None}
    return {row.site.module for row in source if row.kind in WEIGHTED_KINDS}


def _list_parents(name: str) -> list[str]:
    """Return the names of the containers of a module, "" for the root."""
    segments = name.split(".") if name else []
    return [".".join(segments[:count]) for count in range(len(segments))]
