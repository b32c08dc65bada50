import math

import numpy as np
import pytest
from hypothesis import given, strategies as st
from scipy.special import erf

from tests.reference.gaussian_integrals import integrate_pair
from varprobe.errors import InvalidArgumentError, VarprobeWarning
from varprobe.theory.quadrature import clip_correlation, expect, expect_pair


def relu(x):
    return np.maximum(x, 0)


def step(x):
    return np.where(x > 0, 1.0, 0.0)


def hardtanh(x):
    return np.clip(x, -1, 1)


@given(
    mean=st.floats(-50, 50),
    spread=st.floats(1e-3, 30),
    power=st.integers(0, 4),
)
def test_polynomials_have_the_moments_of_a_gaussian(mean, spread, power):
    exact = {
        0: 1.0,
        1: mean,
        2: mean**2 + spread**2,
        3: mean**3 + 3 * mean * spread**2,
        4: mean**4 + 6 * mean**2 * spread**2 + 3 * spread**4,
    }[power]
    # 1e-13 of E |x|^power, which (|mean| + 2 spread)^power bounds for power <= 4.
    scale = (abs(mean) + 2 * spread) ** power
    assert float(expect(lambda x: x**power, spread**2, mean)) == pytest.approx(
        exact, abs=1e-13 * scale
    )


@pytest.mark.parametrize("rate", [-10.0, 1.0, 10.0])
def test_an_exponential_has_its_closed_form(rate):
    # The integrand peaks `rate` standard deviations out.
    assert float(expect(lambda x: np.exp(rate * x), 1.0)) == pytest.approx(
        math.exp(rate**2 / 2), rel=1e-12
    )


@pytest.mark.parametrize("place", [0.0, 0.123456, -7.5])
def test_a_kink_that_is_not_named_costs_no_accuracy(place):
    variances = np.array([1e-2, 1.0, 100.0])
    named = expect(lambda x: np.abs(x - place), variances, kinks=[place])
    assert expect(lambda x: np.abs(x - place), variances) == pytest.approx(named, rel=1e-13)


def test_a_variance_of_zero_gives_the_value_at_the_mean_and_both_sides_of_a_kink():
    assert expect(np.square, 0.0, [2.0, -3.0]) == pytest.approx([4.0, 9.0], rel=1e-14)
    assert float(expect(step, 0.0, kinks=[0.0])) == pytest.approx(0.5, abs=1e-15)


def test_variance_and_mean_broadcast():
    values = expect(np.square, np.ones((3, 1)), np.zeros(5000))
    assert values.shape == (3, 5000)
    assert values == pytest.approx(np.ones((3, 5000)), rel=1e-13)


@pytest.mark.parametrize("variance", [-1.0, math.nan, math.inf])
def test_a_variance_that_is_none_is_refused(variance):
    with pytest.raises(InvalidArgumentError, match="variance is a finite number >= 0, got"):
        expect(np.tanh, [1.0, variance])


def test_a_noisy_function_ends_with_a_warning_and_a_good_number():
    with pytest.warns(VarprobeWarning, match="did not converge"):
        value = expect(lambda x: np.tanh(x.astype(np.float32)).astype(np.float64) ** 2, 1.0)
    exact = float(expect(lambda x: np.tanh(x) ** 2, 1.0))
    assert float(value) == pytest.approx(exact, rel=1e-6)


def test_nan_is_passed_on():
    assert math.isnan(float(expect(lambda x: np.where(x > 1, np.nan, x), 1.0)))


@pytest.mark.parametrize("rho", [-1.0, -0.999, -0.3, 0.0, 0.5, 0.99, 1 - 1e-9, 1.0])
@pytest.mark.parametrize(("q1", "q2"), [(1.0, 1.0), (1e-4, 1e-4), (100.0, 101.0), (0.1, 50.0)])
def test_pairs_equal_the_arc_cosine_kernel_of_relu(q1, q2, rho):
    angle, scale = math.acos(rho), math.sqrt(q1 * q2)
    exact = scale * (math.sin(angle) + (math.pi - angle) * rho) / (2 * math.pi)
    assert expect_pair(relu, relu, q1, q2, rho, [0.0]) == pytest.approx(exact, abs=1e-13 * scale)
    slopes = expect_pair(step, step, q1, q2, rho, [0.0])
    assert slopes == pytest.approx((math.pi - angle) / (2 * math.pi), abs=1e-13)


@pytest.mark.parametrize("rho", [-0.9, 0.0, 0.5, 1 - 1e-9, 1.0])
@pytest.mark.parametrize(("q1", "q2"), [(1.0, 1.0), (1e-4, 1.0), (100.0, 101.0), (1e4, 1e4)])
def test_pairs_equal_the_arc_sine_kernel_of_erf(q1, q2, rho):
    covariance = rho * math.sqrt(q1 * q2)
    exact = 2 / math.pi * math.asin(2 * covariance / math.sqrt((1 + 2 * q1) * (1 + 2 * q2)))
    # arcsin turns the rounding of its argument into its square root near 1.
    assert expect_pair(erf, erf, q1, q2, rho) == pytest.approx(exact, rel=1e-11, abs=1e-13)


@pytest.mark.parametrize("rho", [-0.8, 0.3, 0.95])
@pytest.mark.parametrize(("q1", "q2"), [(1.0, 1.0), (0.5, 8.0)])
def test_pairs_with_several_kinks_equal_nested_quadrature(q1, q2, rho):
    exact = integrate_pair(
        lambda u: max(-1.0, min(1.0, u)), lambda v: max(v, 0.0) ** 2, q1, q2, rho, (-1.0, 1.0)
    )
    value = expect_pair(hardtanh, lambda v: relu(v) ** 2, q1, q2, rho, [-1.0, 0.0, 1.0])
    # The nested rule stops at 1e-11 per integral.
    assert value == pytest.approx(exact, abs=1e-9)


def test_correlations_are_clipped_of_rounding_and_of_nothing_else():
    assert clip_correlation(np.array([1 + 1e-9, -1 - 1e-9])).tolist() == [1.0, -1.0]
    for wrong in (1.1, math.nan):
        with pytest.raises(InvalidArgumentError, match="correlation lies between -1 and 1"):
            clip_correlation(np.array([0.0, wrong]))
