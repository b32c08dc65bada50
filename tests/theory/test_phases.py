"""The diagram against closed forms: erf has them for every integral, rectifiers for every limit."""

from __future__ import annotations

import math

import pytest
from torch import nn

import varprobe as vp
from varprobe.errors import InvalidArgumentError, UnknownNameError
from varprobe.schema import PHASE_DIAGRAM
from varprobe.theory.mean_field import find_edge_of_chaos, solve_mean_field
from varprobe.theory.phases import SIGMA_B2, map_phases


def bias_at_the_edge_of_erf(sigma_w2: float) -> float:
    """Return sigma_b2: chi = 4 sigma_w2 / (π sqrt(1 + 4 q)) = 1 gives q, and q is a fixed point."""
    q = ((4 * sigma_w2 / math.pi) ** 2 - 1) / 4
    return q - sigma_w2 * 2 / math.pi * math.asin(2 * q / (1 + 2 * q))


@pytest.fixture(scope="module")
def erf() -> vp.PhaseDiagram:
    return map_phases("erf")


def test_the_edge_is_the_closed_form_of_erf(erf: vp.PhaseDiagram) -> None:
    assert [network.sigma_b2 for network in erf.edge] == list(SIGMA_B2)
    assert [bias_at_the_edge_of_erf(network.sigma_w2) for network in erf.edge] == pytest.approx(
        SIGMA_B2, rel=1e-9, abs=1e-14
    )


def test_the_edge_parts_the_phases(erf: vp.PhaseDiagram) -> None:
    for edge in erf.edge:
        for network in erf.select(edge.sigma_b2):
            expected = "ordered" if network.sigma_w2 < edge.sigma_w2 else "chaotic"
            assert network.phase == expected
            assert (network.c_star < 1) == (expected == "chaotic")


def test_the_edge_of_tanh_is_that_of_schoenholz() -> None:
    # Their figure 1 and section 3: sigma_w2 = 1.76 at sigma_b2 = 0.05.
    [edge] = map_phases("tanh", sigma_w2=[1.0], sigma_b2=[0.05]).edge
    assert edge.sigma_w2 == pytest.approx(1.76, abs=5e-3)


def test_each_point_is_its_network() -> None:
    diagram = map_phases("erf", sigma_w2=(2.5, 0.5, 2.5), sigma_b2=iter([0.3, 0.0]))
    assert (diagram.sigma_w2, diagram.sigma_b2) == ((0.5, 2.5), (0.0, 0.3))
    pairs = [(w, b) for b in (0.0, 0.3) for w in (0.5, 2.5)]
    expected = [solve_mean_field("erf", sigma_w2=w, sigma_b2=b) for w, b in pairs]
    assert list(map(repr, diagram.points)) == list(map(repr, expected))
    assert diagram.select(0.3) == diagram.points[2:]
    with pytest.raises(InvalidArgumentError, match=r"has sigma_b2 = 0, 0\.3, not 0\.1"):
        diagram.select(0.1)


def test_the_frame_has_a_row_for_each_network() -> None:
    diagram = map_phases("erf", sigma_w2=[0.5, 2.5], sigma_b2=[0.3])
    frame = diagram.to_frame()
    assert list(frame) == [column.name for column in PHASE_DIAGRAM]
    assert frame["phase"].tolist() == ["ordered", "chaotic"]
    assert frame["xi_c"].tolist() == [network.xi_c for network in diagram.points]


@pytest.mark.parametrize("name", ["erf", "relu", "softplus", "sigmoid", "gelu"])
def test_by_default_both_sides_are_seen_in_round_steps(name: str) -> None:
    diagram = map_phases(name, sigma_b2=[0.5])
    weights = diagram.sigma_w2
    assert 10 <= len(weights) <= 30
    assert weights == tuple(float(f"{weight:.2g}") for weight in weights[:9]) + weights[9:]
    assert weights == pytest.approx([weights[0] * (1 + i) for i in range(len(weights))])
    phases = [network.phase for network in diagram.points]
    assert (phases[0], phases[-1]) == ("ordered", "chaotic")


