"""The nonlinearities whose Gaussian integrals have closed forms: leaky ReLU, erf, GELU.

Each overrides those integrals that have one and inherits the others from the quadrature.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from varprobe.theory.integrals import Nonlinearity
from varprobe.theory.quadrature import (
    LEAST_SPREAD,
    Z_EDGES,
    Array,
    check_variance,
    clip_correlation,
)


class Rectifier(Nonlinearity):
    """x above zero, ``negative_slope * x`` below: ReLU (0), identity (1), leaky ReLU, PReLU.

    With a mean many standard deviations below zero the closed forms cancel: they keep 1e-14 of
    mean^power P(x > 0), not of the much smaller integral.

    References
    ----------
    Cho and Saul 2009, Kernel Methods for Deep Learning, eqs. 4-6 (J0, J1, J2).
    """

    negative_slope: float

    def __init__(self, name: str, negative_slope: float) -> None:
        slope = float(negative_slope)
        super().__init__(
            name=name,
            function=lambda x: np.where(x > 0, x, slope * x),
            derivative=lambda x: np.where(x > 0, 1.0, slope),
            kinks=() if slope == 1 else (0.0,),
            parameters={} if name in ("relu", "identity") else {"negative_slope": slope},
        )
        object.__setattr__(self, "negative_slope", slope)

    def first_moment(self, q: ArrayLike, mean: ArrayLike = 0.0) -> Array:
        """Return E φ(x)."""
        above, below = _half_moments(1, q, mean)
        return above - self.negative_slope * below

    def second_moment(self, q: ArrayLike, mean: ArrayLike = 0.0) -> Array:
        """Return E φ(x)², (1 + a²) q / 2 at mean 0."""
        above, below = _half_moments(2, q, mean)
        return above + self.negative_slope**2 * below

    def fourth_moment(self, q: ArrayLike, mean: ArrayLike = 0.0) -> Array:
        """Return E φ(x)⁴."""
        above, below = _half_moments(4, q, mean)
        return above + self.negative_slope**4 * below

    def derivative_first_moment(self, q: ArrayLike, mean: ArrayLike = 0.0) -> Array:
        """Return E φ'(x)."""
        above, below = _half_moments(0, q, mean)
        return above + self.negative_slope * below

    def derivative_second_moment(self, q: ArrayLike, mean: ArrayLike = 0.0) -> Array:
        """Return E φ'(x)², (1 + a²) / 2 at mean 0."""
        above, below = _half_moments(0, q, mean)
        return above + self.negative_slope**2 * below

    def derivative_product(self, q: ArrayLike, mean: ArrayLike = 0.0) -> Array:
        """Return E φ(x) φ'(x)."""
        above, below = _half_moments(1, q, mean)
        return above - self.negative_slope**2 * below

    def derivative_fourth_moment(self, q: ArrayLike, mean: ArrayLike = 0.0) -> Array:
        """Return E φ(x)² φ'(x)²."""
        above, below = _half_moments(2, q, mean)
        return above + self.negative_slope**4 * below

    def second_moment_slope(self, q: ArrayLike) -> Array:
        """Return d E φ(x)² / dq = (1 + a²) / 2."""
        return np.full(np.shape(q), (1 + self.negative_slope**2) / 2)

    def pair_moment(self, q1: ArrayLike, q2: ArrayLike, rho: ArrayLike) -> Array:
        """Return E φ(u) φ(v); φ(x) = a x + (1 - a) relu(x)."""
        a, pair = self.negative_slope, _Pair(q1, q2, rho)
        sine: Array = np.sqrt(1 - np.square(pair.rho))
        rectified = pair.scale * (sine + (np.pi - pair.angle) * pair.rho) / (2 * np.pi)
        return a * pair.covariance + (1 - a) ** 2 * rectified

    def pair_derivative_moment(self, q1: ArrayLike, q2: ArrayLike, rho: ArrayLike) -> Array:
        """Return E φ'(u) φ'(v)."""
        a, pair = self.negative_slope, _Pair(q1, q2, rho)
        moment = a + (1 - a) ** 2 * (np.pi - pair.angle) / (2 * np.pi)
        return np.broadcast_to(moment, np.broadcast_shapes(moment.shape, pair.scale.shape))

    def pair_square_moment(self, q1: ArrayLike, q2: ArrayLike, rho: ArrayLike) -> Array:
        """Return E φ(u)² φ(v)²; φ(x)² = a² x² + (1 - a²) relu(x)²."""
        a2, pair = self.negative_slope**2, _Pair(q1, q2, rho)
        sine: Array = np.sqrt(1 - np.square(pair.rho))
        turned: Array = 1 + 2 * np.square(pair.rho)
        rectified = (3 * sine * pair.rho + (np.pi - pair.angle) * turned) / (2 * np.pi)
        return pair.scale * pair.scale * (a2 * turned + (1 - a2) ** 2 * rectified)


