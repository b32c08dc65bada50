import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, strategies as st

from varprobe.errors import InvalidArgumentError
from varprobe.theory.kaiming import (
    Layer,
    compute_log_variance,
    compute_width_variance,
    default_variance,
    find_bias_fixed_point,
    kaiming_variance,
    propagate,
    rectifier_gain_squared,
    xavier_variance,
)
from varprobe.theory.nonlinearities import get_nonlinearity

RELU = get_nonlinearity("relu")


def square(width, variance, nonlinearity=RELU, bias=0.0):
    return Layer(
        fan_in=width,
        fan_out=width,
        weight_variance=variance,
        bias_variance=bias,
        nonlinearity=nonlinearity,
    )


def simulate(layers, draws, seed=0):
    """Return activations and gradients of dense nets of these layers, means of squares a draw."""
    rng = np.random.default_rng(seed)
    forward, backward = np.empty((draws, len(layers))), np.empty((draws, len(layers) + 1))
    for draw in range(draws):
        h = rng.standard_normal(layers[0].fan_in)
        h *= math.sqrt(h.size) / np.linalg.norm(h)
        kept = []
        for index, layer in enumerate(layers):
            shape = (layer.fan_out, layer.fan_in)
            weight = rng.standard_normal(shape) * math.sqrt(layer.weight_variance)
            bias = rng.standard_normal(layer.fan_out) * math.sqrt(layer.bias_variance)
            z = weight @ h + bias
            h = layer.nonlinearity(z)
            kept.append((weight, layer.nonlinearity.derivative(z)))
            forward[draw, index] = np.mean(h**2)
        g = rng.standard_normal(h.size)
        for index, (weight, slope) in reversed(list(enumerate(kept))):
            g = g * slope
            backward[draw, index + 1] = np.mean(g**2)
            g = weight.T @ g
        backward[draw, 0] = np.mean(g**2)
    return forward, backward


def within_errors(samples, expected):
    error = samples.std(axis=0, ddof=1) / math.sqrt(len(samples))
    # Four standard errors at each of some ten layers, which are correlated: P < 1e-3.
    return np.all(np.abs(samples.mean(axis=0) - expected) < 4 * error)


def test_the_standard_deviations_of_he_2015():
    stds = [math.sqrt(kaiming_variance(9 * width)) for width in (64, 128, 256, 512)]
    assert [f"{std:.4f}" for std in stds] == ["0.0589", "0.0417", "0.0295", "0.0208"]


def test_the_attenuation_of_he_2015():
    # Section 2.2: std 0.01 for He's; nine convolutions from conv10's output to conv2's input.
    channels = [64, 64, 128, 128, 256, 256, 512, 512, 512, 512]
    layers = [
        Layer(fan_in=9 * before, fan_out=9 * after, weight_variance=1e-4, nonlinearity=RELU)
        for before, after in pairwise(channels)
    ]
    attenuation = propagate(layers).input_gradient ** -0.5
    assert attenuation == pytest.approx(16_729, abs=1)
    # The paper multiplies rounded ratios, 5.9 × 4.2² × 2.9² × 2.1⁴: within 2 %.
    assert attenuation == pytest.approx(5.9 * 4.2**2 * 2.9**2 * 2.1**4, rel=0.02)


@pytest.mark.parametrize("slope", [0.0, 0.01, 0.25, 1.0])
def test_he_keeps_both_second_moments_of_a_leaky_net_at_every_depth(slope):
    phi = get_nonlinearity("leaky_relu", negative_slope=slope)
    variance = kaiming_variance(300, gain_squared=rectifier_gain_squared(slope))
    moments = propagate([square(300, variance, phi)] * 30)
    half = (1 + slope**2) / 2
    assert moments.pre_activation == pytest.approx(np.full(30, 1 / half), rel=1e-12)
    assert moments.activation == pytest.approx(np.ones(30), rel=1e-12)
    assert moments.input_gradient == pytest.approx(1.0, rel=1e-12)


@pytest.mark.parametrize("depth", [22, 30])
def test_xavier_halves_a_relu_net_at_every_layer(depth):
    moments = propagate([square(256, xavier_variance(256, 256))] * depth)
    assert moments.activation == pytest.approx(0.5 ** np.arange(1, depth + 1), rel=1e-12)
    assert moments.input_gradient == pytest.approx(0.5**depth, rel=1e-12)


