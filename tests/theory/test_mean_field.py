import math

import mpmath as mp
import numpy as np
import pytest
from hypothesis import given, strategies as st

from tests.reference.gaussian_integrals import integrate
from varprobe.errors import InvalidArgumentError
from varprobe.theory.mean_field import (
    find_edge_of_chaos,
    find_length_fixed_points,
    map_correlation,
    map_correlation_slope,
    map_length,
    solve_mean_field,
)
from varprobe.theory.nonlinearities import get_nonlinearity


@pytest.mark.parametrize(
    ("sigma_b2", "sigma_w2", "q_star"),
    # THEORY section 7, four and three digits.
    [(0.01, 1.4242, 0.273), (0.05, 1.7610, 0.570), (0.1, 1.9861, 0.806), (0.3, 2.5051, 1.461)],
)
def test_the_edge_of_chaos_of_tanh(sigma_b2, sigma_w2, q_star):
    edge = find_edge_of_chaos("tanh", sigma_b2=sigma_b2)
    assert edge.sigma_w2 == pytest.approx(sigma_w2, abs=6e-5)
    assert edge.q_star == pytest.approx(q_star, abs=6e-4)
    assert edge.chi == pytest.approx(1, abs=1e-10)
    assert edge.phase == "critical"
    assert edge.xi_gradient == edge.xi_c == math.inf
    assert 0 < edge.xi_q < 5
    exact = integrate("tanh", edge.q_star)
    reproduced = edge.sigma_w2 * exact["second_moment"] + sigma_b2
    assert float(reproduced) == pytest.approx(edge.q_star, rel=1e-10)
    assert float(edge.sigma_w2 * exact["derivative_second_moment"]) == pytest.approx(1, rel=1e-10)


@pytest.mark.parametrize(
    ("sigma_w2", "chi", "xi", "phase"),
    [(1.3, 0.880, 7.83, "ordered"), (2.5, 1.133, 7.98, "chaotic")],
)
def test_the_phases_of_tanh(sigma_w2, chi, xi, phase):
    field = solve_mean_field("tanh", sigma_w2=sigma_w2, sigma_b2=0.05)
    assert field.chi == pytest.approx(chi, abs=6e-4)
    assert field.xi_gradient == pytest.approx(xi, abs=6e-3)
    assert field.phase == phase


def test_in_the_ordered_phase_all_inputs_become_one():
    field = solve_mean_field("tanh", sigma_w2=1.3, sigma_b2=0.05)
    assert field.c_star == 1
    assert field.chi_c == pytest.approx(field.chi, rel=1e-10)
    assert field.xi_c == pytest.approx(field.xi_gradient, rel=1e-9)


def test_in_the_chaotic_phase_inputs_keep_a_distance():
    field = solve_mean_field("tanh", sigma_w2=2.5, sigma_b2=0.05)
    mapped = map_correlation("tanh", field.c_star, q=field.q_star, sigma_w2=2.5, sigma_b2=0.05)
    assert 0 < field.c_star < 1
    assert float(mapped) == pytest.approx(field.c_star, abs=1e-10)
    assert field.chi_c < 1
    # Iterating the maps from two nearly equal inputs ends there.
    c = 0.999
    for _ in range(400):
        c = float(map_correlation("tanh", c, q=field.q_star, sigma_w2=2.5, sigma_b2=0.05))
    assert c == pytest.approx(field.c_star, abs=1e-9)


def test_an_odd_function_without_biases_makes_inputs_orthogonal():
    field = solve_mean_field("tanh", sigma_w2=1.5)
    assert (field.c_star, field.phase) == (0.0, "chaotic")


def test_the_map_length_equals_mpmath():
    for q in (0.01, 1.0, 30.0):
        exact = 1.7 * integrate("tanh", q)["second_moment"] + mp.mpf(0.2)
        value = float(map_length("tanh", q, sigma_w2=1.7, sigma_b2=0.2))
        assert value == pytest.approx(float(exact), rel=1e-12)


