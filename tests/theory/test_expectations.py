"""Pair expectations against two-dimensional quadrature of the same functions."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from varprobe.theory.expectations import Field, expect_at
from varprobe.theory.explicit import ExplicitPairs
from varprobe.theory.pointwise import IDENTITY, Pointwise, differentiate
from varprobe.theory.quadrature import expect_pair

COVARIANCE = torch.tensor([[1.3, 0.8], [0.8, 0.7]], dtype=torch.float64)
CORRELATION = 0.8 / math.sqrt(1.3 * 0.7)

# The midpoint rule has 4,000 nodes 0.005 apart: an error of h²/24 at a kink away from 0 and of
# h/2 times the density at a step away from 0; the series is cut at ρ^40, where its rest is at most
# the square of the function's tail.
CASES = {
    "relu": (torch.relu, [0.0], 1e-9),
    "leaky": (lambda x: F.leaky_relu(x, 0.2), [0.0], 1e-9),
    "tanh": (torch.tanh, [], 1e-8),
    "gelu": (F.gelu, [], 1e-8),
    "hardtanh": (F.hardtanh, [-1.0, 1.0], 2e-4),
}


def make_field(covariance=COVARIANCE, mean=0.0):
    values = torch.stack([covariance, covariance]) + mean**2
    means = torch.full((len(covariance),), mean, dtype=torch.float64)
    return Field(ExplicitPairs(values, 2), means, gaussian=True)


def as_numpy(function):
    return lambda x: function(torch.from_numpy(np.ascontiguousarray(x))).numpy()


@pytest.mark.parametrize("name", CASES)
def test_products_of_values(name):
    function, kinks, tolerance = CASES[name]
    found = make_field().expect_pairs(Pointwise(function)).values[0, 0, 1]
    exact = expect_pair(as_numpy(function), as_numpy(function), 1.3, 0.7, CORRELATION, kinks)
    assert float(found) == pytest.approx(exact, rel=tolerance)


@pytest.mark.parametrize(
    ("name", "tolerance"), [("relu", 1e-9), ("tanh", 1e-8), ("hardtanh", 5e-3)]
)
def test_products_of_slopes(name, tolerance):
    function, kinks, _ = CASES[name]
    slope = lambda x: differentiate(function, x)  # noqa: E731
    found = make_field().expect_pairs(Pointwise(slope)).values[0, 0, 1]
    exact = expect_pair(as_numpy(slope), as_numpy(slope), 1.3, 0.7, CORRELATION, kinks)
    assert float(found) == pytest.approx(exact, rel=tolerance)


@pytest.mark.parametrize("name", ["relu", "tanh", "gelu"])
def test_derivative_of_a_slope_by_stein(name):
    # E f'(u) g(v) = E f(u) (u g(v) - cov g'(v)...) needs no second derivative only for steps; here
    # it is checked as the derivative by the mean of u, a central difference of 1e-3.
    function = CASES[name][0]
    slope = Pointwise(lambda x: differentiate(function, x))
    weighed = slope * IDENTITY
    found = float(make_field().expect_slope_pairs(slope, weighed).values[0, 0, 1])
    step = 1e-3
    kinks = [0.0, -step, step] if name == "relu" else []

    def at(shift):
        return expect_pair(
            as_numpy(lambda x: slope(x + shift)),
            as_numpy(weighed),
            1.3,
            0.7,
            CORRELATION,
            kinks,
        )

    assert found == pytest.approx((at(step) - at(-step)) / (2 * step), rel=1e-4)


def test_a_mean_is_part_of_the_field():
    found = make_field(mean=-0.7).expect(Pointwise(torch.relu))[0]
    spread, mean = math.sqrt(1.3), -0.7
    density = math.exp(-((mean / spread) ** 2) / 2) / math.sqrt(2 * math.pi)
    above = 0.5 * math.erfc(-mean / spread / math.sqrt(2))
    exact = spread * density + mean * above
    # The kink is 0.7 from the mean: an error of h²/24 times the density.
    assert float(found) == pytest.approx(exact, rel=1e-5)


def test_narrowing_is_exact_for_a_vector_of_fixed_length():
    # On the sphere in n dimensions of radius sqrt(n), E x⁴ = 3 n/(n+2): short by 2/(n+2) = r/(1+r)
    # with r = 2/n. A quartic is the highest power that a second difference of the scale sees whole.
    n = 12
    field = make_field(torch.eye(2, dtype=torch.float64))
    narrow = Field(field.pairs, field.means, gaussian=True, narrowing=2 / (n + 2))
    fourth = narrow.expect(Pointwise(lambda x: x**4))[0]
    assert float(fourth) == pytest.approx(3 * n / (n + 2), rel=1e-9)
    assert float(narrow.expect(Pointwise(lambda x: x**2))[0]) == pytest.approx(1, rel=1e-9)
    assert narrow.expect_pairs(Pointwise(torch.relu)).mean == pytest.approx(0.5, rel=1e-9)


def test_two_slopes_and_two_levels_are_recognised_whatever_computes_them():
    assert Pointwise(lambda x: (x + x.abs()) / 2).slopes == pytest.approx((1, 0))
    assert Pointwise(lambda x: (x > 0).double()).levels == pytest.approx((1, 0))
    assert Pointwise(torch.tanh).slopes is None
    assert Pointwise(lambda x: x + 1).slopes is None


def test_expectation_of_one_variable():
    assert expect_at(Pointwise(torch.square), 2.0, 1.0) == pytest.approx(5.0, rel=1e-12)
