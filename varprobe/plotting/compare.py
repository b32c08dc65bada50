"""Several initializations over depth, one colour each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from varprobe.analysis import Analysis
from varprobe.errors import InvalidArgumentError, NothingRecordedError
from varprobe.plotting.curves import build_curve, check_moment
from varprobe.plotting.display import Entry
from varprobe.plotting.drawing import BAND_ALPHA, THEORY_DASHES
from varprobe.plotting.panels import CurvesDisplay
from varprobe.plotting.places import (
    SIGNALS,
    Modules,
    find_places,
    find_run,
    find_signals,
    find_step,
)
from varprobe.plotting.style import COLOURS, MARKERS, Pen, choose_ink, mix
from varprobe.recording import Recording

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from varprobe.comparison import Comparison
    from varprobe.theory.prediction import Prediction

Labelled = Mapping[str, Recording | Analysis]


@dataclass(kw_only=True)
class CompareDisplay(CurvesDisplay):
    """Activations and gradients of several runs over depth, overlaid.

    Parameters
    ----------
    curves : tuple of Curve
        One for each run and signal: its numbers.
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
    >>> model, x = torch.nn.Linear(8, 8), torch.ones(4, 8)
    >>> runs = [vp.profile(model, x, init=init) for init in ("default", "kaiming_normal")]
    >>> vp.CompareDisplay.from_recordings(runs[0].merge(runs[1])).labels
    ('default', 'kaiming_normal')
    """

    @classmethod
    def from_comparison(
        cls,
        comparison: Comparison,
        *,
        moment: str = "second_moment",
        step: int | None = None,
        signals: Sequence[str] = SIGNALS,
        modules: Modules = "weighted",
    ) -> Self:
        """Compute the curves of each initialization; see `varprobe.plot_compare`."""
        return cls.from_recordings(
            comparison.analyses, moment=moment, step=step, signals=signals, modules=modules
        )

    @classmethod
    def from_recordings(
        cls,
        recordings: Recording | Labelled,
        *,
        moment: str = "second_moment",
        step: int | None = None,
        signals: Sequence[str] = SIGNALS,
        modules: Modules = "weighted",
    ) -> Self:
        """Compute the curves of each run or label; see `varprobe.plot_compare`."""
        check_moment(moment)
        runs = _list_runs(recordings)
        measured = [run.recording for run in runs]
        places = find_places(measured, modules)
        found = find_signals(measured, signals)
        curves = [
            build_curve(
                run.recording,
                run.prediction,
                places.sites,
                run=run.name,
                step=find_step(run.recording, step),
                signal=signal,
                moment=moment,
                label=run.label,
            )
            for signal in found
            for run in runs
        ]
        return cls(
            # A run that lacks a signal has no curve there.
            curves=tuple(curve for curve in curves if curve.draws),
            places=tuple(map(str, places.sites)),
            meaning=places.meaning,
            moment=moment,
            title=_compose_title(measured, {curve.draws for curve in curves if curve.draws}),
        )

    def _choose_pen(self, index: int, axes: Axes) -> Pen:
        colour = COLOURS[index % len(COLOURS)]
        return Pen(
            colour=colour,
            marker=MARKERS[index % len(MARKERS)],
            # Darker on light axes and lighter on dark ones: it is seen on top of what was measured.
            theory_colour=mix(colour, choose_ink(axes), 0.7),
            has_theory_band=False,
        )

    def _list_entries(self) -> list[Entry]:
        from matplotlib.lines import Line2D
        from matplotlib.patches import Patch

        ink = choose_ink(self.axes_[0])
        lines = {label: artists.line for (label, _), artists in self.artists_.items()}
        entries: list[Entry] = [(line, label or "measured") for label, line in lines.items()]
        bands = dict.fromkeys(curve.band for curve in self.curves if curve.band)
        if bands:
            spread = " or ".join(bands)
            entries.append((Patch(color=ink, alpha=BAND_ALPHA, lw=0), spread))
        if any(curve.has_theory for curve in self.curves):
            theory = Line2D([], [], color=ink, ls=THEORY_DASHES, lw=1.4)
            entries.append((theory, "theory, median"))
        return entries


def plot_compare(
    recordings: Comparison | Recording | Labelled,
    *,
    moment: str = "second_moment",
    step: int | None = None,
    signals: Sequence[str] = SIGNALS,
    modules: Modules = "weighted",
    axes: Axes | Sequence[Axes] | None = None,
) -> CompareDisplay:
    """Draw several initializations over depth, one colour each, on a log axis.

    The lines are geometric means over draws and the bands their spread; theory is dashed in a shade
    of the same colour.

    Parameters
    ----------
    recordings : Comparison, Recording or mapping
        A comparison, a recording with one run for each curve, or recordings or analyses by label.
        The places of all of them together make the depth axis: they should be of one model.
    moment, step, signals, modules, axes
        As in `varprobe.plot_depth`.

    Returns
    -------
    CompareDisplay
        With ``figure_``, ``axes_``, ``artists_`` and the numbers in ``curves``; ``save(path)``
        writes PNG, SVG or PDF.

    Raises
    ------
    NothingRecordedError
        If there is nothing to compare, no activation and no gradient.
    UnknownNameError
        If a moment, signal or module does not exist.
    InvalidArgumentError
        If ``recordings`` is none of these, one of a mapping holds several runs, or the axes do not
        fit the signals.

    Examples
    --------
    >>> import torch, varprobe as vp
    >>> model, x = torch.nn.Linear(8, 8), torch.ones(4, 8)
    >>> display = vp.plot_compare(
    ...     {init: vp.profile(model, x, init=init) for init in ("default", "kaiming_normal")}
    ... )
    >>> display.labels
    ('default', 'kaiming_normal')
    """
    if not isinstance(recordings, Recording | Mapping):
        # Not at the top: comparing runs models, drawing needs no torch.
        from varprobe.comparison import Comparison

        if not isinstance(recordings, Comparison):
            raise InvalidArgumentError(
                f"Expected a Comparison (from vp.compare), a Recording with several runs, or a "
                f"mapping of labels to recordings or analyses, got {type(recordings).__name__}."
            )
        recordings = recordings.analyses
    display = CompareDisplay.from_recordings(
        recordings, moment=moment, step=step, signals=signals, modules=modules
    )
    return display.plot(axes)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Run:
    """One curve's source: the run ``name`` of a recording, drawn as ``label``."""

    label: str
    name: str
    recording: Recording
    prediction: Prediction | None = None


def _list_runs(recordings: Recording | Labelled) -> list[_Run]:
    if isinstance(recordings, Recording):
        runs = [_Run(label=name, name=name, recording=recordings) for name in recordings.runs]
    else:
        runs = [_label_run(label, source) for label, source in recordings.items()]
    if not runs:
        raise NothingRecordedError("VP001: there is no run to compare.")
    return runs


def _label_run(label: str, source: Recording | Analysis) -> _Run:
    if isinstance(source, Analysis):
        recording, prediction = source.recording, source.prediction
    elif isinstance(source, Recording):
        recording, prediction = source, None
    else:
        raise InvalidArgumentError(
            f"Expected a Recording or an Analysis for {label!r}, got {type(source).__name__}."
        )
    name = find_run(recording, None)
    return _Run(label=label, name=name, recording=recording, prediction=prediction)


def _compose_title(recordings: Sequence[Recording], draws: set[int]) -> str:
    models = dict.fromkeys(recording.meta.get("model") for recording in recordings)
    parts = [str(model) for model in models if model]
    if draws != {1}:
        count = f"{max(draws)} " if len(draws) == 1 else ""
        parts.append(f"geometric mean of {count}draws")
    return " · ".join(parts)
