"""Expectations of functions of one or two Gaussian variables, split at the functions' kinks.

Gauss-Hermite quadrature is no use here: 64 nodes are 2.6e-3 off on E[relu(z)], because a polynomial
rule does not see a kink inside its interval. Both rules below cut the line at the kinks and apply a
Gauss-Legendre rule to each panel, on which the integrand is smooth.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from varprobe.errors import InvalidArgumentError, VarprobeWarning

Array = NDArray[np.float64]
Function = Callable[[Array], Array]
"""A function of a real variable, vectorised over arrays of any shape."""

NODES = 20
"""Gauss-Legendre nodes a panel."""

TOLERANCE = 1e-14
"""Error allowed to one panel, relative to the integral of the absolute integrand."""

HALVINGS = 60
"""Generations of refinement: a panel of width 5 then is narrower than a rounding error."""

MAX_PANELS = 2000
"""Panels per integral at which refinement gives up: a smooth function needs some tens."""

Z_EDGES = (-38.0, -12.0, -5.0, 5.0, 12.0, 38.0)
"""First panels in standard deviations; exp(-38²/2) is the smallest number of a double."""

X_EDGES = (-36.0, -12.0, -4.0, 0.0, 4.0, 12.0, 36.0)
"""First panels in the function's own variable: activation functions do what they do near zero."""

LEAST_SPREAD = 1e-150
"""Stands for a standard deviation of zero, so that a kink at the mean counts from both sides."""

ROUNDING = 1e-6
"""What a correlation may exceed 1 by, having been computed in single precision."""

BLOCK = 2048
"""Integrals done at once; bounds the memory to some 30 MB."""

PLANE_REACH = 10.0
"""Where the plane is cut, in standard deviations: P(|z| > 10) = 1.5e-23."""

PLANE_EDGES = (-10.0, -6.0, -2.0, 2.0, 6.0, 10.0)
"""Panels of the plane in standard deviations: 20 nodes integrate the density over 4 to 1e-13."""


def expect(
    function: Function, variance: ArrayLike, mean: ArrayLike = 0.0, kinks: Sequence[float] = ()
) -> Array:
    """Return E f(x), x ~ N(mean, variance), by adaptive quadrature split at the kinks.

    Parameters
    ----------
    function : callable
        f, vectorised; it may grow up to exponentially.
    variance, mean : array_like
        Broadcast against each other; variance ≥ 0, where 0 is the limit from above.
    kinks : sequence of float
        Where f or one of its derivatives jumps. One that is missing costs time, not accuracy.

    Returns
    -------
    ndarray
        float64, in the broadcast shape; about 1e-13 relative to E |f|.

    Raises
    ------
    InvalidArgumentError
        If a variance is negative or not finite.

    Examples
    --------
    >>> float(expect(np.square, variance=4.0, mean=1.0).round(12))
    5.0
    """
    variances, means = np.broadcast_arrays(
        np.asarray(variance, dtype=np.float64), np.asarray(mean, dtype=np.float64)
    )
    check_variance(variances)
    centres = means.ravel()
    spreads = np.maximum(np.sqrt(variances.ravel()), LEAST_SPREAD)
    result = np.empty(centres.size)
    for start in range(0, centres.size, BLOCK):
        block = slice(start, start + BLOCK)
        result[block] = _expect_block(function, centres[block], spreads[block], kinks)
    return result.reshape(means.shape)


def check_variance(variance: Array) -> None:
    """Raise InvalidArgumentError unless every variance is finite and not negative."""
    wrong = variance[~((variance >= 0) & np.isfinite(variance))]
    if wrong.size:
        raise InvalidArgumentError(f"A variance is a finite number >= 0, got {wrong[0]}.")


def clip_correlation(correlation: Array) -> Array:
    """Return correlations within [-1, 1]; raise InvalidArgumentError for what is not rounding."""
    wrong = correlation[~(np.abs(correlation) <= 1 + ROUNDING)]
    if wrong.size:
        raise InvalidArgumentError(f"A correlation lies between -1 and 1, got {wrong[0]}.")
    clipped: Array = correlation.clip(-1, 1)
    return clipped


