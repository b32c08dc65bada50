from __future__ import annotations

import pytest
from matplotlib.colors import same_color

from tests.plotting.samples import make_expectation, make_prediction, make_recording
from varprobe.analysis import Analysis, analyze
from varprobe.comparison import Comparison
from varprobe.errors import InvalidArgumentError, NothingRecordedError
from varprobe.plotting import CompareDisplay, plot_compare
from varprobe.plotting.style import COLOURS
from varprobe.recording import Recording

DRAWS = {"default": {"0": [1.0, 4.0], "2": [4.0, 4.0]}, "he": {"0": [2.0, 2.0], "2": [2.0, 8.0]}}


@pytest.fixture
def recordings() -> dict[str, Recording]:
    return {label: make_recording(draws, run=label) for label, draws in DRAWS.items()}


@pytest.fixture
def analyses(recordings: dict[str, Recording]) -> dict[str, Analysis]:
    prediction = make_prediction(make_expectation("0", 2.0, 0.1), make_expectation("2", 2.0, 0.1))
    return {label: analyze(recording, prediction) for label, recording in recordings.items()}


def test_every_run_has_a_line_a_band_and_a_colour(recordings: dict[str, Recording]) -> None:
    display = plot_compare(recordings)
    assert display.labels == ("default", "he")
    for label, colour, expected in (("default", COLOURS[0], [2, 4]), ("he", COLOURS[1], [2, 4])):
        for signal, factor in (("activation", 1.0), ("gradient", 0.1)):
            artists = display.artists_[label, signal]
            assert artists.line.get_ydata() == pytest.approx([factor * x for x in expected])
            assert same_color(artists.line.get_color(), colour)
            assert artists.band is not None


def test_theory_is_dashed_in_a_shade_of_its_own_without_a_band(
    analyses: dict[str, Analysis],
) -> None:
    display = plot_compare(analyses)
    theories = [display.artists_[label, "activation"].theory for label in display.labels]
    assert [theory.get_linestyle() for theory in theories] == ["--", "--"]
    assert len({theory.get_color() for theory in theories}) == 2
    assert all(artists.theory_band is None for artists in display.artists_.values())


def test_the_legend_names_runs_band_and_theory(analyses: dict[str, Analysis]) -> None:
    (legend,) = plot_compare(analyses).figure_.legends
    texts = [text.get_text() for text in legend.get_texts()]
    assert texts == ["default", "he", "min–max of 2 draws", "theory, median"]


def test_all_sources_give_the_same_curves(
    recordings: dict[str, Recording], analyses: dict[str, Analysis]
) -> None:
    first, second = recordings.values()
    merged = CompareDisplay.from_recordings(first.merge(second))
    assert merged.curves == CompareDisplay.from_recordings(recordings).curves
    comparison = Comparison(analyses=analyses, diagnoses={})
    expected = CompareDisplay.from_recordings(analyses).curves
    assert CompareDisplay.from_comparison(comparison).curves == expected
    assert plot_compare(comparison).curves == expected
    assert comparison.plot().curves == expected


def test_labels_stand_for_runs(recordings: dict[str, Recording]) -> None:
    display = plot_compare({"mine": recordings["he"]})
    assert display.labels == ("mine",)


def test_a_run_without_a_signal_has_no_curve_there(recordings: dict[str, Recording]) -> None:
    forward = make_recording(DRAWS["default"], gradient=False)
    display = plot_compare({"forward": forward, "both": recordings["he"]})
    assert list(display.artists_) == [
        ("forward", "activation"),
        ("both", "activation"),
        ("both", "gradient"),
    ]
    # The colour goes with the run, also where it comes first.
    gradient = display.artists_["both", "gradient"].line
    assert same_color(gradient.get_color(), COLOURS[1])


def test_many_runs_are_told_apart() -> None:
    runs = {str(index): make_recording({"0": [1.0]}) for index in range(30)}
    lines = [artists.line for artists in plot_compare(runs, signals="activation").artists_.values()]
    assert len({(line.get_color(), line.get_marker()) for line in lines}) == 30


def test_the_title_says_what_the_lines_are(recordings: dict[str, Recording]) -> None:
    single = make_recording({"0": [1.0]})
    assert CompareDisplay.from_recordings(recordings).title == "Net · geometric mean of 2 draws"
    assert CompareDisplay.from_recordings({"a": single}).title == "Net"
    mixed = CompareDisplay.from_recordings({"a": single, "he": recordings["he"]})
    assert mixed.title == "Net · geometric mean of draws"


def test_nothing_to_compare_is_an_error() -> None:
    with pytest.raises(NothingRecordedError, match="no run to compare"):
        plot_compare({})


def test_a_label_with_several_runs_is_an_error(recordings: dict[str, Recording]) -> None:
    first, second = recordings.values()
    with pytest.raises(InvalidArgumentError, match="2 runs"):
        plot_compare({"both": first.merge(second)})


@pytest.mark.parametrize(("source", "found"), [([1], "got list"), ({"he": 1}, "'he', got int")])
def test_what_is_no_recording_is_an_error(source: object, found: str) -> None:
    with pytest.raises(InvalidArgumentError, match=found):
        plot_compare(source)
