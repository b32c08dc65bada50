from __future__ import annotations

import math

import numpy as np
import pytest
from matplotlib.colors import same_color
from matplotlib.figure import Figure

from tests.plotting.samples import (
    make_expectation,
    make_prediction,
    make_record,
    make_recording,
)
from varprobe.analysis import analyze
from varprobe.errors import InvalidArgumentError, NothingRecordedError, UnknownNameError
from varprobe.plotting import DepthDisplay, plot_depth
from varprobe.plotting.drawing import MIN_DECADES, NONFINITE, THEORY_ZERO, ZERO
from varprobe.plotting.style import COLOURS, INK_ON_DARK, INK_ON_LIGHT
from varprobe.recording import Recording

NAN = math.nan
DRAWS = {"0": [1.0, 4.0], "2": [10.0, 40.0], "4": [100.0, 400.0]}


def read_edges(band: object) -> tuple[list[float], list[float]]:
    """Return the lower and upper edge of a band, from the vertices that it is drawn with."""
    (path,) = band.get_paths()
    points = path.vertices
    depths = sorted(set(points[:, 0]))
    at = [points[points[:, 0] == depth, 1] for depth in depths]
    return [float(y.min()) for y in at], [float(y.max()) for y in at]


def test_lines_and_bands_hold_the_numbers() -> None:
    display = plot_depth(make_recording(DRAWS))
    artists = display.artists_["", "activation"]
    assert artists.line.get_ydata() == pytest.approx([2.0, 20.0, 200.0])
    assert artists.line.get_xdata().tolist() == [0, 1, 2]
    low, high = read_edges(artists.band)
    assert low == pytest.approx([1.0, 10.0, 100.0])
    assert high == pytest.approx([4.0, 40.0, 400.0])
    assert artists.theory is None
    assert display.artists_["", "gradient"].line.get_ydata() == pytest.approx([0.2, 2.0, 20.0])


def test_theory_is_dashed_with_its_band() -> None:
    rows = [make_expectation(name, 1.0, 0.5) for name in ("0", "4")]
    display = plot_depth(make_recording(DRAWS), make_prediction(*rows))
    curve, artists = display.curves[0], display.artists_["", "activation"]
    assert artists.theory.get_linestyle() == "--"
    np.testing.assert_array_equal(artists.theory.get_ydata(), curve.expected)
    assert math.isnan(curve.expected[1])
    assert artists.theory_band is not None
    # Places between gaps have no dash, so each has a mark of its own.
    assert artists.theory.get_markevery() == [0, 2]
    assert display.artists_["", "gradient"].theory is None


def test_axes_say_what_they_show() -> None:
    for moment, forward, backward in (
        ("second_moment", "second moment E[x²]  in a²", "second moment E[(∂L/∂x)²]  in L²/a²"),
        ("variance", "variance Var[x]  in a²", "variance Var[∂L/∂x]  in L²/a²"),
    ):
        left, right = plot_depth(make_recording(DRAWS), moment=moment).axes_
        assert (left.get_ylabel(), right.get_ylabel()) == (forward, backward)
        assert left.get_yscale() == right.get_yscale() == "log"
        assert left.get_xlabel() == "outputs of weighted layers, in order of execution"
        assert left.get_title(loc="left") == "activations (forward →)"
        assert right.get_title(loc="left") == "gradients (← backward)"


def test_the_legend_says_what_line_and_bands_are() -> None:
    prediction = make_prediction(make_expectation("0", 1.0, 0.1))
    (legend,) = plot_depth(make_recording(DRAWS), prediction).figure_.legends
    assert [text.get_text() for text in legend.get_texts()] == [
        "measured, geometric mean",
        "min–max of 2 draws",
        "theory, median",
        "theory, 95 % of single draws",
    ]


def test_the_title_names_model_run_draws_and_step() -> None:
    records = [make_record("a", 1.0, run="he", draw=draw, step=5) for draw in (0, 1)]
    recording = Recording(records=tuple(records), meta={"model": "Net", "init": "other"})
    assert DepthDisplay.from_recording(recording).title == "Net · he · 2 draws · step 5"


def test_a_flat_curve_looks_flat() -> None:
    axes = plot_depth(make_recording({"0": [1.0], "1": [1.01]})).axes_[0]
    low, high = np.log10(axes.get_ylim())
    assert high - low == pytest.approx(MIN_DECADES)


def test_huge_ranges_are_shown_whole() -> None:
    axes = plot_depth(make_recording({"0": [1e-25], "1": [1e25]})).axes_[0]
    low, high = axes.get_ylim()
    assert low < 1e-25
    assert high > 1e25


