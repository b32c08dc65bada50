"""The common activation functions: one builder each, registered under its functional name.

The definitions are those of ``torch.nn.functional``, for float64 arrays of any magnitude: nothing
overflows. Softplus alone differs: without torch's switch to the identity at 20, a jump of 2e-9.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from varprobe.errors import InvalidArgumentError
from varprobe.registry import Registry
from varprobe.theory.closed_forms import Erf, Gelu, Rectifier
from varprobe.theory.integrals import Nonlinearity
from varprobe.theory.quadrature import Array

SELU_SCALE = 1.0507009873554804934193349852946
SELU_ALPHA = 1.6732632423543772848170429916717
"""The fixed point (mean 0, variance 1) of Klambauer et al. 2017 (arXiv 1706.02515), eq. 14."""

TANH_GELU_CUBIC = 0.044715
"""Of the approximation x Φ(x) ≈ x/2 (1 + tanh(sqrt(2/π) (x + 0.044715 x³))), Hendrycks 2016."""

NONLINEARITIES: Registry[str, Callable[..., Nonlinearity]] = Registry("nonlinearity")
"""Builders by name; a builder takes the parameters of its function as keywords."""


@NONLINEARITIES.register("identity", "linear")
def identity() -> Nonlinearity:
    """Return x."""
    return Rectifier("identity", 1.0)


@NONLINEARITIES.register("relu")
def relu() -> Nonlinearity:
    """Return max(x, 0)."""
    return Rectifier("relu", 0.0)


@NONLINEARITIES.register("leaky_relu")
def leaky_relu(negative_slope: float = 0.01) -> Nonlinearity:
    """Return x above zero, ``negative_slope * x`` below."""
    return Rectifier("leaky_relu", negative_slope)


@NONLINEARITIES.register("prelu")
def prelu(negative_slope: float = 0.25) -> Nonlinearity:
    """Return a leaky ReLU whose slope is a parameter; He et al. 2015 start it at 0.25."""
    return Rectifier("prelu", negative_slope)


@NONLINEARITIES.register("erf")
def erf() -> Nonlinearity:
    """Return the error function."""
    return Erf()


@NONLINEARITIES.register("gelu")
def gelu(approximate: str = "none") -> Nonlinearity:
    """Return x Φ(x), or with ``approximate="tanh"`` the formula that GPT-2 uses."""
    if approximate == "none":
        return Gelu()
    if approximate != "tanh":
        raise InvalidArgumentError(
            f'approximate is "none" or "tanh" as in torch, got {approximate!r}.'
        )
    scale = math.sqrt(2 / math.pi)

    def bend(x: Array) -> Array:
        t: Array = np.tanh(scale * (x + TANH_GELU_CUBIC * x * x * x))
        return t

    def function(x: Array) -> Array:
        return 0.5 * x * (1 + bend(x))

    def derivative(x: Array) -> Array:
        t = bend(x)
        return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * scale * (1 + 3 * TANH_GELU_CUBIC * x * x)

    return Nonlinearity("gelu", function, derivative, parameters={"approximate": "tanh"})


@NONLINEARITIES.register("silu", "swish")
def silu() -> Nonlinearity:
    """Return x σ(x), σ the logistic function."""
    return Nonlinearity("silu", *_gate_by_sigmoid(1.0))


@NONLINEARITIES.register("quick_gelu")
def quick_gelu() -> Nonlinearity:
    """Return x σ(1.702 x), the GELU of CLIP."""
    return Nonlinearity("quick_gelu", *_gate_by_sigmoid(1.702))


@NONLINEARITIES.register("mish")
def mish() -> Nonlinearity:
    """Return x tanh(softplus(x))."""

    def derivative(x: Array) -> Array:
        t: Array = np.tanh(_softplus(x))
        return t + x * (1 - t * t) * _sigmoid(x)

    return Nonlinearity("mish", lambda x: x * np.tanh(_softplus(x)), derivative)


@NONLINEARITIES.register("tanh")
def tanh() -> Nonlinearity:
    """Return tanh(x)."""
    return Nonlinearity("tanh", np.tanh, lambda x: 1 - np.tanh(x) ** 2)


@NONLINEARITIES.register("sigmoid")
def sigmoid() -> Nonlinearity:
    """Return 1 / (1 + exp(-x))."""
    return Nonlinearity("sigmoid", _sigmoid, lambda x: _sigmoid(x) * _sigmoid(-x))


@NONLINEARITIES.register("softplus")
def softplus(beta: float = 1.0) -> Nonlinearity:
    """Return ln(1 + exp(beta x)) / beta."""
    return Nonlinearity(
        "softplus",
        lambda x: _softplus(beta * x) / beta,
        lambda x: _sigmoid(beta * x),
        parameters={} if beta == 1 else {"beta": beta},
    )


@NONLINEARITIES.register("softsign")
def softsign() -> Nonlinearity:
    """Return x / (1 + abs(x))."""
    return Nonlinearity(
        "softsign", lambda x: x / (1 + np.abs(x)), lambda x: 1 / (1 + np.abs(x)) ** 2, (0.0,)
    )


@NONLINEARITIES.register("elu")
def elu(alpha: float = 1.0) -> Nonlinearity:
    """Return x above zero, alpha (exp(x) - 1) below."""
    return _exponential_unit("elu", alpha, 1.0, 1.0, {"alpha": alpha})


@NONLINEARITIES.register("celu")
def celu(alpha: float = 1.0) -> Nonlinearity:
    """Return x above zero, alpha (exp(x / alpha) - 1) below."""
    return _exponential_unit("celu", alpha, 1.0, alpha, {"alpha": alpha})


@NONLINEARITIES.register("selu")
def selu() -> Nonlinearity:
    """Return the ELU that maps mean 0 and variance 1 to themselves."""
    return _exponential_unit("selu", SELU_ALPHA, SELU_SCALE, 1.0, {})


@NONLINEARITIES.register("hardtanh")
def hardtanh(min_val: float = -1.0, max_val: float = 1.0) -> Nonlinearity:
    """Return x clipped to [min_val, max_val]."""
    return _clip("hardtanh", min_val, max_val, {"min_val": min_val, "max_val": max_val})


@NONLINEARITIES.register("relu6")
def relu6() -> Nonlinearity:
    """Return x clipped to [0, 6]."""
    return _clip("relu6", 0.0, 6.0, {})


@NONLINEARITIES.register("hardsigmoid")
def hardsigmoid() -> Nonlinearity:
    """Return x / 6 + 1 / 2 clipped to [0, 1]."""
    return Nonlinearity(
        "hardsigmoid",
        lambda x: np.clip(x / 6 + 0.5, 0, 1),
        lambda x: np.where(np.abs(x) < 3, 1 / 6, 0.0),
        (-3.0, 3.0),
    )


@NONLINEARITIES.register("hardswish")
def hardswish() -> Nonlinearity:
    """Return x times hardsigmoid(x)."""
    return Nonlinearity(
        "hardswish",
        lambda x: x * np.clip(x / 6 + 0.5, 0, 1),
        lambda x: np.where(np.abs(x) < 3, x / 3 + 0.5, np.where(x > 0, 1.0, 0.0)),
        (-3.0, 3.0),
    )


def _sigmoid(x: Array) -> Array:
    small: Array = np.exp(-np.abs(x))
    return np.where(x >= 0, 1.0, small) / (1 + small)


def _softplus(x: Array) -> Array:
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


def _gate_by_sigmoid(beta: float) -> tuple[Callable[[Array], Array], Callable[[Array], Array]]:
    """Return x σ(beta x) and its derivative."""

    def derivative(x: Array) -> Array:
        gate = _sigmoid(beta * x)
        return gate * (1 + beta * x * _sigmoid(-beta * x))

    return lambda x: x * _sigmoid(beta * x), derivative


def _exponential_unit(
    name: str, alpha: float, scale: float, reach: float, parameters: dict[str, float]
) -> Nonlinearity:
    """Return scale times x above zero, scale alpha (exp(x / reach) - 1) below."""

    def function(x: Array) -> Array:
        return scale * np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0) / reach))

    def derivative(x: Array) -> Array:
        return scale * np.where(x > 0, 1.0, alpha / reach * np.exp(np.minimum(x, 0) / reach))

    return Nonlinearity(name, function, derivative, (0.0,), parameters)


def _clip(name: str, low: float, high: float, parameters: dict[str, float]) -> Nonlinearity:
    return Nonlinearity(
        name,
        lambda x: np.clip(x, low, high),
        lambda x: np.where((x > low) & (x < high), 1.0, 0.0),
        (low, high),
        parameters,
    )