def _expect_block(
    function: Function, centres: Array, spreads: Array, kinks: Sequence[float]
) -> Array:
    edges = _first_edges(centres, spreads, kinks)
    low, high = edges[:, :-1], edges[:, 1:]
    owner = np.broadcast_to(np.arange(centres.size)[:, None], low.shape)
    wide = high > low
    low, high, owner = low[wide], high[wide], owner[wide]

    def integrate(low: Array, high: Array) -> tuple[Array, Array]:
        return _integrate(function, centres[owner], spreads[owner], low, high)

    whole, magnitude = integrate(low, high)
    scale = np.bincount(owner, magnitude, centres.size)
    total = np.zeros(centres.size)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        left, left_magnitude = integrate(low, middle)
        right, right_magnitude = integrate(middle, high)
        halves, magnitude = left + right, left_magnitude + right_magnitude
        scale = np.maximum(scale, np.bincount(owner, magnitude, centres.size))
        # Negated, so that a panel that holds NaN counts as finished and passes it on.
        rough = np.abs(halves - whole) > TOLERANCE * scale[owner]
        if 2 * rough.sum() > MAX_PANELS * centres.size:
            warnings.warn(
                "A Gaussian integral did not converge to 1e-14; the function may be noisy "
                "(computed in single precision?) or jump very often.",
                VarprobeWarning,
                stacklevel=3,
            )
            rough[:] = False
        total += np.bincount(owner[~rough], halves[~rough], centres.size)
        if not rough.any():
            return total
        low, high = (
            np.concatenate([low[rough], middle[rough]]),
            np.concatenate([middle[rough], high[rough]]),
        )
        whole = np.concatenate([left[rough], right[rough]])
        owner = np.concatenate([owner[rough], owner[rough]])
    return total + np.bincount(owner, whole, centres.size)


def _first_edges(centres: Array, spreads: Array, kinks: Sequence[float]) -> Array:
    """Return the sorted edges of the first panels, in standard deviations, one row an integral."""
    marks = np.array([*kinks, *X_EDGES])
    own = (marks - centres[:, None]) / spreads[:, None]
    shared = np.broadcast_to(np.array(Z_EDGES), (centres.size, len(Z_EDGES)))
    return np.sort(np.concatenate([own.clip(Z_EDGES[0], Z_EDGES[-1]), shared], axis=1), axis=1)


def _integrate(
    function: Function, centres: Array, spreads: Array, low: Array, high: Array
) -> tuple[Array, Array]:
    """Return the integral over each panel of f times the density, and that of its magnitude."""
    nodes, weights = _unit_rule()
    z = low[:, None] + (high - low)[:, None] * nodes
    values = function(centres[:, None] + spreads[:, None] * z) * _density(z)
    return (high - low) * (values @ weights), (high - low) * (np.abs(values) @ weights)


