"""The mean-field theory of wide random networks: fixed points, stability, depth scales, phases.

A layer of width n has weights of variance sigma_w2 / n and biases of variance sigma_b2. In the
limit of infinite n its pre-activations are Gaussian; q is their second moment, c the correlation
of those of two inputs. Per layer::

    q' = sigma_w2 E φ(x)² + sigma_b2                      x ~ N(0, q)               length map
    c' = (sigma_w2 E φ(u) φ(v) + sigma_b2) / q'           u, v ~ N(0, q), corr. c   correlation map
    chi = sigma_w2 E φ'(x)²                               gradients' second moments grow by chi

References
----------
Poole, Lahiri, Raghu, Sohl-Dickstein and Ganguli 2016 (arXiv 1606.05340), eqs. 3-8.
Schoenholz, Gilmer, Ganguli and Sohl-Dickstein 2017 (arXiv 1611.01232), eqs. 3-9 and 12-14.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from varprobe.errors import InvalidArgumentError
from varprobe.theory.integrals import Nonlinearity
from varprobe.theory.nonlinearities import get_nonlinearity
from varprobe.theory.quadrature import Array

Q_GRID = np.geomspace(1e-8, 1e8, 257)
"""Where fixed points of the length map are looked for, a factor 1.16 apart."""

ZERO_LENGTH = 1e-24
INFINITE_LENGTH = 1e24
"""Stand for q = 0 and q = ∞ where a limit is meant."""

SAME = 1e-10
"""Relative difference of q' and q, or of a slope and 1, that may be rounding."""

BELOW_ONE = tuple(1 - 0.5**k for k in range(1, 36))
"""Correlations tried, from 1/2 up, until one lies above an unknown fixed point below 1."""

