"""A nonlinearity φ and the Gaussian integrals that signal propagation needs of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike

from varprobe.theory.pair_maps import expect_pairs
from varprobe.theory.quadrature import Array, Function, expect


@dataclass(frozen=True, eq=False)
class Nonlinearity:
    """A function φ of one real variable with its Gaussian integrals.

    This class integrates numerically; subclasses in `closed_forms` override what has a closed form
    that does not cancel. Exponential linear units and piecewise polynomials do have closed forms,
    which lose up to eight digits at small variances: for them the quadrature is the better way.

    All integrals of one variable are over x ~ N(mean, q), 1e-12 relative to the integral of the
    absolute integrand, shape that of q and mean broadcast. Those of a pair are over centred
    Gaussians of variances q1, q2 and correlation rho; `pair_maps` says how accurately.

    Attributes
    ----------
    name : str
        As in ``torch.nn.functional``.
    function, derivative : callable
        φ and φ', vectorised over float64 arrays.
    kinks : tuple of float
        Where φ or one of its derivatives jumps.
    parameters : mapping
        What sets φ apart from others of its name, for example ``{"alpha": 1.0}``.

    Examples
    --------
    >>> tanh = Nonlinearity("tanh", np.tanh, lambda x: 1 - np.tanh(x) ** 2)
    >>> tanh
    tanh
    >>> tanh.second_moment([0.01, 1.0, 100.0]).round(4)
    array([0.0098, 0.3943, 0.9205])
    >>> round(tanh.gain, 4)
    1.5925
    """

    name: str
    function: Function
    derivative: Function
    kinks: tuple[float, ...] = ()
    parameters: Mapping[str, object] = field(default_factory=dict)

    def __repr__(self) -> str:
        given = ", ".join(f"{key}={value!r}" for key, value in self.parameters.items())
        return f"{self.name}({given})" if given else self.name

    def __call__(self, x: ArrayLike) -> Array:
        """Return φ(x), elementwise."""
        return self.function(np.asarray(x, dtype=np.float64))

    @property
    def gain(self) -> float:
        """Return 1 / sqrt(E φ(z)²), z ~ N(0, 1).

        Weights of variance gain² / fan_in then keep the pre-activations' second moment at 1.
        `torch.nn.init.calculate_gain` differs for tanh (5/3 for 1.5925) and SELU (3/4 for 1).
        """
        return float(self.second_moment(1.0) ** -0.5)

    def first_moment(self, q: ArrayLike, mean: ArrayLike = 0.0) -> Array:
        """Return E φ(x)."""
        return self._expect(self.function, q, mean)

    def second_moment(self, q: ArrayLike, mean: ArrayLike = 0.0) -> Array:
        """Return E φ(x)²."""
        return self._expect(self.square, q, mean)

    def fourth_moment(self, q: ArrayLike, mean: ArrayLike = 0.0) -> Array:
        """Return E φ(x)⁴."""
        return self._expect(lambda x: self.square(x) ** 2, q, mean)

    def derivative_first_moment(self, q: ArrayLike, mean: ArrayLike = 0.0) -> Array:
        """Return E φ'(x), which is Cov(φ(x), x) / q (Stein)."""
        return self._expect(self.derivative, q, mean)

    def derivative_second_moment(self, q: ArrayLike, mean: ArrayLike = 0.0) -> Array:
        """Return E φ'(x)², by which a gradient's second moment changes on its way back."""
        return self._expect(lambda x: self.derivative(x) ** 2, q, mean)

    def derivative_product(self, q: ArrayLike, mean: ArrayLike = 0.0) -> Array:
        """Return E φ(x) φ'(x)."""
        return self._expect(lambda x: self.function(x) * self.derivative(x), q, mean)

    def derivative_fourth_moment(self, q: ArrayLike, mean: ArrayLike = 0.0) -> Array:
        """Return E φ(x)² φ'(x)²."""
        return self._expect(lambda x: (self.function(x) * self.derivative(x)) ** 2, q, mean)

    def second_moment_slope(self, q: ArrayLike) -> Array:
        """Return d E φ(x)² / dq at mean 0, for q > 0.

        Equals E x φ(x) φ'(x) / q: differentiate E φ(sqrt(q) z)² under the integral.
        """
        variance = np.asarray(q, dtype=np.float64)
        product = self._expect(lambda x: x * self.function(x) * self.derivative(x), variance, 0.0)
        return product / variance

    def pair_moment(self, q1: ArrayLike, q2: ArrayLike, rho: ArrayLike) -> Array:
        """Return E φ(u) φ(v)."""
        return expect_pairs(self.function, self.kinks, q1, q2, rho)

    def pair_derivative_moment(self, q1: ArrayLike, q2: ArrayLike, rho: ArrayLike) -> Array:
        """Return E φ'(u) φ'(v)."""
        return expect_pairs(self.derivative, self.kinks, q1, q2, rho)

    def pair_square_moment(self, q1: ArrayLike, q2: ArrayLike, rho: ArrayLike) -> Array:
        """Return E φ(u)² φ(v)²."""
        return expect_pairs(self.square, self.kinks, q1, q2, rho)

    def square(self, x: Array) -> Array:
        """Return φ(x)², elementwise."""
        return self.function(x) ** 2

    def _expect(self, integrand: Function, q: ArrayLike, mean: ArrayLike) -> Array:
        return expect(integrand, q, mean, self.kinks)
