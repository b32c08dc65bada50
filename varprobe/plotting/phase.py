"""The phase diagram of a nonlinearity, and a cut through it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from varprobe.errors import InvalidArgumentError
from varprobe.plotting.display import HEIGHT, PANEL_WIDTH, Display, Entry
from varprobe.plotting.drawing import THEORY_DASHES
from varprobe.plotting.style import COLOURS, choose_ink
from varprobe.theory.integrals import Nonlinearity
from varprobe.theory.mean_field import MeanField, solve_mean_field
from varprobe.theory.phases import PhaseDiagram, map_phases
from varprobe.theory.quadrature import Array

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D
    from numpy.typing import NDArray

LineStyle = str | tuple[float, tuple[float, ...]]

PANELS = ("phases", "q*", "c*", "depth scales")

SCALES = (3.0, 10.0, 30.0)
"""Layers in which gradients change by a factor e, where one shade ends and the next begins."""

SHADES = ("#2C6FA6", "#6FA3CC", "#B4CFE4", "#E9F0F6", "#FAEDE3", "#F3C9A5", "#E0975A", "#BF5B17")
"""From gradients that vanish, blue, to those that explode, orange; every eye tells them apart."""

UNBOUNDED, LINE = "#BDBDBD", "#5A5A5A"

FEWEST_LAYERS, MOST_LAYERS = 0.3, 1e3
"""The depth scales that are shown: one of a thousand layers is as good as infinite."""

STEPS = 32
"""Of the cut: its lines are to look smooth."""

NEAR_END = (1e-4, 1e-3, 3e-3, 0.01, 0.03)
"""Relative distances from where a phase ends and depth scales diverge, that the cut adds."""

LABELS_AT = 0.7
"""At which share of the largest sigma_b2 the shades are labelled: the edge bends below."""

WEIGHTS_LABEL = r"$\sigma_w^2$: variance of a weight × fan_in"
BIASES_LABEL = r"$\sigma_b^2$: variance of a bias  in a²"
SCALE_STYLES: dict[str, tuple[str, str, LineStyle]] = {
    "xi_q": (r"$\xi_q$: towards q*", COLOURS[2], "-"),
    "xi_c": (r"$\xi_c$: towards c*", COLOURS[3], "-"),
    "xi_gradient": (r"$\xi_\nabla$: of gradients, E[g²]", COLOURS[0], THEORY_DASHES),
}


@dataclass(kw_only=True)
class PhaseDisplay(Display):
    """A phase diagram over (sigma_w2, sigma_b2), and a cut through it at one sigma_b2.

    Parameters
    ----------
    diagram : PhaseDiagram
        The numbers of the diagram.
    cut : tuple of MeanField
        The networks along the cut, all of one sigma_b2, in order of sigma_w2.

    Attributes
    ----------
    figure_, axes_ : matplotlib Figure and tuple of Axes
        After `plot`: the diagram, and over sigma_w2 q*, c* and the depth scales.
    artists_ : dict
        After `plot`: the lines by what they show: "edge", if the edge of chaos is in sight,
        "q_star", "c_star", "xi_q", "xi_c", "xi_gradient".

    Examples
    --------
    >>> import varprobe as vp
    >>> diagram = vp.map_phases("erf", sigma_w2=[0.5, 1.0, 2.0], sigma_b2=[0.0, 0.1])
    >>> vp.PhaseDisplay.from_diagram(diagram).plot().axes_[1].get_ylabel()
    'q*  in a²'
    """

    diagram: PhaseDiagram
    cut: tuple[MeanField, ...]
    artists_: dict[str, Line2D] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.diagram.is_drawable:
            raise InvalidArgumentError(
                "A phase diagram is drawn over two or more values of both sigma_w2 and sigma_b2, "
                f"got {len(self.diagram.sigma_w2)} and {len(self.diagram.sigma_b2)}."
            )

    @classmethod
    def from_diagram(cls, diagram: PhaseDiagram, *, sigma_b2: float | None = None) -> Self:
        """Compute the cut at ``sigma_b2``; see `varprobe.plot_phase`."""
        middle = diagram.sigma_b2[len(diagram.sigma_b2) // 2]
        return cls(diagram=diagram, cut=_cut(diagram, middle if sigma_b2 is None else sigma_b2))

    def _name_panels(self) -> tuple[str, ...]:
        return PANELS

    def _make_axes(self) -> tuple[Axes, ...]:
        from matplotlib.figure import Figure

        figure = Figure(figsize=(2 * PANEL_WIDTH, 1.2 * HEIGHT))
        figure.set_layout_engine("constrained", wspace=0.04)
        grid = figure.add_gridspec(3, 2, height_ratios=(1.0, 1.0, 1.7))
        return (
            figure.add_subplot(grid[:, 0]),
            *(figure.add_subplot(grid[row, 1]) for row in range(3)),
        )

    def _draw(self) -> None:
        self.artists_ = {}
        entries = [
            *_draw_phases(self.axes_[0], self.diagram),
            *self._draw_edge(),
            *self._draw_cut(),
        ]
        self._add_legend(entries, f"{self.diagram.nonlinearity!r}: phases of wide random networks")

    def _draw_edge(self) -> list[Entry]:
        """Draw the edge of chaos: a line, or a point where one sigma_b2 alone has it."""
        first, last = self.diagram.sigma_w2[0], self.diagram.sigma_w2[-1]
        edge = [network for network in self.diagram.edge if first <= network.sigma_w2 <= last]
        if not edge:
            return []
        (line,) = self.axes_[0].plot(
            [network.sigma_w2 for network in edge],
            [network.sigma_b2 for network in edge],
            color="black",
            lw=2.2,
            marker="o" if len(edge) == 1 else "none",
            ls="none" if len(edge) == 1 else "-",
            ms=8,
            # Without biases it lies on the frame.
            clip_on=False,
            zorder=3,
        )
        self.artists_["edge"] = line
        return [(line, "edge of chaos, χ = 1")]

    def _draw_cut(self) -> list[Entry]:
        phases, length, correlation, scales = self.axes_
        sigma_b2 = self.cut[0].sigma_b2
        phases.axhline(sigma_b2, color=choose_ink(phases), lw=1.1, ls=(0.0, (1.0, 2.0)))
        self._draw_line(length, "q_star", color=COLOURS[2])
        self._draw_line(correlation, "c_star", color=COLOURS[3])
        for name, (_, colour, dashes) in SCALE_STYLES.items():
            self._draw_line(scales, name, color=colour, ls=dashes)
        length.set_title(rf"along the dotted line, $\sigma_b^2$ = {sigma_b2:g}")
        length.set_ylabel("q*  in a²")
        _scale_lengths(length, [network.q_star for network in self.cut])
        correlation.set_ylabel("c*")
        correlation.set_ylim(-0.05, 1.08)
        scales.set_ylabel("layers per factor e")
        scales.set_yscale("log")
        scales.set_ylim(FEWEST_LAYERS, MOST_LAYERS)
        scales.set_xlabel(WEIGHTS_LABEL)
        for panel in (length, correlation, scales):
            self._mark_cut(panel)
        return [(self.artists_[name], label) for name, (label, *_) in SCALE_STYLES.items()]

    def _draw_line(self, axes: Axes, name: str, *, color: str, ls: LineStyle = "-") -> None:
        (self.artists_[name],) = axes.plot(
            [network.sigma_w2 for network in self.cut],
            [getattr(network, name) for network in self.cut],
            color=color,
            ls=ls,
            lw=1.8,
            zorder=2.5,
        )

    def _mark_cut(self, axes: Axes) -> None:
        """Show where on the cut the edge of chaos is, and where activations explode."""
        last = self.diagram.sigma_w2[-1]
        axes.set_xlim(self.diagram.sigma_w2[0], last)
        for network in self.diagram.edge:
            if network.sigma_b2 == self.cut[0].sigma_b2:
                axes.axvline(network.sigma_w2, color=choose_ink(axes), lw=1.2, zorder=1.5)
        row = self.diagram.sigma_b2.index(self.cut[0].sigma_b2)
        start = self.diagram.unbounded_from[row]
        if math.isfinite(start):
            axes.axvspan(start, last, color=UNBOUNDED, lw=0, zorder=1.2)


def plot_phase(
    diagram: PhaseDiagram | str | Nonlinearity | Callable[[Any], Any],
    *,
    sigma_b2: float | None = None,
    axes: Sequence[Axes] | None = None,
) -> PhaseDisplay:
    """Draw a phase diagram: where signals vanish, explode, and reach the last layer.

    The left panel shades each network by the layers in which gradients change by a factor e, blue
    where they vanish (ordered phase) and orange where they explode (chaotic phase); between them
    lies the edge of chaos. The right panels go along one sigma_b2: the limits of second moment and
    correlation, and the depth scales on which they are reached.

    Parameters
    ----------
    diagram : PhaseDiagram, str, module, callable or Nonlinearity
        From `varprobe.map_phases`; or the nonlinearity that it takes, for its default diagram.
    sigma_b2 : float, optional
        Where the right panels cut; by default at the middle one of the diagram's.
    axes : sequence of four matplotlib Axes, optional
        A new figure is made otherwise.

    Returns
    -------
    PhaseDisplay
        With ``figure_``, ``axes_``, ``artists_`` and the numbers in ``diagram`` and ``cut``;
        ``save(path)`` writes PNG, SVG or PDF.

    Raises
    ------
    InvalidArgumentError
        If the diagram has fewer than two values along an axis, or not this ``sigma_b2``.
    UnknownNameError
        If no nonlinearity has that name.

    Examples
    --------
    >>> import varprobe as vp
    >>> display = vp.plot_phase("relu")
    >>> display.artists_["edge"].get_xydata().tolist()
    [[2.0, 0.0]]
    """
    if not isinstance(diagram, PhaseDiagram):
        diagram = map_phases(diagram)
    return PhaseDisplay.from_diagram(diagram, sigma_b2=sigma_b2).plot(axes)


def _cut(diagram: PhaseDiagram, sigma_b2: float) -> tuple[MeanField, ...]:
    """Solve the networks of one sigma_b2 closely, more so where depth scales diverge."""
    diagram.select(sigma_b2)
    first, last = diagram.sigma_w2[0], diagram.sigma_w2[-1]
    weights = set(np.linspace(first, last, STEPS + 1).tolist())
    ends = [edge.sigma_w2 for edge in diagram.edge if edge.sigma_b2 == sigma_b2]
    for end in (*ends, diagram.unbounded_from[diagram.sigma_b2.index(sigma_b2)]):
        weights |= {end * (1 + sign * far) for far in NEAR_END for sign in (-1, 1)}
    return tuple(
        solve_mean_field(diagram.nonlinearity, sigma_w2=weight, sigma_b2=sigma_b2)
        for weight in sorted(weights)
        if first <= weight <= last
    )


def _draw_phases(axes: Axes, diagram: PhaseDiagram) -> list[Entry]:
    """Shade the networks by ln(chi), which goes through the edge of chaos without a jump."""
    from matplotlib.patches import Patch

    shape = len(diagram.sigma_b2), len(diagram.sigma_w2)
    growth = np.log([network.chi for network in diagram.points]).reshape(shape)
    unbounded = np.isinf([network.q_star for network in diagram.points]).reshape(shape)
    numbers = (diagram.sigma_w2, diagram.sigma_b2, _extend(growth, unbounded))
    inner = [1 / scale for scale in SCALES]
    borders = [*(-border for border in inner), 0.0, *reversed(inner)]
    axes.contourf(*numbers, levels=borders, colors=SHADES, extend="both")
    if unbounded.any():
        last = diagram.sigma_w2[-1]
        start = np.minimum(diagram.unbounded_from, last)
        axes.fill_betweenx(diagram.sigma_b2, start, last, color=UNBOUNDED, lw=0, zorder=2)
    lines = [border for border in borders if border]
    axes.contour(
        *numbers, levels=lines, colors=LINE, linewidths=0.5, linestyles="solid", zorder=1.5
    )
    _label_lines(axes, diagram, lines)
    axes.set_title("gradients E[g²]: layers per factor e")
    axes.set_xlabel(WEIGHTS_LABEL)
    axes.set_ylabel(BIASES_LABEL)
    axes.set_xlim(diagram.sigma_w2[0], diagram.sigma_w2[-1])
    axes.set_ylim(diagram.sigma_b2[0], diagram.sigma_b2[-1])
    axes.grid(visible=False)
    bounded = growth[~unbounded]
    entries = [
        (SHADES[1], "ordered: gradients vanish", (bounded < 0).any()),
        (SHADES[-2], "chaotic: gradients explode", (bounded > 0).any()),
        (UNBOUNDED, "q* = ∞: activations explode", unbounded.any()),
    ]
    return [(Patch(color=shade), label) for shade, label, is_there in entries if is_there]


def _scale_lengths(axes: Axes, lengths: Sequence[float]) -> None:
    """Give q* a log axis with a few plain numbers, whether it spans a factor of 3 or 10⁴."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    shown = [length for length in lengths if 0 < length < math.inf] or [1.0]
    is_narrow = max(shown) < 30 * min(shown)
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if is_narrow else (1,), numticks=5))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda length, _: f"{length:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _extend(growth: Array, unbounded: NDArray[np.bool_]) -> Array:
    """Go on straight where q* is infinite, and with it chi jumps: what is shaded ends before."""
    extended = growth.copy()
    for row, beyond in zip(extended, unbounded, strict=True):
        start = int(np.argmax(beyond))
        if start >= 2:
            last, slope = row[start - 1], row[start - 1] - row[start - 2]
            straight = last + slope * np.arange(1, len(row) - start + 1)
            # The phase stays: its end is the end of the shades.
            row[start:] = straight if last == 0 else np.where(straight * last > 0, straight, 0.0)
    return extended


def _label_lines(axes: Axes, diagram: PhaseDiagram, lines: Sequence[float]) -> None:
    """Write the layers per factor e on the lines between the shades."""
    height = LABELS_AT * diagram.sigma_b2[-1]
    sigma_b2 = min(diagram.sigma_b2, key=lambda value: abs(value - height))
    row = [n for n in diagram.select(sigma_b2) if math.isfinite(n.q_star)]
    for line in lines:
        for before, after in pairwise(row):
            low, high = math.log(before.chi), math.log(after.chi)
            if min(low, high) <= line < max(low, high):
                share = (line - low) / (high - low)
                axes.text(
                    before.sigma_w2 + share * (after.sigma_w2 - before.sigma_w2),
                    sigma_b2,
                    f"{1 / abs(line):.0f}",
                    ha="center",
                    va="center",
                    fontsize=8,
                    color="black",
                    bbox={"boxstyle": "round,pad=0.15", "fc": "white", "ec": "none", "alpha": 0.85},
                )
