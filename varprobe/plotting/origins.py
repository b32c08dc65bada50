"""The weights of a model over depth: their scale, and the one that suits what comes behind them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

from varprobe.errors import InvalidArgumentError, NothingRecordedError
from varprobe.plotting.curves import Curve
from varprobe.plotting.display import HEIGHT, PANEL_WIDTH, Display, Entry
from varprobe.plotting.drawing import CurveArtists, draw_curve, name_ticks, widen
from varprobe.plotting.style import COLOURS, MARKERS, Pen, choose_ink

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from varprobe.identification import Identification

FIXED_PENS = ("normal", "uniform", "trunc_normal", "orthogonal", "unknown")
"""Distributions that look the same in every figure; the others follow in the order they come."""

EXPECTED = "law that suits the nonlinearity behind"


@dataclass(kw_only=True)
class IdentificationDisplay(Display):
    """Standard deviations of weights in the order of the model, beside those that would fit.

    Parameters
    ----------
    places : tuple of str
        Names of the parameters.
    std : tuple of float
        Their measured standard deviations.
    expected : tuple of float
        Standard deviations by the fan-in law that suits the nonlinearity behind; NaN without one.
    distributions : tuple of str
        What drew them.
    title : str
        Of the figure; it is not drawn on axes of the user's.

    Attributes
    ----------
    figure_, axes_ : matplotlib Figure and tuple of Axes
        After `plot`.
    artists_ : dict
        After `plot`: the artists by distribution, and "" for the expected ones.

    Examples
    --------
    >>> import torch, varprobe as vp
    >>> model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU())
    >>> display = vp.plot_identification(vp.identify(model))
    >>> display.places, display.distributions, round(display.expected[0], 3)
    (('0.weight',), ('uniform',), 0.177)
    """

    places: tuple[str, ...]
    std: tuple[float, ...]
    expected: tuple[float, ...]
    distributions: tuple[str, ...]
    title: str = ""
    artists_: dict[str, CurveArtists] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        lengths = {len(self.places), len(self.std), len(self.expected), len(self.distributions)}
        if len(lengths) > 1:
            raise InvalidArgumentError(
                "places, std, expected and distributions must be of one length, got "
                f"{len(self.places)}, {len(self.std)}, {len(self.expected)} and "
                f"{len(self.distributions)}."
            )

    @classmethod
    def from_identification(cls, identification: Identification) -> Self:
        """Take the numbers of the weights; see `varprobe.plot_identification`."""
        weights = [origin for origin in identification if len(origin.shape) > 1]
        shown = weights or list(identification)
        if not shown:
            raise NothingRecordedError(
                "VP001: no parameter has numbers, so there is nothing to draw. The reasons are in "
                "identification.unobserved."
            )
        return cls(
            places=tuple(origin.label for origin in shown),
            std=tuple(origin.std for origin in shown),
            expected=tuple(origin.expected_std for origin in shown),
            distributions=tuple(origin.distribution for origin in shown),
            title=str(identification.meta.get("model", "")),
        )

    def _name_panels(self) -> tuple[str, ...]:
        return ("weights",)

    def _make_axes(self) -> tuple[Axes, ...]:
        from matplotlib.figure import Figure

        figure = Figure(figsize=(1.5 * PANEL_WIDTH, HEIGHT))
        figure.set_layout_engine("constrained")
        return (figure.subplots(),)

    def _draw(self) -> None:
        (axes,) = self.axes_
        ink = choose_ink(axes)
        found = dict.fromkeys(self.distributions)
        order = [*FIXED_PENS, *(name for name in found if name not in FIXED_PENS)]
        nothing = (math.nan,) * len(self.places)
        self.artists_ = {}
        for name in (name for name in order if name in found):
            index = order.index(name)
            pen = Pen(
                colour=COLOURS[index % len(COLOURS)],
                marker=MARKERS[index % len(MARKERS)],
                theory_colour=ink,
                has_theory_band=False,
            )
            there = (d == name for d in self.distributions)
            std = [s if is_there else math.nan for s, is_there in zip(self.std, there, strict=True)]
            self.artists_[name] = draw_curve(axes, _make_curve(name, std, nothing), pen)
        pen = Pen(colour=ink, marker="none", theory_colour=ink, has_theory_band=False)
        self.artists_[""] = draw_curve(axes, _make_curve("", nothing, self.expected), pen)
        self._finish(axes)

    def _finish(self, axes: Axes) -> None:
        axes.set_yscale("log")
        widen(axes)
        axes.set_xlim(-0.5, len(self.places) - 0.5)
        axes.set_ylabel("standard deviation of the weights")
        axes.set_xlabel("parameters, in the order of the model")
        name_ticks(axes, self.places)
        entries: list[Entry] = []
        for name, artists in self.artists_.items():
            if name:
                entries.append((artists.line, name))
            elif artists.theory is not None:
                entries.append((artists.theory, EXPECTED))
        zeros = {mark: line for a in self.artists_.values() for mark, line in a.marks.items()}
        self._add_legend([*entries, *((line, m.label) for m, line in zeros.items())], self.title)


def plot_identification(
    identification: Identification, *, axes: Axes | None = None
) -> IdentificationDisplay:
    """Draw the scale of each weight beside the one that suits the nonlinearity behind it.

    A marker for each weight of two or more dimensions (each parameter, if there is none) tells by
    colour and form which distribution drew it; dashed is the fan-in law that it was expected to
    follow.

    Parameters
    ----------
    identification : Identification
        From `varprobe.identify`.
    axes : matplotlib Axes, optional
        A new figure is made otherwise.

    Returns
    -------
    IdentificationDisplay
        With ``figure_``, ``axes_`` and ``artists_``; ``save(path)`` writes PNG, SVG or PDF.

    Raises
    ------
    NothingRecordedError
        If no parameter has numbers.

    Examples
    --------
    >>> import torch, varprobe as vp
    >>> display = vp.plot_identification(vp.identify(torch.nn.Linear(64, 64)))
    >>> display.axes_[0].get_ylabel()
    'standard deviation of the weights'
    """
    return IdentificationDisplay.from_identification(identification).plot(axes)


def _make_curve(label: str, std: Sequence[float], expected: Sequence[float]) -> Curve:
    nothing = (math.nan,) * len(std)
    return Curve(
        label=label,
        signal="weight",
        draws=1,
        measured=tuple(std),
        low=nothing,
        high=nothing,
        nonfinite=(0,) * len(std),
        expected=tuple(expected),
        expected_low=nothing,
        expected_high=nothing,
    )
