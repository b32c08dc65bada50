from __future__ import annotations

import math
from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_rgb

import varprobe as vp
from varprobe.errors import InvalidArgumentError
from varprobe.plotting.phase import SHADES, PhaseDisplay, _extend
from varprobe.theory.mean_field import solve_mean_field


@pytest.fixture(scope="module")
def erf() -> PhaseDisplay:
    return vp.plot_phase("erf")


def read_legend(display: PhaseDisplay) -> list[str]:
    (legend,) = display.figure_.legends
    return [text.get_text() for text in legend.get_texts()]


def find_fills(display: PhaseDisplay) -> list[PolyCollection]:
    """Return the areas where activations explode."""
    return [c for c in display.axes_[0].collections if isinstance(c, PolyCollection)]


def test_the_edge_is_drawn_through_its_networks(erf: PhaseDisplay) -> None:
    edge = erf.artists_["edge"]
    np.testing.assert_array_equal(
        edge.get_xydata(), [(n.sigma_w2, n.sigma_b2) for n in erf.diagram.edge]
    )
    assert edge.get_linestyle() == "-"


@pytest.mark.parametrize("name", ["q_star", "c_star", "xi_q", "xi_c", "xi_gradient"])
def test_the_cut_holds_the_numbers_of_its_networks(erf: PhaseDisplay, name: str) -> None:
    line = erf.artists_[name]
    for sigma_w2, value in line.get_xydata()[::7]:
        network = solve_mean_field("erf", sigma_w2=sigma_w2, sigma_b2=0.05)
        assert value == getattr(network, name)


def test_depth_scales_leave_the_axes_at_the_edge(erf: PhaseDisplay) -> None:
    [edge] = [n for n in erf.diagram.edge if n.sigma_b2 == 0.05]
    sigma_w2, layers = erf.artists_["xi_gradient"].get_xydata().T
    beyond = sigma_w2[layers > erf.axes_[3].get_ylim()[1]]
    assert beyond.min() < edge.sigma_w2 < beyond.max()
    assert beyond == pytest.approx(edge.sigma_w2, rel=2e-3)


def test_a_label_stands_where_gradients_change_by_e_in_as_many_layers(erf: PhaseDisplay) -> None:
    labels = erf.axes_[0].texts
    assert [label.get_text() for label in labels] == ["3", "10", "30", "30", "10"]
    for label, sign in zip(labels, (-1, -1, -1, 1, 1), strict=True):
        sigma_w2, sigma_b2 = label.get_position()
        network = solve_mean_field("erf", sigma_w2=sigma_w2, sigma_b2=sigma_b2)
        # Interpolated in steps h = 0.2 of sigma_w2: h²/8 times a second derivative below 2.
        assert math.log(network.chi) == pytest.approx(sign / float(label.get_text()), abs=0.01)


def test_axes_and_legend_say_what_they_show(erf: PhaseDisplay) -> None:
    phases, length, correlation, scales = erf.axes_
    assert phases.get_xlabel() == scales.get_xlabel()
    assert "variance of a weight × fan_in" in phases.get_xlabel()
    assert "variance of a bias  in a²" in phases.get_ylabel()
    assert phases.get_title(loc="left") == "gradients E[g²]: layers per factor e"
    assert (length.get_ylabel(), correlation.get_ylabel()) == ("q*  in a²", "c*")
    assert length.get_title(loc="left").endswith("= 0.05")
    assert read_legend(erf)[:3] == [
        "ordered: gradients vanish",
        "chaotic: gradients explode",
        "edge of chaos, χ = 1",
    ]
    assert find_fills(erf) == []


@pytest.mark.parametrize("weights", [[0.1, 0.7], [3.0, 4.0]])
def test_what_is_out_of_sight_is_not_drawn(weights: list[float]) -> None:
    for name in ("erf", "relu"):
        display = vp.plot_phase(vp.map_phases(name, sigma_w2=weights, sigma_b2=[0.0, 0.1]))
        assert "edge" not in display.artists_
        assert all(axes.get_xlim() == tuple(weights) for axes in display.axes_)
        assert display.axes_[0].get_ylim() == (0.0, 0.1)
        display.render()


