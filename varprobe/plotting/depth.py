"""One initialization over depth: measured beside predicted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from varprobe.analysis import Analysis
from varprobe.errors import InvalidArgumentError
from varprobe.plotting.curves import build_curve, check_moment
from varprobe.plotting.display import Entry
from varprobe.plotting.panels import CurvesDisplay
from varprobe.plotting.places import (
    SIGNALS,
    Modules,
    find_places,
    find_run,
    find_signals,
    find_step,
)
from varprobe.plotting.style import COLOURS, MARKERS, Pen, choose_ink
from varprobe.recording import Recording

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from varprobe.theory.prediction import Prediction


@dataclass(kw_only=True)
class DepthDisplay(CurvesDisplay):
    """Activations and gradients of one run over depth, beside what theory predicts.

    Parameters
    ----------
    curves : tuple of Curve
        One for each signal: its numbers.
    places : tuple of str
        Names along the depth axis.
    meaning : str
        What the places are.
    moment : {"second_moment", "variance"}
        Which moment the numbers are.
    title : str
        Of the figure; it is not drawn on axes of the user's.

    Attributes
    ----------
    figure_, axes_ : matplotlib Figure and tuple of Axes
        After `plot`.
    artists_ : dict
        After `plot`: the artists by (label, signal).

    Examples
    --------
    >>> import torch, varprobe as vp
    >>> recording = vp.profile(torch.nn.Linear(8, 8), torch.ones(4, 8))
    >>> display = vp.DepthDisplay.from_recording(recording, moment="variance")
    >>> display.plot().axes_[0].get_ylabel()
    'variance Var[x]  in a²'
    """

    @classmethod
    def from_recording(
        cls,
        recording: Recording | Analysis | None,
        prediction: Prediction | None = None,
        *,
        moment: str = "second_moment",
        run: str | None = None,
        step: int | None = None,
        signals: Sequence[str] = SIGNALS,
        modules: Modules = "weighted",
    ) -> Self:
        """Compute the curves; see `varprobe.plot_depth`."""
        if isinstance(recording, Analysis):
            prediction = recording.prediction if prediction is None else prediction
            recording = recording.recording
        check_moment(moment)
        source = _check_source(recording, prediction)
        places = find_places([source], modules)
        signals = find_signals([source], signals)
        name, at = "", 0
        if recording is not None:
            name, at = find_run(recording, run), find_step(recording, step)
        curves = [
            build_curve(
                recording,
                prediction,
                places.sites,
                run=name,
                step=at,
                signal=signal,
                moment=moment,
                label=name,
            )
            for signal in signals
        ]
        draws = max(curve.draws for curve in curves)
        return cls(
            curves=tuple(curves),
            places=tuple(map(str, places.sites)),
            meaning=places.meaning,
            moment=moment,
            title=_compose_title(source.meta, name, at, draws),
        )

    def _choose_pen(self, index: int, axes: Axes) -> Pen:
        return Pen(
            colour=COLOURS[index],
            marker=MARKERS[index],
            theory_colour=choose_ink(axes),
            has_theory_band=True,
        )

    def _list_entries(self) -> list[Entry]:
        # The panel that has more to say: a signal may lack a prediction.
        curve = max(self.curves, key=lambda curve: (curve.has_theory, curve.draws))
        artists = self.artists_[curve.label, curve.signal]
        entries: list[Entry] = []
        if curve.draws:
            centre = "geometric mean" if curve.draws > 1 else "one draw"
            entries.append((artists.line, f"measured, {centre}"))
        if artists.band is not None:
            entries.append((artists.band, curve.band))
        if artists.theory is not None:
            entries.append((artists.theory, "theory, median"))
        if artists.theory_band is not None:
            entries.append((artists.theory_band, "theory, 95 % of single draws"))
        return entries


def plot_depth(
    recording: Recording | Analysis | None,
    prediction: Prediction | None = None,
    *,
    moment: str = "second_moment",
    run: str | None = None,
    step: int | None = None,
    signals: Sequence[str] = SIGNALS,
    modules: Modules = "weighted",
    axes: Axes | Sequence[Axes] | None = None,
) -> DepthDisplay:
    """Draw how activations and gradients grow or shrink over depth, on a log axis.

    The line is the geometric mean over draws and its band their spread; theory is dashed, with the
    band in which it expects 95 % of single draws. In the labels, a is the unit of the activations
    and L that of the loss. What is exactly 0 is marked at the bottom edge, places with NaN or
    infinite elements at the top edge.

    Parameters
    ----------
    recording : Recording, Analysis or None
        What was measured. An analysis brings its prediction along; None draws theory alone.
    prediction : Prediction, optional
        What theory says, from `varprobe.predict`.
    moment : {"second_moment", "variance"}
        He's initialization conserves the second moment E[x²]. The variance is another number: after
        a ReLU it is 1 - 1/π = 0.68 of it.
    run : str, optional
        Which run; needed if there are several.
    step : int, optional
        Which optimizer step; the first that was recorded by default.
    signals : sequence of {"activation", "gradient"}
        One panel each; a signal that was not recorded has none.
    modules : {"weighted", "leaves"} or sequence of str
        Whose outputs are drawn. "weighted": the layers with a fan-in (Linear, ConvNd), before the
        nonlinearity, which the laws of initialization are about; all leaf modules if there are no
        such layers. "leaves": every module without recorded children. The curve then also visits
        the outputs of nonlinearities, where a ReLU halves the second moment, and zigzags. A
        sequence of names draws just these modules. Containers are drawn only if they are named:
        they return the tensor of their last child.
    axes : matplotlib Axes or sequence of them, optional
        One for each signal; a new figure is made otherwise.

    Returns
    -------
    DepthDisplay
        With ``figure_``, ``axes_``, ``artists_`` and the numbers in ``curves``; ``save(path)``
        writes PNG, SVG or PDF.

    Raises
    ------
    NothingRecordedError
        If there is no activation and no gradient.
    UnknownNameError
        If a moment, run, signal or module does not exist.
    InvalidArgumentError
        If there is nothing to draw, there are several runs and none is named, or the axes do not
        fit the signals.

    Examples
    --------
    >>> import torch, varprobe as vp
    >>> model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.ReLU(), torch.nn.Linear(8, 4))
    >>> display = vp.plot_depth(vp.profile(model, torch.randn(16, 8)))
    >>> display.places
    ('0', '2')
    """
    display = DepthDisplay.from_recording(
        recording,
        prediction,
        moment=moment,
        run=run,
        step=step,
        signals=signals,
        modules=modules,
    )
    return display.plot(axes)


def _check_source(
    recording: Recording | None, prediction: Prediction | None
) -> Recording | Prediction:
    """Return what the depth axis is read off."""
    if recording is not None and not isinstance(recording, Recording):
        raise InvalidArgumentError(
            f"Expected a Recording (from vp.profile or probe.recording) or an Analysis, got "
            f"{type(recording).__name__}. Several by label are drawn by vp.plot_compare."
        )
    source = prediction if recording is None else recording
    if source is None:
        raise InvalidArgumentError("Nothing to draw: give a recording, a prediction, or both.")
    return source


def _compose_title(meta: Mapping[str, object], run: str, step: int, draws: int) -> str:
    parts = [meta.get("model"), run or meta.get("init")]
    parts += [f"{draws} draws" if draws > 1 else "", f"step {step}" if step else ""]
    return " · ".join(str(part) for part in parts if part)
