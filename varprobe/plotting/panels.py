"""What the Displays of curves over depth have in common: a panel for each signal."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from varprobe.plotting.curves import Curve, check_moment
from varprobe.plotting.display import HEIGHT, PANEL_WIDTH, Display, Entry
from varprobe.plotting.drawing import CurveArtists, draw_curve, finish_panel
from varprobe.plotting.style import Pen, choose_ink

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(kw_only=True)
class CurvesDisplay(Display):
    """Curves over depth, one panel for each signal."""

    curves: tuple[Curve, ...]
    places: tuple[str, ...]
    meaning: str = "modules"
    moment: str = "second_moment"
    title: str = ""
    artists_: dict[tuple[str, str], CurveArtists] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_moment(self.moment)

    @property
    def signals(self) -> tuple[str, ...]:
        """The signals, one panel each, in order."""
        return tuple(dict.fromkeys(curve.signal for curve in self.curves))

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels of the runs, in order."""
        return tuple(dict.fromkeys(curve.label for curve in self.curves))

    @abstractmethod
    def _choose_pen(self, index: int, axes: Axes) -> Pen:
        """Return how the curves with the label number ``index`` are drawn."""

    @abstractmethod
    def _list_entries(self) -> list[Entry]:
        """Return the entries of the legend."""

    def _name_panels(self) -> tuple[str, ...]:
        return self.signals

    def _draw(self) -> None:
        self.artists_ = {}
        for signal, panel in zip(self.signals, self.axes_, strict=True):
            for curve in self.curves:
                if curve.signal == signal:
                    pen = self._choose_pen(self.labels.index(curve.label), panel)
                    self.artists_[curve.label, signal] = draw_curve(panel, curve, pen)
            finish_panel(
                panel,
                signal=signal,
                moment=self.moment,
                places=self.places,
                meaning=self.meaning,
            )
        self._add_legend([*self._list_entries(), *self._list_marks()], self.title)

    def _list_marks(self) -> list[Entry]:
        from matplotlib.lines import Line2D

        ink = choose_ink(self.axes_[0])
        found = dict.fromkeys(mark for artists in self.artists_.values() for mark in artists.marks)
        return [
            (Line2D([], [], ls="none", marker=m.marker, fillstyle=m.fillstyle, color=ink), m.label)
            for m in found
        ]

    def _make_axes(self) -> tuple[Axes, ...]:
        from matplotlib.figure import Figure

        count = len(self.signals)
        figure = Figure(figsize=(PANEL_WIDTH * count, HEIGHT))
        figure.set_layout_engine("constrained", wspace=0.03)
        return tuple(figure.subplots(1, count, squeeze=False)[0])