def test_a_rectifier_has_a_point_and_an_end() -> None:
    display = vp.plot_phase("relu", sigma_b2=0.1)
    assert display.artists_["edge"].get_marker() == "o"
    (fill,) = find_fills(display)
    left, right = fill.get_paths()[0].vertices[:, 0].min(), display.diagram.sigma_w2[-1]
    assert left == pytest.approx(2.0, abs=1e-6)
    assert fill.get_paths()[0].vertices[:, 0].max() == right
    assert "chaotic: gradients explode" not in read_legend(display)
    assert "q* = ∞: activations explode" in read_legend(display)
    assert display.axes_[1].get_title(loc="left").endswith("= 0.1")


@pytest.mark.parametrize(
    ("growth", "extended"),
    [
        ([-0.6, -0.4, 0.2, 0.3], [-0.6, -0.4, -0.2, 0.0]),
        ([0.4, 0.3, 0.9, 0.9], [0.4, 0.3, 0.2, 0.1]),
        ([0.3, 0.1, 0.9, 0.9], [0.3, 0.1, 0.0, 0.0]),
        ([-0.1, 0.0, 0.9, 0.9], [-0.1, 0.0, 0.1, 0.2]),
    ],
)
def test_shades_go_straight_on_to_where_activations_explode(
    growth: list[float], extended: list[float]
) -> None:
    beyond = np.array([[False, False, True, True]])
    assert _extend(np.array([growth]), beyond)[0] == pytest.approx(extended, abs=1e-15)
    kept = _extend(np.array([growth]), np.zeros((1, 4), dtype=bool))
    assert kept[0].tolist() == growth


@pytest.mark.parametrize(
    ("name", "weights"), [("erf", [0.2, 3.4]), ("relu", [0.1, 3.0]), ("sigmoid", [10.0, 160.0])]
)
def test_tick_labels_of_the_second_moment_do_not_overlap(name: str, weights: list[float]) -> None:
    display = vp.plot_phase(vp.map_phases(name, sigma_w2=weights, sigma_b2=[0.0, 0.05]))
    display.figure_.draw_without_rendering()
    axes = display.axes_[1]
    low, high = axes.get_ylim()
    labels = [t for t in axes.get_yticklabels(which="both") if t.get_text()]
    shown = [t.get_window_extent() for t in labels if low <= t.get_position()[1] <= high]
    assert len(shown) >= 2
    assert all(a.y1 < b.y0 for a, b in pairwise(sorted(shown, key=lambda box: box.y0)))


def test_the_same_numbers_give_the_same_bytes(erf: PhaseDisplay) -> None:
    first = erf.render("svg")
    assert erf.render("svg") == first
    assert PhaseDisplay(diagram=erf.diagram, cut=erf.cut).render("svg") == first


def test_axes_of_the_user_are_drawn_on(erf: PhaseDisplay) -> None:
    figure, axes = plt.subplots(2, 2)
    display = PhaseDisplay(diagram=erf.diagram, cut=erf.cut).plot(axes)
    assert display.figure_ is figure
    assert figure.legends == []
    assert axes[0, 0].get_legend() is not None
    plt.close(figure)
    with pytest.raises(InvalidArgumentError, match=r"4 panels are drawn \(phases, q\*, c\*"):
        erf.diagram.plot(axes=plt.figure().subplots(1, 3))
    plt.close("all")


@pytest.mark.parametrize(("weights", "biases"), [([1.0], [0.0, 0.1]), ([1.0, 2.0], [0.1])])
def test_a_diagram_has_two_sides(weights: list[float], biases: list[float]) -> None:
    diagram = vp.map_phases("erf", sigma_w2=weights, sigma_b2=biases)
    with pytest.raises(InvalidArgumentError, match=f"got {len(weights)} and {len(biases)}"):
        vp.plot_phase(diagram)


def test_a_cut_that_the_diagram_lacks_is_an_error(erf: PhaseDisplay) -> None:
    with pytest.raises(InvalidArgumentError, match=r"The diagram has sigma_b2 = 0, 0\.001"):
        vp.plot_phase(erf.diagram, sigma_b2=0.07)


def test_shades_are_told_apart_without_colour() -> None:
    # Towards both ends the shades get darker: printed in grey, the edge is the lightest.
    light = [np.dot(to_rgb(s), (0.2126, 0.7152, 0.0722)) for s in SHADES]
    assert light[:4] == sorted(light[:4])
    assert light[4:] == sorted(light[4:], reverse=True)