def expect_pair(
    first: Function,
    second: Function,
    first_variance: float,
    second_variance: float,
    correlation: float,
    kinks: Sequence[float] = (),
) -> float:
    """Return E f(u) g(v) for jointly Gaussian u and v of mean zero.

    Writes u and v in independent coordinates a and b along the diagonals of the plane,
    u = s_u (a cos(t/2) + b sin(t/2)), v = s_v (a cos(t/2) - b sin(t/2)), cos t = correlation. The
    inner integral over a splits at the kinks, the outer one over b where two of them cross. As
    t → 0 the integrand becomes independent of b, so nothing grows steep near correlation 1; a
    negative correlation is turned into a positive one by v → -v.

    Parameters
    ----------
    first, second : callable
        f and g, vectorised, with features no sharper than those of tanh: the rule is not adaptive.
    first_variance, second_variance : float
        Variances of u and v, > 0.
    correlation : float
        Of u and v, from -1 to 1.
    kinks : sequence of float
        Where f, g or one of their derivatives jumps; all of them.

    Returns
    -------
    float
        About 1e-11 relative to E |f g|, for variances up to 1e4.

    Examples
    --------
    >>> def relu(x):
    ...     return np.maximum(x, 0)
    >>> round(expect_pair(relu, relu, 1.0, 1.0, 0.0, kinks=[0.0]) * 2 * np.pi, 12)
    1.0
    """
    u_spread = max(math.sqrt(first_variance), LEAST_SPREAD)
    v_spread = math.copysign(max(math.sqrt(second_variance), LEAST_SPREAD), correlation)
    along = math.sqrt((1 + abs(correlation)) / 2)
    across = max(math.sqrt((1 - abs(correlation)) / 2), LEAST_SPREAD)
    u_kinks, v_kinks = _within_reach(kinks, u_spread), _within_reach(kinks, v_spread)
    u_marks, v_marks = _within_reach(X_EDGES, u_spread), _within_reach(X_EDGES, v_spread)

    crossings = (u_kinks[:, None] - v_kinks).ravel() / 2
    outer_edges = np.concatenate([crossings, u_marks, v_marks]) / across
    b, b_weights = _split_rule(np.unique(outer_edges.clip(-PLANE_REACH, PLANE_REACH))[None, :])

    u_edges = np.concatenate([u_kinks, u_marks]) - across * b.T
    v_edges = np.concatenate([v_kinks, v_marks]) + across * b.T
    a, a_weights = _split_rule(np.concatenate([u_edges, v_edges], axis=1) / along)

    u = u_spread * (along * a + across * b.T)
    v = v_spread * (along * a - across * b.T)
    return float(b_weights[0] @ np.sum(first(u) * second(v) * a_weights, axis=1))


def _within_reach(points: Sequence[float], spread: float) -> Array:
    """Return the points in standard deviations, without those too far out to matter."""
    scaled = np.array(points, dtype=np.float64) / spread
    return scaled[np.abs(scaled) < PLANE_REACH]


def _split_rule(edges: Array) -> tuple[Array, Array]:
    """Return nodes and weights, the density of N(0, 1) included, of a rule split at ``edges``.

    One row of edges in standard deviations gives one row of nodes.
    """
    shared = np.broadcast_to(np.array(PLANE_EDGES), (len(edges), len(PLANE_EDGES)))
    edges = np.concatenate([shared, edges.clip(-PLANE_REACH, PLANE_REACH)], axis=1)
    edges.sort(axis=1)
    unit, unit_weights = _unit_rule()
    widths = np.diff(edges, axis=1)[:, :, None]
    nodes = (edges[:, :-1, None] + widths * unit).reshape(len(edges), -1)
    weights = (widths * unit_weights).reshape(len(edges), -1)
    return nodes, weights * _density(nodes)


def hermite_rule(kinks: Sequence[float], spread: float) -> tuple[Array, Array]:
    """Return nodes and weights for E f(spread z) h(z), z ~ N(0, 1), h a polynomial of degree ~64.

    The rule is a fixed one, with panels narrow enough for the waves of the polynomial, split where
    ``spread z`` meets a kink.
    """
    waves = np.arange(-PLANE_REACH - 2, PLANE_REACH + 3)
    edges = np.concatenate([waves, _within_reach((*kinks, *X_EDGES), spread)])
    z, weights = _split_rule(edges[None, :])
    return z[0], weights[0]


@cache
def _unit_rule() -> tuple[Array, Array]:
    """Return nodes and weights of the Gauss-Legendre rule on the interval from 0 to 1."""
    nodes, weights = np.polynomial.legendre.leggauss(NODES)
    return (nodes + 1) / 2, weights / 2


def _density(z: Array) -> Array:
    return np.exp(-z * z / 2) / math.sqrt(2 * math.pi)
