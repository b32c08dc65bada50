"""The formulas against torch and autograd; their integrals against mpmath and nested quadrature."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from tests.reference.gaussian_integrals import (
    FUNCTIONS,
    INTEGRANDS,
    PARAMETERS,
    integrate,
    integrate_pair,
)
from varprobe.errors import InvalidArgumentError
from varprobe.theory.activations import NONLINEARITIES
from varprobe.theory.integrals import Nonlinearity
from varprobe.theory.nonlinearities import get_nonlinearity
from varprobe.theory.quadrature import expect

TORCH = {
    "relu": F.relu,
    "leaky_relu": lambda x: F.leaky_relu(x, 0.2),
    "prelu": lambda x: F.prelu(x, torch.tensor([0.25], dtype=x.dtype)),
    "erf": torch.erf,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "silu": F.silu,
    "mish": F.mish,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "softplus": lambda x: F.softplus(x, threshold=1000),
    "softsign": F.softsign,
    "elu": F.elu,
    "elu_half": lambda x: F.elu(x, alpha=0.5),
    "celu": lambda x: F.celu(x, alpha=2.0),
    "selu": F.selu,
    "hardtanh": F.hardtanh,
    "relu6": F.relu6,
    "hardsigmoid": F.hardsigmoid,
    "hardswish": F.hardswish,
    "identity": lambda x: x * 1,
}

CLOSED = ["identity", "relu", "leaky_relu", "erf", "gelu"]


def build(name: str) -> Nonlinearity:
    registered, parameters = PARAMETERS.get(name, (name, {}))
    return get_nonlinearity(registered, **parameters)


def test_every_nonlinearity_has_a_twin():
    built = {PARAMETERS.get(name, (name,))[0] for name in FUNCTIONS}
    assert built == set(NONLINEARITIES) - {"linear", "swish"}
    assert set(TORCH) == set(FUNCTIONS)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_function_and_derivative_equal_those_of_torch(name):
    phi = build(name)
    # Off the kinks, where the derivative is a matter of taste; far out, where things overflow.
    x = np.concatenate([np.linspace(-12, 12, 402), [-1e6, -700.0, 700.0, 1e6]])
    tensor = torch.tensor(x, requires_grad=True)
    y = TORCH[name](tensor)
    (slope,) = torch.autograd.grad(y.sum(), tensor)
    assert phi(x) == pytest.approx(y.detach().numpy(), rel=1e-13, abs=1e-14)
    # torch has the sixth in the slope of hardsigmoid in single precision.
    assert phi.derivative(x) == pytest.approx(slope.numpy(), rel=3e-8, abs=1e-13)


@pytest.mark.parametrize("variance", [1e-4, 1.0, 100.0])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_integrals_equal_those_of_mpmath(name, variance):
    check_integrals(name, variance, 0.0)


@pytest.mark.slow
@pytest.mark.parametrize("mean", [-3.0, 0.7])
@pytest.mark.parametrize("variance", [1e-4, 1e-2, 0.3, 4.0, 30.0, 100.0])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_integrals_with_a_mean_equal_those_of_mpmath(name, variance, mean):
    check_integrals(name, variance, mean)


def check_integrals(name, variance, mean):
    phi, exact = build(name), integrate(name, variance, mean)
    scale = float(exact["second_moment"]) ** 0.5
    slope = float(exact["derivative_second_moment"]) ** 0.5
    # Zero by symmetry is zero to rounding, relative to E |integrand|, which these bound.
    scales = {
        "first_moment": scale,
        "derivative_first_moment": slope,
        "derivative_product": scale * slope,
    }
    # With a mean a rectifier's closed form is a difference of terms up to mean⁴ P(x > 0), and the
    # twin stops 13 standard deviations out, where the density is 1e-37.
    crossing = math.erfc(abs(mean) / math.sqrt(2 * variance))
    cancelled = 1e-14 * mean**4 * crossing + 1e-30 if mean else 0.0
    for integral in INTEGRANDS:
        value = float(getattr(phi, integral)(variance, mean))
        expected = float(exact[integral])
        tolerance = 1e-12 * max(abs(expected), scales.get(integral, 0.0)) + cancelled
        assert value == pytest.approx(expected, rel=0, abs=tolerance), integral


@pytest.mark.parametrize("variance", [1e12, 1e16, 1e24])
def test_closed_forms_keep_their_digits_at_large_variances(variance):
    # Far out GELU is a ReLU, up to variance^(-3/2) of it, and erf the sign, but for |x| of order 1.
    gelu, erf = build("gelu"), build("erf")
    assert float(gelu.second_moment(variance)) == pytest.approx(variance / 2, rel=1e-14)
    missing = 1 - float(erf.second_moment(variance))
    assert missing == pytest.approx(2 / math.pi / math.sqrt(variance), abs=4e-16)


@pytest.mark.parametrize("name", CLOSED)
def test_closed_forms_equal_the_quadrature_they_replace(name):
    phi = build(name)
    plain = Nonlinearity(phi.name, phi.function, phi.derivative, phi.kinks)
    q, mean = np.array([0, 1e-4, 0.1, 1.0, 10.0, 100.0]), np.array([0, 0.3, -2.0])[:, None]
    for integral in INTEGRANDS:
        closed, numeric = getattr(phi, integral)(q, mean), getattr(plain, integral)(q, mean)
        assert closed == pytest.approx(numeric, rel=1e-12, abs=1e-13), integral
    rho = np.array([-1, -0.999, -0.3, 0, 0.7, 0.99999, 1])
    for pair in ("pair_moment", "pair_derivative_moment", "pair_square_moment"):
        for q1, q2 in [(1.3, 0.4), (0.01, 0.01), (50.0, 60.0)]:
            closed, numeric = getattr(phi, pair)(q1, q2, rho), getattr(plain, pair)(q1, q2, rho)
            # arccos and arcsin near their ends halve the digits of a correlation.
            assert closed == pytest.approx(numeric, rel=1e-10, abs=1e-12), pair


@pytest.mark.parametrize("name", ["elu", "hardswish", "silu", "gelu", "selu"])
def test_pair_moments_equal_nested_quadrature(name):
    function, kinks = FUNCTIONS[name]
    exact = integrate_pair(
        lambda u: float(build(name)(u)), lambda v: float(function(v)), 0.8, 1.5, 0.6, kinks
    )
    # The nested rule stops at 1e-11 per integral.
    assert float(build(name).pair_moment(0.8, 1.5, 0.6)) == pytest.approx(exact, abs=1e-9)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_slope_of_the_second_moment_is_its_derivative(name):
    phi = build(name)
    for q in (0.05, 1.0, 20.0):
        h = 1e-4 * q
        up, down = phi.second_moment([q + h, q - h])
        # The central difference is off by h² f''' / 6 ~ 1e-8 f / q, and by rounding 1e-13 f / h.
        slope = float(phi.second_moment_slope(q))
        assert slope == pytest.approx((up - down) / (2 * h), rel=1e-6, abs=1e-8 * up / q)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_pairs_are_the_single_integrals_at_correlation_one_and_zero(name):
    phi, q = build(name), 1.7
    assert float(phi.pair_moment(q, q, 1.0)) == pytest.approx(
        float(phi.second_moment(q)), rel=1e-11
    )
    assert float(phi.pair_derivative_moment(q, q, 1.0)) == pytest.approx(
        float(phi.derivative_second_moment(q)), rel=1e-11
    )
    assert float(phi.pair_square_moment(q, q, 1.0)) == pytest.approx(
        float(phi.fourth_moment(q)), rel=1e-11
    )
    assert float(phi.pair_moment(q, q, 0.0)) == pytest.approx(
        float(phi.first_moment(q)) ** 2, rel=1e-11, abs=1e-13
    )


@pytest.mark.parametrize(
    ("name", "mean", "second_moment", "gain"),
    # THEORY: E φ, E φ², 1 / sqrt(E φ²) under N(0, 1), four digits.
    [
        ("relu", 0.3989, 0.5, 1.4142),
        ("leaky_relu", 0.3192, 0.52, 1.3868),
        ("tanh", 0.0, 0.3943, 1.5925),
        ("gelu", 0.2821, 0.4252, 1.5335),
        ("silu", 0.2066, 0.3558, 1.6765),
        ("elu", 0.1605, 0.6449, 1.2452),
        ("selu", 0.0, 1.0, 1.0),
        ("mish", 0.2404, 0.4523, 1.4868),
        ("hardswish", 0.1662, 0.3316, 1.7367),
    ],
)
def test_gains(name, mean, second_moment, gain):
    phi = build(name)
    assert float(phi.first_moment(1.0)) == pytest.approx(mean, abs=6e-5)
    assert float(phi.second_moment(1.0)) == pytest.approx(second_moment, abs=6e-5)
    assert phi.gain == pytest.approx(gain, abs=6e-5)


@pytest.mark.parametrize(
    ("name", "gamma"), [("relu", 1.7129), ("gelu", 1.7009), ("silu", 1.7872), ("elu", 1.2708)]
)
def test_gammas_of_normalizer_free_networks(name, gamma):
    # Brock, De and Smith 2021: 1 / std(φ(z)); ReLU's is sqrt(2 / (1 - 1/π)).
    phi = build(name)
    variance = float(phi.second_moment(1.0) - phi.first_moment(1.0) ** 2)
    assert variance**-0.5 == pytest.approx(gamma, abs=6e-5)
    if name == "relu":
        assert variance**-0.5 == pytest.approx(math.sqrt(2 / (1 - 1 / math.pi)), rel=1e-12)


@pytest.mark.parametrize("q", [0.1, 1.0, 10.0])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_stein(name, q):
    # E x φ(x) = q E φ'(x): ties function and derivative together through the kinks.
    phi = build(name)
    left = float(expect(lambda x: x * phi(x), q, kinks=phi.kinks))
    assert left == pytest.approx(q * float(phi.derivative_first_moment(q)), rel=1e-12)


def test_a_gelu_that_does_not_exist():
    with pytest.raises(InvalidArgumentError, match=r"\"none\" or \"tanh\" as in torch, got 'erf'"):
        get_nonlinearity("gelu", approximate="erf")