@given(c=st.floats(-1, 1), q=st.floats(1e-3, 1e3))
def test_the_correlation_map_of_relu_is_the_arc_cosine(c, q):
    exact = (math.sqrt(1 - c * c) + c * (math.pi - math.acos(c))) / math.pi
    assert float(map_correlation("relu", c, q=q, sigma_w2=2.0)) == pytest.approx(exact, abs=1e-14)


def test_the_correlation_map_of_relu_at_zero_is_one_over_pi():
    assert float(map_correlation("relu", 0.0, sigma_w2=2.0)) == pytest.approx(
        1 / math.pi, rel=1e-15
    )


@pytest.mark.parametrize("name", ["tanh", "relu", "gelu", "elu", "silu"])
@pytest.mark.parametrize("c", [-0.5, 0.1, 0.8])
def test_the_slope_of_the_correlation_map_is_its_derivative(name, c):
    setting = {"q": 1.4, "sigma_w2": 1.6, "sigma_b2": 0.1}
    h = 1e-4
    up, down = map_correlation(name, [c + h, c - h], **setting)
    slope = float(map_correlation_slope(name, c, **setting))
    # The central difference is off by h² c''' / 6, some 1e-8, and by rounding 1e-12 / h.
    assert slope == pytest.approx((up - down) / (2 * h), abs=1e-7)


@pytest.mark.parametrize(
    ("name", "sigma_w2", "sigma_b2"),
    [("tanh", 2.5, 0.05), ("relu", 1.5, 0.3), ("gelu", 1.5, 0.3), ("elu", 1.2, 0.1)],
)
def test_the_maps_equal_a_wide_random_net(name, sigma_w2, sigma_b2):
    n, depth, draws = 1000, 4, 12
    phi, rng = get_nonlinearity(name), np.random.default_rng(1)
    measured = np.empty((draws, depth, 2))
    for draw in range(draws):
        # Two inputs whose second moments are 1 and whose correlation is 0.5, exactly.
        basis = np.linalg.qr(rng.standard_normal((n, 2)))[0] * math.sqrt(n)
        h = basis @ np.array([[1.0, 0.5], [0.0, math.sqrt(0.75)]])
        for layer in range(depth):
            weight = rng.standard_normal((n, n)) * math.sqrt(sigma_w2 / n)
            z = weight @ h + rng.standard_normal((n, 1)) * math.sqrt(sigma_b2)
            q = (z.T @ z) / n
            measured[draw, layer] = q[0, 0], q[0, 1] / math.sqrt(q[0, 0] * q[1, 1])
            h = phi(z)
    q, c = sigma_w2 + sigma_b2, (0.5 * sigma_w2 + sigma_b2) / (sigma_w2 + sigma_b2)
    for layer in range(depth):
        error = measured[:, layer].std(axis=0, ddof=1) / math.sqrt(draws)
        # Five errors of 12 draws (t with 11 degrees: P = 4e-4 each), and the bias of order 1/n.
        assert np.abs(measured[:, layer].mean(axis=0) - (q, c)) == pytest.approx(
            0, abs=(5 * error + 3 / n).max()
        )
        c = float(map_correlation(phi, c, q=q, sigma_w2=sigma_w2, sigma_b2=sigma_b2))
        q = float(map_length(phi, q, sigma_w2=sigma_w2, sigma_b2=sigma_b2))


def test_relu_is_critical_at_two_for_every_length():
    for start in (0.3, 1.0, 40.0):
        field = solve_mean_field("relu", sigma_w2=2.0, start=start)
        assert (field.q_star, field.phase, field.c_star) == (start, "critical", 1.0)
    edge = find_edge_of_chaos("relu")
    assert (edge.sigma_w2, edge.q_star) == pytest.approx((2.0, 1.0))