class Erf(Nonlinearity):
    """The error function, 2/sqrt(π) times the integral of exp(-t²) from 0 to x.

    References
    ----------
    Williams 1997, Computing with Infinite Networks, eq. 11.
    """

    def __init__(self) -> None:
        super().__init__("erf", _erf, lambda x: 2 / math.sqrt(math.pi) * np.exp(-(x**2)))

    def second_moment(self, q: ArrayLike, mean: ArrayLike = 0.0) -> Array:
        """Return E φ(x)²."""
        return self.pair_moment(q, q, 1.0) if not np.any(mean) else super().second_moment(q, mean)

    def derivative_second_moment(self, q: ArrayLike, mean: ArrayLike = 0.0) -> Array:
        """Return E φ'(x)²."""
        spread = 1 + 4 * np.asarray(q, dtype=np.float64)
        return 4 / np.pi * np.exp(-2 * np.square(mean) / spread) / np.sqrt(spread)

    def pair_moment(self, q1: ArrayLike, q2: ArrayLike, rho: ArrayLike) -> Array:
        """Return E φ(u) φ(v)."""
        pair = _Pair(q1, q2, rho)
        # The arc sine of 2 c / sqrt((1 + 2 q1) (1 + 2 q2)), which would lose digits near 1.
        return 2 / np.pi * np.arctan2(2 * pair.covariance, np.sqrt(pair.determinant(2)))

    def pair_derivative_moment(self, q1: ArrayLike, q2: ArrayLike, rho: ArrayLike) -> Array:
        """Return E φ'(u) φ'(v)."""
        pair = _Pair(q1, q2, rho)
        return 4 / np.pi / np.sqrt(pair.determinant(2))


class Gelu(Nonlinearity):
    """x Φ(x), Φ the distribution function of N(0, 1).

    The closed forms follow from E φφ of two Gaussians by Stein's lemma, applied once to each
    factor; the kernel was first given by Tsuchida, Pearce, van der Heide, Roosta and Gallagher
    2021, Avoiding Kernel Fixed Points: Computing with ELU and GELU Infinite Networks.
    """

    def __init__(self) -> None:
        super().__init__("gelu", lambda x: x * _cdf(x), lambda x: _cdf(x) + x * _pdf(x))

    def first_moment(self, q: ArrayLike, mean: ArrayLike = 0.0) -> Array:
        """Return E φ(x), q / sqrt(2 π (1 + q)) at mean 0."""
        variance, centre = np.asarray(q, dtype=np.float64), np.asarray(mean, dtype=np.float64)
        spread = np.sqrt(1 + variance)
        return centre * _cdf(centre / spread) + variance / spread * _pdf(centre / spread)

    def second_moment(self, q: ArrayLike, mean: ArrayLike = 0.0) -> Array:
        """Return E φ(x)²."""
        return self.pair_moment(q, q, 1.0) if not np.any(mean) else super().second_moment(q, mean)

    def derivative_second_moment(self, q: ArrayLike, mean: ArrayLike = 0.0) -> Array:
        """Return E φ'(x)²."""
        if np.any(mean):
            return super().derivative_second_moment(q, mean)
        return self.pair_derivative_moment(q, q, 1.0)

    def pair_moment(self, q1: ArrayLike, q2: ArrayLike, rho: ArrayLike) -> Array:
        """Return E φ(u) φ(v)."""
        pair = _Pair(q1, q2, rho)
        both, density = _cdf_and_pdf_products(pair)
        c, w1, w2 = pair.covariance, 1 + pair.q1, 1 + pair.q2
        # q2 - c² / w1, without the cancellation of long vectors.
        rest = (pair.q2 + pair.q1 * pair.q2 * (1 - pair.rho) * (1 + pair.rho)) / w1
        return c * both + density * (pair.q1 * rest + c**2 / w2)

    def pair_derivative_moment(self, q1: ArrayLike, q2: ArrayLike, rho: ArrayLike) -> Array:
        """Return E φ'(u) φ'(v)."""
        pair = _Pair(q1, q2, rho)
        both, density = _cdf_and_pdf_products(pair)
        mixed = 1 / (1 + pair.q1) + 1 / (1 + pair.q2) + 1 / pair.determinant(1)
        return both + pair.covariance * density * mixed