@pytest.mark.parametrize(
    ("name", "is_invariant"),
    [
        ("relu", True),
        ("leaky_relu(negative_slope=0.2)", True),
        ("identity", True),
        ("gelu", False),
        ("erf", False),
        ("elu", False),
    ],
)
def test_what_scales_with_its_input_is_known(name: str, is_invariant: bool) -> None:
    assert map_phases(name, sigma_w2=[1.0], sigma_b2=[0.0]).is_scale_invariant == is_invariant


@pytest.mark.parametrize("slope", [0.0, 0.2])
def test_a_rectifier_has_a_critical_point_and_no_line(slope: float) -> None:
    diagram = map_phases(nn.LeakyReLU(slope))
    critical = 2 / (1 + slope**2)  # He's variance times the fan-in
    [edge] = diagram.edge
    assert (edge.sigma_w2, edge.sigma_b2) == (pytest.approx(critical), 0.0)
    # Beyond it nothing stays, and below it what the biases add: sigma_b2 / (1 - sigma_w2/critical).
    assert diagram.unbounded_from == pytest.approx([critical] * len(diagram.sigma_b2), rel=1e-6)
    for network in diagram.select(0.05):
        share = network.sigma_w2 / critical
        expected = 0.05 / (1 - share) if share < 1 - 1e-9 else math.inf
        assert network.q_star == pytest.approx(expected, rel=1e-9)


def test_activations_explode_from_a_jump_on() -> None:
    diagram = map_phases("gelu", sigma_w2=[1.0, 3.0], sigma_b2=[0.05])
    [start] = diagram.unbounded_from
    for sigma_w2, is_finite in ((start * (1 - 1e-5), True), (start * (1 + 1e-5), False)):
        network = solve_mean_field("gelu", sigma_w2=sigma_w2, sigma_b2=0.05)
        assert math.isfinite(network.q_star) == is_finite
    assert diagram.edge == ()
    assert map_phases("gelu", sigma_w2=[3.0], sigma_b2=[0.05]).unbounded_from == pytest.approx(
        [start], rel=1e-5
    )


def test_what_stays_finite_explodes_nowhere(erf: vp.PhaseDiagram) -> None:
    assert set(erf.unbounded_from) == {math.inf}


def test_it_says_what_it_is() -> None:
    assert repr(map_phases("relu", sigma_w2=[1.0, 2.0, 3.0], sigma_b2=[0.0])) == (
        "<PhaseDiagram of relu: 3 networks (1 ordered, 1 critical, 1 chaotic), edge of chaos at "
        "sigma_w2 2>"
    )
    assert repr(map_phases("softplus", sigma_w2=[1.0], sigma_b2=[0.1])).endswith(
        "(1 ordered), no edge of chaos>"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sigma_b2": []}, "sigma_b2 is empty"),
        ({"sigma_w2": []}, "sigma_w2 is empty"),
        ({"sigma_b2": [-0.1]}, r"sigma_b2 is a variance, finite and >= 0, got -0\.1"),
        ({"sigma_w2": [0.0]}, r"sigma_w2 is a variance times the width, .* got 0\.0"),
        ({"sigma_w2": [math.inf]}, "got inf"),
        ({"sigma_b2": [math.nan]}, "got nan"),
    ],
)
def test_variances_out_of_range_are_errors(arguments: dict[str, list[float]], message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        map_phases("erf", **arguments)


def test_an_unknown_name_is_an_error() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'tanh'"):
        map_phases("tan")


def test_the_edge_is_that_of_the_mean_field() -> None:
    [edge] = map_phases("erf", sigma_w2=[1.0], sigma_b2=[0.2]).edge
    assert repr(edge) == repr(find_edge_of_chaos("erf", sigma_b2=0.2))
