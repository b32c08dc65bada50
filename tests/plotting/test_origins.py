from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.colors import same_color
from matplotlib.figure import Figure

from tests.identification.test_origins import IDENTIFIED
from varprobe.errors import InvalidArgumentError, NothingRecordedError
from varprobe.identification import Identification
from varprobe.plotting import IdentificationDisplay, plot_identification
from varprobe.plotting.drawing import MIN_DECADES, ZERO
from varprobe.plotting.style import COLOURS

NAN = math.nan


def make_display(**fields: object) -> IdentificationDisplay:
    chosen = {
        "places": ("a", "b", "c", "d"),
        "std": (0.1, 0.2, 0.0, 0.4),
        "expected": (0.3, NAN, NAN, 0.3),
        "distributions": ("uniform", "normal", "zeros", "uniform"),
        "title": "Net",
    }
    return IdentificationDisplay(**{**chosen, **fields})


def test_weights_and_the_laws_that_suit_are_taken_from_the_identification() -> None:
    display = plot_identification(IDENTIFIED)
    assert display.places == ("fc.weight", "out.weight")
    assert display.std == pytest.approx((0.14, 2.0))
    assert display.expected == pytest.approx((math.sqrt(0.02), 0.5))
    assert display.distributions == ("normal", "normal or uniform")
    assert display.title == "Net"


def test_each_distribution_has_its_marks_and_theory_is_dashed() -> None:
    display = make_display().plot()
    uniform, normal = display.artists_["uniform"].line, display.artists_["normal"].line
    np.testing.assert_array_equal(uniform.get_ydata(), [0.1, NAN, NAN, 0.4])
    np.testing.assert_array_equal(normal.get_ydata(), [NAN, 0.2, NAN, NAN])
    assert same_color(normal.get_color(), COLOURS[0])
    assert uniform.get_marker() != normal.get_marker()
    theory = display.artists_[""].theory
    assert theory.get_linestyle() == "--"
    np.testing.assert_array_equal(theory.get_ydata(), [0.3, NAN, NAN, 0.3])


def test_a_distribution_looks_the_same_in_every_figure() -> None:
    alone = make_display(distributions=("uniform",) * 4).plot()
    mixed = make_display().plot()
    lines = [display.artists_["uniform"].line for display in (alone, mixed)]
    assert same_color(lines[0].get_color(), lines[1].get_color())


def test_zeros_are_marked_at_the_bottom_edge() -> None:
    display = make_display().plot()
    assert display.artists_["zeros"].marks[ZERO].get_xdata().tolist() == [2]


def test_axes_and_legend_say_what_they_show() -> None:
    display = make_display().plot()
    (axes,) = display.axes_
    assert axes.get_yscale() == "log"
    assert axes.get_ylabel() == "standard deviation of the weights"
    low, high = np.log10(axes.get_ylim())
    assert high - low >= MIN_DECADES
    texts = [text.get_text() for text in display.figure_.legends[0].get_texts()]
    assert texts == [
        "normal",
        "uniform",
        "zeros",
        "law that suits the nonlinearity behind",
        "exactly 0",
    ]


def test_it_draws_on_axes_of_the_users() -> None:
    axes = Figure().subplots()
    assert make_display().plot(axes).axes_ == (axes,)
    assert axes.get_legend() is not None


def test_the_same_numbers_give_the_same_bytes() -> None:
    assert make_display().render("svg") == make_display().render("svg")


def test_without_numbers_there_is_nothing_to_draw() -> None:
    with pytest.raises(NothingRecordedError, match="VP001"):
        plot_identification(replace(IDENTIFIED, origins=()))


def test_without_matrices_all_parameters_are_drawn() -> None:
    scale = Identification(origins=(IDENTIFIED["scale"],))
    assert plot_identification(scale).places == ("scale",)


def test_lengths_must_agree() -> None:
    with pytest.raises(InvalidArgumentError, match="of one length, got 1, 4, 4 and 4"):
        make_display(places=("a",))
