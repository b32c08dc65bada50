"""He's analysis: second moments through a stack of layers, forward, backward and at finite width.

A layer multiplies by a random weight, adds a bias, and applies a nonlinearity φ::

    q_l = fan_in_l Var[w_l] h_(l-1) + Var[b_l]        second moment of the pre-activation
    h_l = E φ(x)²,  x ~ N(0, q_l)                     of the activation; h_0 that of the input
    g_l = fan_out_(l+1) Var[w_(l+1)] g_(l+1) E φ'(x)² of the gradient by the pre-activation

For a leaky ReLU of slope a both integrals are (1 + a²) / 2, of q_l and of 1. The variance laws that
make the factors 1 are those of `varprobe.initializers.laws`, and can be had from here.

Assumptions: independent weights of mean zero, wide layers (Gaussian pre-activations), gradients
independent of the activations that they meet.

References
----------
He, Zhang, Ren and Sun 2015 (arXiv 1502.01852), eqs. 7-15. Glorot and Bengio 2010, eqs. 5-12.
Hanin and Rolnick 2018 (arXiv 1803.01719), theorem 5; Hanin 2018 (arXiv 1801.03744).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike

from varprobe.errors import InvalidArgumentError
from varprobe.initializers.laws import (
    default_variance,
    kaiming_variance,
    lecun_variance,
    xavier_variance,
)
from varprobe.theory.integrals import Nonlinearity
from varprobe.theory.nonlinearities import get_nonlinearity
from varprobe.theory.quadrature import Array

__all__ = [
    "Layer",
    "StackMoments",
    "compute_log_variance",
    "compute_width_variance",
    "default_variance",
    "find_bias_fixed_point",
    "kaiming_variance",
    "lecun_variance",
    "propagate",
    "rectifier_gain_squared",
    "xavier_variance",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """A weighted layer and the nonlinearity behind it.

    Attributes
    ----------
    fan_in, fan_out : int
        Weights that feed one output element, and that one input element feeds.
    weight_variance, bias_variance : float
        Of one weight and of one bias.
    nonlinearity : Nonlinearity
        Behind the layer; the identity for an output layer.

    Examples
    --------
    >>> Layer(fan_in=64, fan_out=64, weight_variance=kaiming_variance(64)).forward_factor
    2.0
    """

    fan_in: int
    fan_out: int
    weight_variance: float
    bias_variance: float = 0.0
    nonlinearity: Nonlinearity = field(default_factory=lambda: get_nonlinearity("identity"))

    @property
    def forward_factor(self) -> float:
        """fan_in Var[w], by which the layer multiplies the second moment of its input."""
        return self.fan_in * self.weight_variance

    @property
    def backward_factor(self) -> float:
        """fan_out Var[w], by which it multiplies that of the gradient on the way back."""
        return self.fan_out * self.weight_variance


@dataclass(frozen=True, slots=True, kw_only=True)
class StackMoments:
    """Second moments in a stack of layers, one element a layer.

    Attributes
    ----------
    pre_activation : ndarray
        q_l, behind the weight and bias.
    activation : ndarray
        h_l, behind the nonlinearity.
    gradient : ndarray
        Of the gradient by the pre-activation.
    input_gradient : float
        Of the gradient by the input of the stack.
    """

    pre_activation: Array
    activation: Array
    gradient: Array
    input_gradient: float

    def __repr__(self) -> str:
        return (
            f"StackMoments({len(self.activation)} layers: activation {self.activation[0]:.3g} to "
            f"{self.activation[-1]:.3g}, input gradient {self.input_gradient:.3g})"
        )


def propagate(
    layers: Sequence[Layer], *, input_second_moment: float = 1.0, output_gradient: float = 1.0
) -> StackMoments:
    """Return the second moments of activations and gradients in a stack of layers.

    Parameters
    ----------
    layers : sequence of Layer
        From input to output, at least one.
    input_second_moment : float
        h_0, mean of squares of the input.
    output_gradient : float
        Second moment of the gradient by the last activation.

    Raises
    ------
    InvalidArgumentError
        If there is no layer.

    Examples
    --------
    Xavier's variance in a ReLU net of equal widths halves the second moment at every layer:

    >>> relu = get_nonlinearity("relu")
    >>> variance = xavier_variance(512, 512)
    >>> layer = Layer(fan_in=512, fan_out=512, weight_variance=variance, nonlinearity=relu)
    >>> propagate([layer] * 22)
    StackMoments(22 layers: activation 0.5 to 2.38e-07, input gradient 2.38e-07)
    """
    if not layers:
        raise InvalidArgumentError("A stack holds at least one layer, got none.")
    q, h = np.empty(len(layers)), np.empty(len(layers))
    second_moment = input_second_moment
    for index, layer in enumerate(layers):
        q[index] = layer.forward_factor * second_moment + layer.bias_variance
        second_moment = h[index] = float(layer.nonlinearity.second_moment(q[index]))
    g = np.empty(len(layers))
    gradient = output_gradient
    for index in reversed(range(len(layers))):
        layer = layers[index]
        g[index] = gradient * float(layer.nonlinearity.derivative_second_moment(q[index]))
        gradient = layer.backward_factor * g[index]
    return StackMoments(pre_activation=q, activation=h, gradient=g, input_gradient=float(gradient))


def rectifier_gain_squared(negative_slope: float = 0.0) -> float:
    """Return 2 / (1 + a²), the squared gain that a leaky ReLU of slope a needs.

    Source: He et al. 2015, eq. 15.

    Examples
    --------
    >>> rectifier_gain_squared(), round(rectifier_gain_squared(0.25), 4)
    (2.0, 1.8824)
    """
    return 2 / (1 + negative_slope**2)


def find_bias_fixed_point(factor: float, bias_variance: float) -> float:
    """Return q* = bias_variance / (1 - factor), where biases hold up a vanishing signal.

    Parameters
    ----------
    factor : float
        By which a layer and its nonlinearity multiply the second moment: q' = factor q + bias.
        PyTorch's default in a ReLU net has 1/3 × 1/2 = 1/6.
    bias_variance : float
        Variance of a bias, 1 / (3 fan_in) in PyTorch's default.

    Returns
    -------
    float
        Second moment of the pre-activations; inf if factor ≥ 1 and there are biases, 0 if there
        are none and factor < 1.

    Raises
    ------
    InvalidArgumentError
        If factor is 1 and there is no bias: every second moment is then a fixed point.

    Examples
    --------
    >>> round(find_bias_fixed_point(1 / 6, bias_variance=default_variance(256)), 6)
    0.001562
    """
    if factor == 1 and bias_variance == 0:
        raise InvalidArgumentError(
            "At factor 1 without a bias every second moment is a fixed point."
        )
    if factor >= 1:
        return math.inf
    return bias_variance / (1 - factor)


def compute_width_variance(
    nonlinearity: Nonlinearity | str, q: ArrayLike, width: ArrayLike
) -> Array:
    """Return the relative variance that one layer of finite width adds to its mean of squares.

    For one input, Gaussian weights, and given all earlier layers, the ``width`` activations are
    independent, so that their mean of squares has the relative variance
    (E φ⁴ / (E φ²)² - 1) / width. For ReLU this is 5 / width.

    Source: Hanin and Rolnick 2018, theorem 5 (ReLU).

    Parameters
    ----------
    nonlinearity : Nonlinearity or str
        φ.
    q : array_like
        Second moment of the pre-activations.
    width : array_like
        Units of the layer.

    Examples
    --------
    >>> float(compute_width_variance("relu", 1.0, width=50).round(12))
    0.1
    """
    phi = get_nonlinearity(nonlinearity)
    excess = phi.fourth_moment(q) / phi.second_moment(q) ** 2 - 1
    return np.asarray(excess / np.asarray(width, dtype=np.float64))


def compute_log_variance(layers: Iterable[Layer], pre_activation: ArrayLike) -> Array:
    """Return the variance over draws of ln(mean of squares of the activations), layer by layer.

    For one input, dense layers and Gaussian weights. A deviation of layer l - 1 reaches layer l
    multiplied by d ln h_l / d ln h_(l-1), which is 1 for a ReLU net without biases; each layer
    adds its own, so that there E h² / (E h)² is the product of 1 + 5/n_l and the variance of ln h
    about 5 times the sum of 1/n_l.

    Source: Hanin and Rolnick 2018, theorem 5; Hanin 2018.

    Parameters
    ----------
    layers : iterable of Layer
        Dense layers: the width is fan_out.
    pre_activation : array_like
        q_l, as `propagate` gives it.

    Returns
    -------
    ndarray
        One variance a layer. Halve it for the distance of the mean from the typical value:
        ln h is close to normal with mean ln E h - variance / 2.

    Examples
    --------
    >>> relu = get_nonlinearity("relu")
    >>> variance = kaiming_variance(64)
    >>> layer = Layer(fan_in=64, fan_out=64, weight_variance=variance, nonlinearity=relu)
    >>> float(compute_log_variance([layer] * 10, np.ones(10))[-1].round(3))
    0.752
    """
    variances, variance = [], 0.0
    for layer, q in zip(layers, np.asarray(pre_activation, dtype=np.float64).tolist(), strict=True):
        phi = layer.nonlinearity
        from_weights = 1 - layer.bias_variance / q
        passed_on = from_weights * float(phi.second_moment_slope(q)) * q / phi.second_moment(q)
        own = compute_width_variance(phi, q, layer.fan_out)
        variance = float(passed_on**2 * variance + np.log1p(own))
        variances.append(variance)
    return np.array(variances)