def test_fan_in_keeps_the_forward_pass_and_fan_out_the_backward_pass():
    widths = [(100, 400), (400, 50), (50, 200)]
    for fan, forward, backward in [(0, 1.0, 200 / 100), (1, 100 / 200, 1.0)]:
        layers = [
            Layer(
                fan_in=fans[0],
                fan_out=fans[1],
                weight_variance=kaiming_variance(fans[fan]),
                nonlinearity=RELU,
            )
            for fans in widths
        ]
        moments = propagate(layers)
        assert moments.activation[-1] == pytest.approx(forward, rel=1e-12)
        assert moments.input_gradient == pytest.approx(backward, rel=1e-12)


def test_the_default_falls_by_six_to_the_fixed_point_of_its_bias():
    n = 256
    variance = default_variance(n)
    moments = propagate([square(n, variance, bias=variance)] * 30, input_second_moment=1e6)
    q = moments.pre_activation
    fixed_point = find_bias_fixed_point(1 / 6, variance)
    assert fixed_point == pytest.approx(1 / (3 * n) / (1 - 1 / 6), rel=1e-15)
    assert q[-1] == pytest.approx(fixed_point, rel=1e-12)
    assert (q[1] - fixed_point) / (q[0] - fixed_point) == pytest.approx(1 / 6, rel=1e-12)
    assert moments.input_gradient == pytest.approx(6.0**-30, rel=1e-12)


def test_without_a_fixed_point_there_is_none():
    assert find_bias_fixed_point(1.0, 0.1) == math.inf
    assert find_bias_fixed_point(0.5, 0.0) == 0
    with pytest.raises(InvalidArgumentError, match="every second moment is a fixed point"):
        find_bias_fixed_point(1.0, 0.0)


def test_a_stack_without_layers_is_refused():
    with pytest.raises(InvalidArgumentError, match="at least one layer, got none"):
        propagate([])


@given(scale=st.floats(1e-6, 1e6), gradient=st.floats(1e-6, 1e6))
def test_a_rectifier_net_is_homogeneous(scale, gradient):
    layers = [square(64, kaiming_variance(64))] * 5
    one = propagate(layers)
    other = propagate(layers, input_second_moment=scale, output_gradient=gradient)
    assert other.activation == pytest.approx(scale * one.activation, rel=1e-12)
    assert other.gradient == pytest.approx(gradient * one.gradient, rel=1e-12)


@pytest.mark.parametrize("name", ["relu", "tanh", "gelu"])
def test_second_moments_equal_those_of_random_nets(name):
    phi = get_nonlinearity(name)
    # GELU amplifies deviations, so that its 1/n bias stays below the error only if wide.
    layers = [square(300, 1.5 / 300, phi, bias=0.1)] * 5
    moments = propagate(layers)
    forward, backward = simulate(layers, draws=60)
    assert within_errors(forward, moments.activation)
    assert within_errors(backward[:, 1:], moments.gradient)
    assert within_errors(backward[:, 0], moments.input_gradient)


def test_relu_adds_five_over_the_width():
    assert float(compute_width_variance("relu", 3.0, 50)) == pytest.approx(0.1, rel=1e-12)


def test_the_relative_variance_of_a_deep_relu_net_is_that_of_hanin_and_rolnick():
    n, depth = 64, 10
    layers = [square(n, kaiming_variance(n))] * depth
    variance = compute_log_variance(layers, propagate(layers).pre_activation)
    assert np.expm1(variance) == pytest.approx((1 + 5 / n) ** np.arange(1, depth + 1) - 1)
    # ln(1 + 5/n) is below 5/n by (5/n)² / 2, here 4 % of it.
    assert variance[-1] == pytest.approx(5 * depth / n, rel=0.04)


@pytest.mark.parametrize("name", ["relu", "tanh"])
def test_the_log_variance_equals_that_of_random_nets(name):
    n, draws = 64, 1500
    phi = get_nonlinearity(name)
    bias = 0.0 if name == "relu" else 0.1
    layers = [square(n, 2 / n, phi, bias)] * 6
    predicted = compute_log_variance(layers, propagate(layers).pre_activation)
    forward, _ = simulate(layers, draws)
    measured = np.log(forward).var(axis=0, ddof=1)
    # The variance of a near normal scatters by sqrt(2 / draws) = 3.7 %, four of which are 15 %;
    # the formula is first order in 1/n, which at 64 adds some 5 %.
    assert measured == pytest.approx(predicted, rel=0.2)


def test_the_repr_says_where_it_ends():
    moments = propagate([square(64, kaiming_variance(64))] * 3)
    assert repr(moments) == "StackMoments(3 layers: activation 1 to 1, input gradient 1)"
