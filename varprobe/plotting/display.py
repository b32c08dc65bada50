"""What all Displays have in common: they draw, render and save themselves."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Self

from varprobe.errors import InvalidArgumentError, UnknownNameError
from varprobe.plotting.style import apply_style

if TYPE_CHECKING:
    from os import PathLike

    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Entry = tuple["Artist", str]
"""An entry of a legend: what it looks like, what it says."""

METADATA: dict[str, dict[str, None]] = {
    "pdf": {"CreationDate": None},
    "png": {"Software": None},
    "svg": {"Date": None},
}
"""The formats, and what must stay out of a file for it to depend on the numbers alone."""

DPI = 160
PANEL_WIDTH, HEIGHT = 5.0, 4.3
"""In inches; two panels are legible at the width of a README."""


@dataclass(kw_only=True)
class Display(ABC):
    """A figure of numbers that are known: drawn by `plot`, on axes of its own or of the user's."""

    figure_: Figure = field(init=False, repr=False, compare=False)
    axes_: tuple[Axes, ...] = field(init=False, repr=False, compare=False)
    _is_own: bool = field(init=False, repr=False, compare=False, default=False)

    def plot(self, axes: Axes | Sequence[Axes] | None = None) -> Self:
        """Draw the figure.

        Parameters
        ----------
        axes : matplotlib Axes or sequence of them, optional
            One for each panel. Without them a new figure is made, which pyplot does not know of:
            nothing has to be closed, and a notebook shows the Display that is returned.

        Returns
        -------
        Self
            With ``figure_`` and ``axes_``.

        Raises
        ------
        InvalidArgumentError
            If the number of ``axes`` is not that of the panels.
        """
        self._is_own = axes is None
        with apply_style(own=self._is_own):
            self.axes_ = self._make_axes() if axes is None else self._check_axes(axes)
            self.figure_ = _find_figure(self.axes_[0])
            self._draw()
        return self

    def render(self, file_format: str = "png") -> bytes:
        """Return the figure as a file's content; the same numbers give the same bytes.

        Parameters
        ----------
        file_format : {"png", "svg", "pdf"}
            What to render.

        Raises
        ------
        UnknownNameError
            If ``file_format`` is none of these.
        """
        if file_format not in METADATA:
            raise UnknownNameError.among("image format", file_format, METADATA)
        if not hasattr(self, "figure_"):
            self.plot()
        import matplotlib

        if self._is_own:
            self._restart_layout()
        buffer = BytesIO()
        with (
            apply_style(own=self._is_own),
            matplotlib.rc_context({"svg.hashsalt": "varprobe"}),
        ):
            metadata = METADATA[file_format]
            self.figure_.savefig(buffer, format=file_format, dpi=DPI, metadata=metadata)
        return buffer.getvalue()

    def save(self, path: str | PathLike[str]) -> None:
        """Write the figure to a file, in the format that its suffix names (.png, .svg, .pdf)."""
        path = Path(path)
        path.write_bytes(self.render(path.suffix.removeprefix(".")))

    def _repr_png_(self) -> bytes | None:
        # A figure that was made elsewhere is shown by whoever made it.
        is_shown_elsewhere = hasattr(self, "figure_") and not self._is_own
        return None if is_shown_elsewhere else self.render("png")

    @abstractmethod
    def _name_panels(self) -> tuple[str, ...]:
        """Return what the panels show, in order; each is drawn on axes of its own."""

    @abstractmethod
    def _make_axes(self) -> tuple[Axes, ...]:
        """Return the axes of a new figure, one for each panel."""

    @abstractmethod
    def _draw(self) -> None:
        """Draw on ``axes_``."""

    def _add_legend(self, entries: Sequence[Entry], title: str) -> None:
        """Write a legend, and on a figure of one's own a title."""
        handles, labels = [artist for artist, _ in entries], [label for _, label in entries]
        if self._is_own:
            # Below the panels, where it hides no curve.
            self.figure_.suptitle(title, x=0.01, ha="left")
            self.figure_.legend(
                handles, labels, loc="outside lower center", ncols=self._count_columns(labels)
            )
        else:
            self.axes_[0].legend(handles, labels, fontsize="small")

    def _count_columns(self, labels: Sequence[str]) -> int:
        """Return how many columns of entries spread evenly over as few rows as there can be."""
        # Characters at 0.6 of the font's size, 45 points for a handle and the gaps around it.
        length = sum(0.6 * 9.5 * len(label) + 45 for label in labels) / 72
        rows = math.ceil(length / self.figure_.get_figwidth())
        return math.ceil(len(labels) / rows)

    def _restart_layout(self) -> None:
        # The layout goes on from where it last ended, and its final digits would depend on that.
        for axes in self.axes_:
            spec = axes.get_subplotspec()
            if spec is not None:
                axes.set_position(spec.get_position(self.figure_).bounds)
                axes.set_in_layout(True)

    def _check_axes(self, axes: Axes | Sequence[Axes]) -> tuple[Axes, ...]:
        import numpy as np

        given = tuple(np.ravel(np.asarray(axes, dtype=object)))
        panels = self._name_panels()
        if len(given) != len(panels):
            raise InvalidArgumentError(
                f"{len(panels)} panels are drawn ({', '.join(panels)}), each on axes of its own, "
                f"but {len(given)} axes were given."
            )
        return given


def _find_figure(axes: Axes) -> Figure:
    from matplotlib.figure import SubFigure

    figure = axes.figure
    while isinstance(figure, SubFigure):
        figure = figure.figure
    return figure