CRITICAL = 1e-6
"""abs(chi - 1) up to which a network is critical: depth scales beyond a million layers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LengthFixedPoint:
    """A second moment that the length map reproduces.

    Attributes
    ----------
    q : float
        The second moment.
    slope : float
        chi_q = dq'/dq there.
    """

    q: float
    slope: float

    @property
    def stable(self) -> bool:
        """Whether nearby second moments approach it."""
        return self.slope < 1


@dataclass(frozen=True, slots=True, kw_only=True)
class MeanField:
    """What becomes of signals in infinitely many layers.

    Attributes
    ----------
    nonlinearity : Nonlinearity
        φ.
    sigma_w2, sigma_b2 : float
        n times the variance of a weight; the variance of a bias.
    q_star : float
        Limit of the second moment of the pre-activations; 0 and inf are possible.
    chi : float
        Growth of gradients' second moments per layer at q_star; also the slope of the correlation
        map at c = 1 if q_star is finite and not zero.
    chi_q : float
        Slope of the length map at q_star.
    c_star : float
        Limit of the correlation of two different inputs.
    chi_c : float
        Slope of the correlation map at c_star.
    """

    nonlinearity: Nonlinearity
    sigma_w2: float
    sigma_b2: float
    q_star: float
    chi: float
    chi_q: float
    c_star: float
    chi_c: float

    @property
    def phase(self) -> str:
        """Return "ordered" (chi < 1: gradients vanish), "chaotic" (they explode) or "critical"."""
        if abs(self.chi - 1) <= CRITICAL:
            return "critical"
        return "ordered" if self.chi < 1 else "chaotic"

    @property
    def xi_q(self) -> float:
        """Layers in which the distance to q_star changes by a factor e."""
        return _depth_scale(self.chi_q)

    @property
    def xi_c(self) -> float:
        """Layers in which the distance to c_star changes by a factor e; inputs differ that far."""
        return _depth_scale(self.chi_c)

    @property
    def xi_gradient(self) -> float:
        """Layers in which the second moment of the gradient changes by a factor e."""
        return _depth_scale(self.chi)

    def __repr__(self) -> str:
        return (
            f"MeanField({self.nonlinearity!r}, sigma_w2={self.sigma_w2:.5g}, "
            f"sigma_b2={self.sigma_b2:.5g}: {self.phase}; q*={self.q_star:.4g}, "
            f"chi={self.chi:.4g}, c*={self.c_star:.4g}; layers: xi_q={self.xi_q:.3g}, "
            f"xi_c={self.xi_c:.3g}, xi_gradient={self.xi_gradient:.3g})"
        )


def map_length(
    nonlinearity: Nonlinearity | str, q: ArrayLike, *, sigma_w2: float, sigma_b2: float = 0.0
) -> Array:
    """Return the second moment of the next pre-activations, sigma_w2 E φ(x)² + sigma_b2.

    Source: Poole et al. 2016, eq. 3.

    Examples
    --------
    >>> float(map_length("relu", 3.0, sigma_w2=2.0))
    3.0
    """
    return sigma_w2 * get_nonlinearity(nonlinearity).second_moment(q) + sigma_b2


def map_correlation(
    nonlinearity: Nonlinearity | str,
    c: ArrayLike,
    *,
    q: float = 1.0,
    sigma_w2: float,
    sigma_b2: float = 0.0,
) -> Array:
    """Return the correlation of the next pre-activations of two inputs of second moment ``q``.

    Source: Poole et al. 2016, eq. 5; for ReLU (sqrt(1 - c²) + c (π - arccos c)) / π.

    Examples
    --------
    >>> map_correlation("relu", [-1.0, 0.0, 1.0], sigma_w2=2.0).round(6)
    array([0.     , 0.31831, 1.     ])
    """
    phi = get_nonlinearity(nonlinearity)
    joint = sigma_w2 * phi.pair_moment(q, q, c) + sigma_b2
    return joint / map_length(phi, q, sigma_w2=sigma_w2, sigma_b2=sigma_b2)


def map_correlation_slope(
    nonlinearity: Nonlinearity | str,
    c: ArrayLike,
    *,
    q: float = 1.0,
    sigma_w2: float,
    sigma_b2: float = 0.0,
) -> Array:
    """Return dc'/dc = sigma_w2 E φ'(u) φ'(v) q / q'.

    Source: Schoenholz et al. 2017, eq. 9, where q' = q.

    Examples
    --------
    >>> float(map_correlation_slope("relu", 0.0, sigma_w2=2.0))
    0.5
    """
    phi = get_nonlinearity(nonlinearity)
    after = map_length(phi, q, sigma_w2=sigma_w2, sigma_b2=sigma_b2)
    return sigma_w2 * phi.pair_derivative_moment(q, q, c) * q / after


def find_length_fixed_points(
    nonlinearity: Nonlinearity | str, *, sigma_w2: float, sigma_b2: float = 0.0
) -> tuple[LengthFixedPoint, ...]:
    """Return the fixed points of the length map between 1e-8 and 1e8, in rising order.

    q = 0 is not among them, nor is the continuum of a scale-invariant φ (ReLU with sigma_w2 = 2).

    Examples
    --------
    >>> [point] = find_length_fixed_points("tanh", sigma_w2=1.3, sigma_b2=0.05)
    >>> round(point.q, 4), point.stable
    (0.3153, True)
    """
    from scipy.optimize import brentq

    phi = _check(nonlinearity, sigma_w2, sigma_b2)

    def excess(log_q: float) -> float:
        q = math.exp(log_q)
        return float(map_length(phi, q, sigma_w2=sigma_w2, sigma_b2=sigma_b2)) / q - 1

    values = map_length(phi, Q_GRID, sigma_w2=sigma_w2, sigma_b2=sigma_b2) / Q_GRID - 1
    roots = [
        math.exp(brentq(excess, math.log(low), math.log(high), xtol=1e-14))
        for low, high in _bracket_roots(values)
    ]
    return tuple(
        LengthFixedPoint(q=q, slope=float(sigma_w2 * phi.second_moment_slope(q))) for q in roots
    )


def solve_mean_field(
    nonlinearity: Nonlinearity | str,
    *,
    sigma_w2: float,
    sigma_b2: float = 0.0,
    start: float = 1.0,
) -> MeanField:
    """Return the limit of signals in a deep, infinitely wide random network.

    Parameters
    ----------
    nonlinearity : Nonlinearity or str
        φ.
    sigma_w2, sigma_b2 : float
        n times the variance of a weight, > 0; the variance of a bias, ≥ 0.
    start : float
        Second moment from which the length map is followed: which fixed point it reaches, or
        where it stays if every q is one.

    Raises
    ------
    InvalidArgumentError
        If sigma_w2 or start is not positive, or sigma_b2 is negative.

    Examples
    --------
    >>> solve_mean_field("tanh", sigma_w2=2.5, sigma_b2=0.05)
    MeanField(tanh, sigma_w2=2.5, sigma_b2=0.05: chaotic; q*=1.064, chi=1.134, c*=0.4468;
        layers: xi_q=1.18, xi_c=11.8, xi_gradient=7.98)
    """
    phi = _check(nonlinearity, sigma_w2, sigma_b2)
    if not (start > 0 and math.isfinite(start)):
        raise InvalidArgumentError(f"start is a second moment, finite and > 0, got {start}.")
    q_star = _follow_length(phi, sigma_w2, sigma_b2, start)
    q = min(max(q_star, ZERO_LENGTH), INFINITE_LENGTH)
    c_star, chi_c = _follow_correlation(phi, sigma_w2, sigma_b2, q)
    return MeanField(
        nonlinearity=phi,
        sigma_w2=sigma_w2,
        sigma_b2=sigma_b2,
        q_star=q_star,
        chi=float(sigma_w2 * phi.derivative_second_moment(q)),
        chi_q=float(sigma_w2 * phi.second_moment_slope(q)),
        c_star=c_star,
        chi_c=chi_c,
    )


def _follow_length(phi: Nonlinearity, sigma_w2: float, sigma_b2: float, start: float) -> float:
    """Return the fixed point that the length map reaches from ``start``.

    E φ² rises with q for every φ whose modulus rises away from zero, so that the map cannot jump
    over a fixed point: it stops at the next one in the direction in which it sets out.
    """
    after = float(map_length(phi, start, sigma_w2=sigma_w2, sigma_b2=sigma_b2))
    if abs(after - start) <= SAME * start:
        return start
    points = find_length_fixed_points(phi, sigma_w2=sigma_w2, sigma_b2=sigma_b2)
    if after > start:
        return min((point.q for point in points if point.q > start), default=math.inf)
    return max((point.q for point in points if point.q < start), default=0.0)


def _follow_correlation(
    phi: Nonlinearity, sigma_w2: float, sigma_b2: float, q: float
) -> tuple[float, float]:
    """Return the stable fixed point of the correlation map at ``q``, and the slope there.

    The map is a power series in c with coefficients ≥ 0 (Mehler), hence convex on [0, 1] with
    c' = 1 at c = 1: if its slope there is at most 1 that is the limit, else there is one below.
    """
    from scipy.optimize import brentq

    after = float(map_length(phi, q, sigma_w2=sigma_w2, sigma_b2=sigma_b2))
    slope = float(sigma_w2 * phi.derivative_second_moment(q)) * q / after
    if slope <= 1 + CRITICAL or q >= INFINITE_LENGTH:
        return 1.0, slope

    def excess(c: float) -> float:
        return float(sigma_w2 * phi.pair_moment(q, q, c) + sigma_b2) / after - c

    below = next((c for c in BELOW_ONE if excess(c) < 0), 1.0)
    if below == 1.0:
        return 1.0, slope
    c_star = brentq(excess, 0.0, below, xtol=1e-12) if excess(0.0) > 0 else 0.0
    chi_c = map_correlation_slope(phi, c_star, q=q, sigma_w2=sigma_w2, sigma_b2=sigma_b2)
    return c_star, float(chi_c)


def find_edge_of_chaos(nonlinearity: Nonlinearity | str, *, sigma_b2: float = 0.0) -> MeanField:
    """Return the network with chi = 1 at a stable fixed point, for a given variance of the biases.

    Solves q - E φ² / E φ'² = sigma_b2 for q, which is both conditions at once, and takes
    sigma_w2 = 1 / E φ'². At sigma_b2 = 0 a scale-invariant φ is critical at every q (ReLU at
    sigma_w2 = 2); q = 1 is taken.

    Parameters
    ----------
    nonlinearity : Nonlinearity or str
        φ.
    sigma_b2 : float
        Variance of the biases, ≥ 0.

    Raises
    ------
    InvalidArgumentError
        If there is no such network, as for ReLU with biases.

    Examples
    --------
    >>> edge = find_edge_of_chaos("tanh", sigma_b2=0.05)
    >>> round(edge.sigma_w2, 4), round(edge.q_star, 3), edge.phase
    (1.761, 0.57, 'critical')
    """
    edge = seek_edge_of_chaos(nonlinearity, sigma_b2=sigma_b2)
    if edge is None:
        phi = get_nonlinearity(nonlinearity)
        raise InvalidArgumentError(
            f"{phi!r} has no edge of chaos at sigma_b2={sigma_b2:g}: no second moment is a stable "
            "fixed point with chi = 1. Try another sigma_b2, or solve_mean_field at your sigma_w2."
        )
    return edge


def seek_edge_of_chaos(nonlinearity: Nonlinearity | str, *, sigma_b2: float) -> MeanField | None:
    """Return what `find_edge_of_chaos` does, None where there is no such network."""
    from scipy.optimize import brentq

    phi = _check(nonlinearity, 1.0, sigma_b2)

    def excess(q: Array) -> Array:
        critical = phi.second_moment(q) / phi.derivative_second_moment(q)
        difference: Array = (q - critical - sigma_b2) / q
        return difference

    values = excess(Q_GRID)
    if np.all(np.abs(values) <= SAME):
        return solve_mean_field(phi, sigma_w2=_critical_weight(phi, 1.0))
    for low, high in _bracket_roots(values):
        q = brentq(lambda q: float(excess(np.asarray(q))), low, high, rtol=1e-14)
        sigma_w2 = _critical_weight(phi, q)
        if sigma_w2 * phi.second_moment_slope(q) < 1:
            return solve_mean_field(phi, sigma_w2=sigma_w2, sigma_b2=sigma_b2, start=q)
    sigma_w2, small = _critical_weight(phi, ZERO_LENGTH), float(Q_GRID[0])
    if sigma_b2 == 0 and map_length(phi, small, sigma_w2=sigma_w2) <= small * (1 + SAME):
        return solve_mean_field(phi, sigma_w2=sigma_w2, start=small)
    return None


def _bracket_roots(values: Array) -> list[tuple[float, float]]:
    """Return where on Q_GRID the sign of ``values`` changes, past those that are zero."""
    (clear,) = np.nonzero(np.abs(values) > SAME)
    (changes,) = np.nonzero(np.diff(np.sign(values[clear])))
    return [(float(Q_GRID[clear[i]]), float(Q_GRID[clear[i + 1]])) for i in changes]


def _critical_weight(phi: Nonlinearity, q: float) -> float:
    return float(1 / phi.derivative_second_moment(q))


def _depth_scale(slope: float) -> float:
    """Return 1 / abs(ln slope), the layers in which slope**layers changes by a factor e."""
    if slope <= 0:
        return 0.0
    return math.inf if abs(slope - 1) <= SAME else 1 / abs(math.log(slope))


def _check(nonlinearity: Nonlinearity | str, sigma_w2: float, sigma_b2: float) -> Nonlinearity:
    if not (sigma_w2 > 0 and math.isfinite(sigma_w2)):
        raise InvalidArgumentError(
            f"sigma_w2 is a variance times the width, finite and > 0, got {sigma_w2}."
        )
    if not (sigma_b2 >= 0 and math.isfinite(sigma_b2)):
        raise InvalidArgumentError(f"sigma_b2 is a variance, finite and >= 0, got {sigma_b2}.")
    return get_nonlinearity(nonlinearity)