def test_zeros_are_marked_at_the_bottom_edge() -> None:
    rows = [make_expectation("1", 0.0, 0.0)]
    recording = make_recording({"0": [1.0], "1": [0.0], "2": [2.0]})
    display = plot_depth(recording, make_prediction(*rows))
    artists = display.artists_["", "activation"]
    assert math.isnan(artists.line.get_ydata()[1])
    for mark in (ZERO, THEORY_ZERO):
        marks = artists.marks[mark]
        assert marks.get_xdata().tolist() == [1]
        _, height = (
            display.axes_[0]
            .transAxes.inverted()
            .transform(marks.get_transform().transform([(1, marks.get_ydata()[0])])[0])
        )
        assert 0.0 < height < 0.05
    assert marks.get_fillstyle() == "none"
    texts = [text.get_text() for text in display.figure_.legends[0].get_texts()]
    assert texts[-2:] == ["exactly 0", "theory: exactly 0"]


def test_nothing_but_zeros_can_be_drawn() -> None:
    display = plot_depth(make_recording({"0": [0.0], "1": [0.0]}))
    assert display.artists_["", "activation"].marks[ZERO].get_xdata().tolist() == [0, 1]
    display.render()


def test_what_is_not_finite_is_marked_at_the_top_edge() -> None:
    records = (
        make_record("a", 1.0, depth=0),
        make_record("b", 1.0, depth=1, nan=4),
        make_record("c", 1.0, depth=2, nan=1),
        make_record("d", math.inf, depth=3),
    )
    artists = plot_depth(Recording(records=records)).artists_["", "activation"]
    marks = artists.marks[NONFINITE]
    assert marks.get_xdata().tolist() == [1, 2, 3]
    assert min(marks.get_ydata()) > 0.95
    np.testing.assert_array_equal(np.isfinite(artists.line.get_ydata()), [1, 0, 1, 0])


def test_signals_choose_the_panels() -> None:
    display = plot_depth(make_recording(DRAWS), signals=["gradient"])
    assert display.signals == ("gradient",)
    assert len(display.axes_) == 1


def test_a_recording_without_gradients_has_one_panel() -> None:
    assert len(plot_depth(make_recording(DRAWS, gradient=False)).axes_) == 1


def test_an_analysis_brings_its_prediction() -> None:
    recording = make_recording(DRAWS)
    prediction = make_prediction(make_expectation("0", 1.0, 0.1))
    assert (
        DepthDisplay.from_recording(analyze(recording, prediction)).curves
        == DepthDisplay.from_recording(recording, prediction).curves
    )


def test_theory_is_drawn_without_a_recording() -> None:
    display = make_prediction(make_expectation("0", 1.0, 0.1)).plot()
    assert isinstance(display, DepthDisplay)
    assert display.title == "Net · mine"
    texts = [text.get_text() for text in display.figure_.legends[0].get_texts()]
    assert texts == ["theory, median", "theory, 95 % of single draws"]


def test_a_recording_draws_itself() -> None:
    display = make_recording(DRAWS).plot(moment="variance")
    assert isinstance(display, DepthDisplay)
    assert display.moment == "variance"


@pytest.mark.parametrize(
    ("background", "ink"), [("white", INK_ON_LIGHT), ("black", INK_ON_DARK), ("#222", INK_ON_DARK)]
)
def test_theory_is_legible_on_any_background(background: str, ink: str) -> None:
    axes = Figure().subplots()
    axes.set_facecolor(background)
    prediction = make_prediction(make_expectation("0", 1.0, 0.1))
    display = plot_depth(make_recording(DRAWS), prediction, signals=["activation"], axes=axes)
    artists = display.artists_["", "activation"]
    assert same_color(artists.theory.get_color(), ink)
    assert same_color(artists.line.get_color(), COLOURS[0])


def test_nothing_to_draw_is_an_error() -> None:
    with pytest.raises(InvalidArgumentError, match="Nothing to draw"):
        plot_depth(None)
    with pytest.raises(NothingRecordedError, match="VP001"):
        plot_depth(Recording(records=()))


def test_what_is_no_recording_is_an_error() -> None:
    with pytest.raises(InvalidArgumentError, match=r"got dict.*plot_compare"):
        plot_depth({"he": make_recording(DRAWS)})


def test_an_unknown_moment_is_suggested() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'second_moment'"):
        plot_depth(make_recording(DRAWS), moment="second_moments")
    with pytest.raises(UnknownNameError, match="no moment named 'mean'"):
        DepthDisplay(curves=(), places=(), moment="mean")