@pytest.mark.parametrize(
    ("sigma_w2", "sigma_b2", "q_star", "phase"),
    [
        (1.5, 0.1, 0.4, "ordered"),
        (1.0, 0.0, 0.0, "ordered"),
        (2.5, 0.0, math.inf, "chaotic"),
        (2.0, 0.1, math.inf, "critical"),
    ],
)
def test_the_lengths_of_relu(sigma_w2, sigma_b2, q_star, phase):
    field = solve_mean_field("relu", sigma_w2=sigma_w2, sigma_b2=sigma_b2)
    assert field.q_star == pytest.approx(q_star, rel=1e-10)
    assert field.phase == phase
    assert field.chi == pytest.approx(sigma_w2 / 2)
    assert field.c_star == 1


def test_gelu_with_unit_length_is_unstable():
    # THEORY section 7: sigma_w2 = gain² keeps q = 1, from which deviations grow by 1.144 a layer.
    gelu = get_nonlinearity("gelu")
    [point] = find_length_fixed_points(gelu, sigma_w2=gelu.gain**2)
    assert point.q == pytest.approx(1, rel=1e-9)
    assert point.slope == pytest.approx(1.144, abs=6e-4)
    assert not point.stable
    assert solve_mean_field(gelu, sigma_w2=gelu.gain**2, start=0.9).q_star == 0
    assert solve_mean_field(gelu, sigma_w2=gelu.gain**2, start=1.1).q_star == math.inf


def test_selu_has_its_fixed_point_at_one():
    field = solve_mean_field("selu", sigma_w2=1.0)
    assert field.q_star == pytest.approx(1, rel=1e-10)
    [point] = find_length_fixed_points("selu", sigma_w2=1.0)
    assert point.stable


@pytest.mark.parametrize("name", ["tanh", "erf", "elu", "hardtanh"])
def test_without_biases_the_edge_is_where_the_slope_at_zero_is_one(name):
    edge = find_edge_of_chaos(name)
    slope = float(get_nonlinearity(name).derivative_second_moment(0.0))
    assert edge.sigma_w2 == pytest.approx(1 / slope, rel=1e-9)
    assert edge.phase == "critical"


@pytest.mark.parametrize(("name", "sigma_b2"), [("relu", 0.05), ("gelu", 0.0), ("silu", 0.1)])
def test_a_nonlinearity_without_an_edge_is_told(name, sigma_b2):
    with pytest.raises(InvalidArgumentError, match=f"{name} has no edge of chaos at sigma_b2="):
        find_edge_of_chaos(name, sigma_b2=sigma_b2)


@given(sigma_w2=st.floats(0.2, 6), sigma_b2=st.floats(0.001, 2))
def test_the_limit_is_a_stable_fixed_point(sigma_w2, sigma_b2):
    field = solve_mean_field("erf", sigma_w2=sigma_w2, sigma_b2=sigma_b2)
    after = map_length("erf", field.q_star, sigma_w2=sigma_w2, sigma_b2=sigma_b2)
    assert float(after) == pytest.approx(field.q_star, rel=1e-10)
    assert field.chi_q < 1
    assert field.chi_c < 1 + 1e-6
    assert (field.c_star == 1) == (field.chi <= 1 + 1e-6)
    assert field.phase in {"ordered", "chaotic", "critical"}


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"sigma_w2": 0.0}, "sigma_w2 is a variance times the width"),
        ({"sigma_w2": math.nan}, "sigma_w2"),
        ({"sigma_w2": 1.0, "sigma_b2": -1.0}, "sigma_b2 is a variance, finite and >= 0"),
        ({"sigma_w2": 1.0, "start": 0.0}, "start is a second moment"),
    ],
)
def test_settings_that_mean_nothing_are_refused(setting, message):
    with pytest.raises(InvalidArgumentError, match=message):
        solve_mean_field("tanh", **setting)


def test_the_repr_reads():
    assert repr(solve_mean_field("tanh", sigma_w2=1.3, sigma_b2=0.05)) == (
        "MeanField(tanh, sigma_w2=1.3, sigma_b2=0.05: ordered; q*=0.3153, chi=0.8802, c*=1; "
        "layers: xi_q=1.79, xi_c=7.83, xi_gradient=7.83)"
    )
