"""Gaussian integrals of activation functions, slowly: mpmath in one dimension, nested quad in two.

Nothing is shared with varprobe: the functions are written once more, from their definitions, and
derivatives are difference quotients in 40 digits.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from math import exp, pi, sqrt

import mpmath as mp
from scipy.integrate import quad

DIGITS = 40
STEP = mp.mpf(10) ** -15
"""Of the difference quotient: its error is 1e-30 f''' / 6, its rounding error 1e-25."""

Real = Callable[[mp.mpf], mp.mpf]


def _sigmoid(x):
    return 1 / (1 + mp.exp(-x))


def _elu(alpha, scale=1, reach=1):
    return lambda x: scale * (x if x > 0 else alpha * mp.expm1(x / reach))


def _clip(low, high):
    return lambda x: max(low, min(high, x))


SELU_ALPHA = mp.mpf("1.6732632423543772848170429916717")
SELU_SCALE = mp.mpf("1.0507009873554804934193349852946")

FUNCTIONS: dict[str, tuple[Real, tuple[float, ...]]] = {
    "identity": (lambda x: x, ()),
    "relu": (lambda x: max(x, mp.mpf(0)), (0,)),
    "leaky_relu": (lambda x: x if x > 0 else x * mp.mpf(0.2), (0,)),
    "prelu": (lambda x: x if x > 0 else x * mp.mpf(0.25), (0,)),
    "erf": (mp.erf, ()),
    "gelu": (lambda x: x * mp.erfc(-x / mp.sqrt(2)) / 2, ()),
    "gelu_tanh": (
        lambda x: x / 2 * (1 + mp.tanh(mp.sqrt(2 / mp.pi) * (x + mp.mpf("0.044715") * x**3))),
        (),
    ),
    "quick_gelu": (lambda x: x * _sigmoid(mp.mpf("1.702") * x), ()),
    "silu": (lambda x: x * _sigmoid(x), ()),
    "mish": (lambda x: x * mp.tanh(mp.log1p(mp.exp(x))), ()),
    "tanh": (mp.tanh, ()),
    "sigmoid": (_sigmoid, ()),
    "softplus": (lambda x: mp.log1p(mp.exp(x)), ()),
    "softsign": (lambda x: x / (1 + abs(x)), (0,)),
    "elu": (_elu(1), (0,)),
    "elu_half": (_elu(mp.mpf(0.5)), (0,)),
    "celu": (_elu(mp.mpf(2), reach=2), (0,)),
    "selu": (_elu(SELU_ALPHA, SELU_SCALE), (0,)),
    "hardtanh": (_clip(-1, 1), (-1, 1)),
    "relu6": (_clip(0, 6), (0, 6)),
    "hardsigmoid": (lambda x: _clip(0, 1)(x / 6 + mp.mpf(1) / 2), (-3, 3)),
    "hardswish": (lambda x: x * _clip(0, 1)(x / 6 + mp.mpf(1) / 2), (-3, 3)),
}
"""Function and kinks by name; those with parameters take the ones of PARAMETERS."""

PARAMETERS: dict[str, tuple[str, dict[str, object]]] = {
    "leaky_relu": ("leaky_relu", {"negative_slope": 0.2}),
    "gelu_tanh": ("gelu", {"approximate": "tanh"}),
    "elu_half": ("elu", {"alpha": 0.5}),
    "celu": ("celu", {"alpha": 2.0}),
}
"""Registered name and parameters of those whose name here is not enough."""

INTEGRANDS = {
    "first_moment": lambda f, d: f,
    "second_moment": lambda f, d: f**2,
    "fourth_moment": lambda f, d: f**4,
    "derivative_first_moment": lambda f, d: d,
    "derivative_second_moment": lambda f, d: d**2,
    "derivative_product": lambda f, d: f * d,
    "derivative_fourth_moment": lambda f, d: (f * d) ** 2,
}


def integrate(name: str, variance: float, mean: float = 0.0) -> dict[str, mp.mpf]:
    """Return every integral of INTEGRANDS over N(mean, variance)."""
    function, kinks = FUNCTIONS[name]
    with mp.workdps(DIGITS):
        spread, centre = mp.sqrt(mp.mpf(variance)), mp.mpf(mean)

        @cache
        def values(z):
            x = centre + spread * z
            return function(x), (function(x + STEP) - function(x - STEP)) / (2 * STEP)

        # Panels a few units wide in x resolve the function, a few wide in z the density.
        marks = {(mark - centre) / spread for mark in (*kinks, -20, -8, -3, 0, 3, 8, 20)}
        inside = {mark for mark in marks if abs(mark) < 13}
        edges = sorted({mp.mpf(edge) for edge in (-13, -5, 0, 5, 13)} | inside)
        with mp.workdps(20):  # quad aims at this; the functions keep their digits
            return {
                key: mp.quad(
                    lambda z, combine=combine: combine(*_at(values, z)) * mp.npdf(z),
                    edges,
                    method="gauss-legendre",
                    maxdegree=5,
                )
                for key, combine in INTEGRANDS.items()
            }


def _at(values, z):
    with mp.workdps(DIGITS):
        return values(z)


def integrate_pair(
    first: Callable[[float], float],
    second: Callable[[float], float],
    q1: float,
    q2: float,
    rho: float,
    kinks: tuple[float, ...] = (),
) -> float:
    """Return E f(u) g(v), the inner integral that of g(v) given u; |rho| < 1."""
    spread = sqrt(q2 * (1 - rho**2))

    def expect(function, centre, width, tolerance):
        def weighed(z):
            return function(centre + width * z) * exp(-z * z / 2) / sqrt(2 * pi)

        marks = [(kink - centre) / width for kink in (*kinks, 0.0)]
        points = sorted(mark for mark in marks if abs(mark) < 9)
        return quad(weighed, -9, 9, points=points, epsabs=tolerance, epsrel=1e-12, limit=200)[0]

    def outer(u):
        return first(u) * expect(second, rho * sqrt(q2 / q1) * u, spread, 1e-13)

    return expect(outer, 0.0, sqrt(q1), 1e-11)