class _Pair:
    """Two centred Gaussians: variances, correlation and what the formulas need of them."""

    def __init__(self, q1: ArrayLike, q2: ArrayLike, rho: ArrayLike) -> None:
        self.q1, self.q2 = np.asarray(q1, dtype=np.float64), np.asarray(q2, dtype=np.float64)
        check_variance(self.q1)
        check_variance(self.q2)
        self.rho = clip_correlation(np.asarray(rho, dtype=np.float64))
        self.scale: Array = np.sqrt(self.q1) * np.sqrt(self.q2)

    @property
    def angle(self) -> Array:
        return np.arccos(self.rho)

    @property
    def covariance(self) -> Array:
        return self.scale * self.rho

    def determinant(self, factor: float) -> Array:
        """Return det(1 + factor × covariance matrix), without cancellation at correlation 1."""
        q1, q2 = factor * self.q1, factor * self.q2
        return 1 + q1 + q2 + q1 * q2 * (1 - self.rho) * (1 + self.rho)


def _cdf_and_pdf_products(pair: _Pair) -> tuple[Array, Array]:
    """Return E Φ(u) Φ(v) and E φ(u) φ(v), Φ and φ those of N(0, 1)."""
    spread = np.sqrt(pair.determinant(1))
    # The arc sine of c / sqrt(w1 w2), which would lose half the digits near 1.
    both = 0.25 + np.arctan2(pair.covariance, spread) / (2 * np.pi)
    return both, 1 / (2 * np.pi * spread)


def _half_moments(power: int, q: ArrayLike, mean: ArrayLike) -> tuple[Array, Array]:
    """Return E relu(x)^power and E relu(-x)^power; at power 0 the probabilities of the halves."""
    variance, centre = np.broadcast_arrays(
        np.asarray(q, dtype=np.float64), np.asarray(mean, dtype=np.float64)
    )
    check_variance(variance)
    spread = np.sqrt(variance)
    # A variance of zero leaves the sign of the mean, and at mean zero an even chance.
    z = (centre / np.maximum(spread, LEAST_SPREAD)).clip(-Z_EDGES[-1], Z_EDGES[-1])
    return (
        _half_moment(power, centre, variance, spread, z),
        _half_moment(power, -centre, variance, spread, -z),
    )


def _half_moment(power: int, m: Array, v: Array, s: Array, z: Array) -> Array:
    above, density = _cdf(z), _pdf(z)
    if power == 0:
        return above
    if power == 1:
        return m * above + s * density
    if power == 2:
        return (m**2 + v) * above + m * s * density
    return (m**4 + 6 * m**2 * v + 3 * v**2) * above + m * s * (m**2 + 5 * v) * density


def _erf(x: Array) -> Array:
    from scipy.special import erf

    result: Array = erf(x)
    return result


def _cdf(x: Array) -> Array:
    from scipy.special import ndtr

    result: NDArray[np.float64] = ndtr(x)
    return result


def _pdf(x: Array) -> Array:
    return np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)
