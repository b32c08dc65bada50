"""From numbers to artists: one curve, the axes around it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from varprobe.plotting.curves import Curve
from varprobe.plotting.style import Pen

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import PolyCollection
    from matplotlib.lines import Line2D
    from numpy.typing import NDArray

MIN_DECADES = 2.0
"""The least that the log axis spans: a curve that keeps its scale is to look flat."""

THEORY_DASHES = (0.0, (4.0, 2.0))
BAND_ALPHA = 0.22

CROWDED = 40
"""Places from which on the line is thin: where it goes up and down it would cover the panel."""

MAX_CHARACTERS = 24
"""Of a tick label. The end of a long module name says more than its beginning."""

MOMENT_LABELS = {
    ("second_moment", "activation"): "second moment E[x²]  in a²",
    ("second_moment", "gradient"): "second moment E[(∂L/∂x)²]  in L²/a²",
    ("variance", "activation"): "variance Var[x]  in a²",
    ("variance", "gradient"): "variance Var[∂L/∂x]  in L²/a²",
}

PANEL_TITLES = {"activation": "activations (forward →)", "gradient": "gradients (← backward)"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """What stands at an edge of the axes for numbers that a log axis cannot show.

    Parameters
    ----------
    label : str
        What it says.
    marker, fillstyle : str
        How it looks.
    height : float
        Where it is, as a share of the height of the axes.
    """

    label: str
    marker: str
    fillstyle: Literal["full", "none"] = "full"
    height: float


ZERO = Mark(label="exactly 0", marker="v", height=0.015)
THEORY_ZERO = Mark(label="theory: exactly 0", marker="v", fillstyle="none", height=0.015)
NONFINITE = Mark(label="NaN or inf among the elements", marker="x", height=0.985)


@dataclass(frozen=True, slots=True, kw_only=True)
class CurveArtists:
    """What a curve became; None where it has no such part.

    Parameters
    ----------
    line, band
        The measured curve and its band over draws.
    theory, theory_band
        The predicted curve and its error band.
    marks
        What stands at the edges of the axes.
    """

    line: Line2D
    band: PolyCollection | None
    theory: Line2D | None
    theory_band: PolyCollection | None
    marks: Mapping[Mark, Line2D]


def draw_curve(axes: Axes, curve: Curve, pen: Pen) -> CurveArtists:
    """Draw a curve on ``axes``; numbers that a log axis cannot show are marked at its edges."""
    depth = np.arange(len(curve.measured))
    band = theory_band = theory = None
    if curve.draws > 1:
        band = axes.fill_between(
            depth,
            _keep(curve.low, 0.0),
            _keep(curve.high, 0.0),
            color=pen.colour,
            alpha=BAND_ALPHA,
            lw=0,
        )
    if curve.has_theory and pen.has_theory_band:
        low, high = _keep(curve.expected_low, 0.0), _keep(curve.expected_high, 0.0)
        theory_band = axes.fill_between(
            depth, low, high, color=pen.theory_colour, alpha=0.13, lw=0, zorder=0.9
        )
    is_crowded = len(depth) > CROWDED
    (line,) = axes.plot(
        depth,
        _keep(curve.measured),
        color=pen.colour,
        lw=0.8 if is_crowded else 2.0,
        marker=pen.marker,
        ms=2.4 if is_crowded else 3.6,
        zorder=2.5,
    )
    if curve.has_theory:
        expected = _keep(curve.expected)
        isolated = _find_isolated(expected)
        (theory,) = axes.plot(
            depth,
            expected,
            color=pen.theory_colour,
            ls=THEORY_DASHES,
            lw=0.9 if is_crowded else 1.4,
            # A dash needs two points: a place between two gaps would not be seen.
            marker="_" if isolated else "none",
            markevery=isolated,
            zorder=2.6,
        )
    return CurveArtists(
        line=line,
        band=band,
        theory=theory,
        theory_band=theory_band,
        marks={
            mark: _draw_mark(axes, mark, depth[where], colour)
            for mark, where, colour in _find_marks(curve, pen)
            if where.any()
        },
    )


def finish_panel(
    axes: Axes, *, signal: str, moment: str, places: Sequence[str], meaning: str
) -> None:
    """Give ``axes`` their scales, labels and ticks."""
    axes.set_yscale("log")
    widen(axes)
    margin = max(0.5, 0.01 * len(places))
    axes.set_xlim(-margin, len(places) - 1 + margin)
    axes.set_title(PANEL_TITLES[signal])
    axes.set_ylabel(MOMENT_LABELS[moment, signal])
    axes.set_xlabel(f"outputs of {meaning}, in order of execution")
    name_ticks(axes, places)


def _keep(values: Sequence[float], least: float = math.ulp(0.0)) -> NDArray[np.float64]:
    """Return the finite values from ``least`` on, the others as NaN: a gap."""
    array = np.asarray(values, dtype=np.float64)
    return np.where(np.isfinite(array) & (array >= least), array, np.nan)


def _find_isolated(values: NDArray[np.float64]) -> list[int]:
    known = np.isfinite(np.concatenate(([np.nan], values, [np.nan])))
    return np.flatnonzero(known[1:-1] & ~known[:-2] & ~known[2:]).tolist()


def _find_marks(curve: Curve, pen: Pen) -> list[tuple[Mark, NDArray[np.bool_], str]]:
    """Return for each kind of mark the places that have it, and its colour."""
    measured, expected = np.asarray(curve.measured), np.asarray(curve.expected)
    return [
        (ZERO, measured == 0.0, pen.colour),
        (NONFINITE, np.isinf(measured) | (np.asarray(curve.nonfinite) > 0), pen.colour),
        (THEORY_ZERO, expected == 0.0, pen.theory_colour),
    ]


def _draw_mark(axes: Axes, mark: Mark, depth: NDArray[np.int_], colour: str) -> Line2D:
    (line,) = axes.plot(
        depth,
        np.full(len(depth), mark.height),
        ls="none",
        marker=mark.marker,
        fillstyle=mark.fillstyle,
        ms=5.5,
        color=colour,
        transform=axes.get_xaxis_transform(),
        zorder=3,
    )
    return line


def widen(axes: Axes) -> None:
    """Let a log axis span `MIN_DECADES`."""
    low, high = np.log10(axes.get_ylim())
    missing = MIN_DECADES - (high - low)
    if missing > 0.0:
        axes.set_ylim(10.0 ** (low - missing / 2), 10.0 ** (high + missing / 2))


def _shorten(name: str) -> str:
    """Return the last segments of a module's name that fit into a tick label."""
    if len(name) <= MAX_CHARACTERS:
        return name
    cut, end = name[:-MAX_CHARACTERS], name[-MAX_CHARACTERS:]
    is_whole = cut.endswith(".") or "." not in end
    return f"…{end if is_whole else end.partition('.')[2]}"


def name_ticks(axes: Axes, places: Sequence[str]) -> None:
    """Put the names of places on the x axis, as many as there is room for."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    names = list(map(_shorten, places))
    size = axes.xaxis.get_major_ticks(1)[0].label1.get_fontproperties().get_size_in_points()
    room = axes.get_window_extent().width / axes.figure.dpi * 72
    # DejaVu Sans takes 0.6 of its size for a character; between two labels there are two.
    width = 0.6 * size * (max(map(len, names), default=0) + 2)
    flat = room // width
    is_tilted = flat < min(len(names), 6)
    if is_tilted:
        axes.tick_params(axis="x", labelrotation=40)
        for label in axes.get_xticklabels():
            label.set(ha="right", rotation_mode="anchor")

    def name_tick(x: float, _position: int | None = None) -> str:
        index = round(x)
        return names[index] if 0 <= index < len(names) and abs(x - index) < 1e-6 else ""

    # Tilted labels are as far apart as their height needs.
    count = room // (2.0 * size) if is_tilted else flat
    axes.xaxis.set_major_locator(MaxNLocator(nbins=max(int(count), 1), integer=True, min_n_ticks=1))
    axes.xaxis.set_major_formatter(FuncFormatter(name_tick))
