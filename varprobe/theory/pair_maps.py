"""E f(u) f(v) of jointly Gaussian u and v for millions of correlations at once.

Three ways, chosen by what is asked for:

- few triples (variance, variance, correlation): a two-dimensional quadrature each, ~1e-11;
- many correlations, few pairs of variances: a table over the angle t = arccos(correlation) for each
  pair. A kink of f makes E f f behave like t³ or |t| near t = 0, which is smooth on 0 ≤ t ≤ π, so
  a Chebyshev series in t converges fast: 1e-10, in the worst case (variances that differ by a
  percent, f' that jumps away from zero, variances of 100) 1e-6;
- many pairs of variances: Mehler's series, the sum over n of a_n(q1) a_n(q2) correlation^n with the
  Hermite coefficients a_n(q) = E f(sqrt(q) z) He_n(z) / sqrt(n!), cut after 64 terms. What the cut
  leaves goes into two more powers, so that the diagonal (q1 = q2, correlation ±1) is exact;
  elsewhere the error is below the remainder, geometrically small for smooth f, ~1e-4 where f'
  jumps, and up to 1e-2, close to correlation ±1 only, for the product of two f' that jump.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations_with_replacement

import numpy as np
from numpy.polynomial import chebyshev
from numpy.typing import ArrayLike, NDArray

from varprobe.errors import VarprobeWarning
from varprobe.theory.quadrature import (
    LEAST_SPREAD,
    Array,
    Function,
    check_variance,
    clip_correlation,
    expect,
    expect_pair,
    hermite_rule,
)

FEW = 48
"""Correlations up to which the quadrature itself is cheaper than a table."""

MAX_VARIANCES = 4
"""Distinct variances up to which each of their pairs, at most ten, gets a table of its own."""

DEGREES = (64, 128, 256)
"""Degrees of the Chebyshev series that are tried in turn."""

TABLE_TOLERANCE = 1e-10
"""Last Chebyshev coefficients, relative to the largest, at which a series is long enough."""

TABLE_DISAGREEMENT = 1e-7
"""Relative error at correlation 1 from which on a table is not to be trusted."""

CELLS = 4096
"""Cells of a table; the cubic in each is off by (π/4096)⁴/384 = 1e-15 fourth derivatives."""

TERMS = 64
"""Terms of Mehler's series; even, so that the two powers for the remainder start with even."""

BLOCK = 1 << 15
"""Correlations looked up at once, so that the temporaries stay in the processor's cache."""


def expect_pairs(
    function: Function,
    kinks: tuple[float, ...],
    first_variance: ArrayLike,
    second_variance: ArrayLike,
    correlation: ArrayLike,
) -> Array:
    """Return E f(u) f(v) elementwise for centred Gaussian pairs.

    Parameters
    ----------
    function : callable
        f, vectorised and hashable: its tables are kept.
    kinks : tuple of float
        Where f or one of its derivatives jumps.
    first_variance, second_variance, correlation : array_like
        Of u, of v and between them; broadcast against each other. Correlations that rounding has
        put outside [-1, 1] are clipped.

    Returns
    -------
    ndarray
        float64, in the broadcast shape.

    Raises
    ------
    InvalidArgumentError
        If a variance is negative or not finite, or a correlation is NaN or beyond ±1.

    Examples
    --------
    >>> expect_pairs(np.tanh, (), 1.0, 1.0, [-1.0, 0.5, 1.0]).round(6)
    array([-0.394294,  0.186324,  0.394294])
    """
    q1, q2, rho = (
        np.asarray(array, dtype=np.float64)
        for array in (first_variance, second_variance, correlation)
    )
    check_variance(q1)
    check_variance(q2)
    rho = clip_correlation(rho)
    shape = np.broadcast_shapes(q1.shape, q2.shape, rho.shape)
    if math.prod(shape) <= FEW:
        triples = np.broadcast_arrays(q1, q2, rho)
        values = [
            expect_pair(function, function, first, second, cosine, kinks)
            for first, second, cosine in zip(*map(np.ravel, triples), strict=True)
        ]
        return np.array(values, dtype=np.float64).reshape(shape)
    result, rho = np.empty(shape), np.broadcast_to(rho, shape)
    variances, numbers = np.unique(np.concatenate([q1.ravel(), q2.ravel()]), return_inverse=True)
    index1 = np.broadcast_to(numbers[: q1.size].reshape(q1.shape), shape)
    index2 = np.broadcast_to(numbers[q1.size :].reshape(q2.shape), shape)
    if variances.size > MAX_VARIANCES:
        _sum_series(result, _expand(function, kinks, variances), index1, index2, rho)
        return result
    for (i, low), (j, high) in combinations_with_replacement(enumerate(variances.tolist()), 2):
        here = (np.minimum(index1, index2) == i) & (np.maximum(index1, index2) == j)
        if here.any():
            result[here] = _tabulate(function, kinks, low, high).look_up(rho[here])
    return result


@dataclass(frozen=True, slots=True, eq=False)
class _Table:
    """E f(u) f(v) as a function of the angle: one cubic a cell, rows of rising powers."""

    cubics: Array

    def look_up(self, correlation: Array) -> Array:
        result = np.empty(correlation.size)
        for block in _blocks(correlation.size):
            place = np.arccos(correlation[block])
            place *= CELLS / np.pi
            cell = np.minimum(place.astype(np.intp), CELLS - 1)
            place -= cell
            cubic = self.cubics[cell]
            value = cubic[:, 3]
            for power in (2, 1, 0):
                value = value * place + cubic[:, power]
            result[block] = value
        return result


def _blocks(size: int) -> Iterator[slice]:
    return (slice(start, start + BLOCK) for start in range(0, size, BLOCK))


@lru_cache(maxsize=256)
def _tabulate(function: Function, kinks: tuple[float, ...], q1: float, q2: float) -> _Table:
    for degree in DEGREES:
        points = chebyshev.chebpts1(degree + 1)
        cosines = np.cos(np.pi * (1 + points) / 2)
        exact = [expect_pair(function, function, q1, q2, cosine, kinks) for cosine in cosines]
        series = np.linalg.solve(chebyshev.chebvander(points, degree), exact)
        if np.abs(series[-4:]).max() <= TABLE_TOLERANCE * np.abs(series).max():
            break
    _check_end(function, kinks, q1, q2, float(chebyshev.chebval(-1.0, series)))

    grid = np.linspace(-1, 1, CELLS + 1)
    value = chebyshev.chebval(grid, series)
    slope = chebyshev.chebval(grid, chebyshev.chebder(series)) * (2 / CELLS)
    rise = np.diff(value)
    start, end = slope[:-1], slope[1:]
    return _Table(
        np.stack([value[:-1], start, 3 * rise - 2 * start - end, start + end - 2 * rise], axis=1)
    )


def _check_end(
    function: Function, kinks: tuple[float, ...], q1: float, q2: float, value: float
) -> None:
    """Warn if the table misses the one correlation, 1, that adaptive quadrature can reach."""
    first, second = (max(math.sqrt(q), LEAST_SPREAD) for q in (q1, q2))

    def product(z: Array) -> Array:
        return function(first * z) * function(second * z)

    edges = [kink / spread for kink in kinks for spread in (first, second)]
    exact = float(expect(product, 1.0, kinks=edges))
    if abs(value - exact) > TABLE_DISAGREEMENT * abs(exact):
        warnings.warn(
            f"E f(u) f(v) is off by {abs(value / exact - 1):.1e} at correlation 1 and variances "
            f"{q1:g}, {q2:g}. The function changes faster than tanh does, or has a kink that is "
            "not in kinks=; rescale it or name the kink.",
            VarprobeWarning,
            stacklevel=4,
        )


def _expand(function: Function, kinks: tuple[float, ...], variances: Array) -> Array:
    """Return the Hermite coefficients, shape (TERMS + 2, variances).

    The last two hold the root of what the even and the odd terms leave of E f².
    """
    spreads = np.maximum(np.sqrt(variances), LEAST_SPREAD)
    coefficients = np.empty((TERMS + 2, variances.size))
    for column, spread in enumerate(spreads):
        z, weights = hermite_rule(kinks, spread)
        weighted = function(spread * z) * weights
        before, now = np.zeros_like(z), np.ones_like(z)
        for n in range(TERMS):
            coefficients[n, column] = now @ weighted
            before, now = now, (z * now - math.sqrt(n) * before) / math.sqrt(n + 1)

    square = expect(lambda x: function(x) ** 2, variances, kinks=kinks)
    mirrored = expect(
        lambda x: function(x) * function(-x), variances, kinks=(*kinks, *(-k for k in kinks))
    )
    even, odd = (square + mirrored) / 2, (square - mirrored) / 2
    coefficients[TERMS] = np.sqrt(np.maximum(even - np.sum(coefficients[:TERMS:2] ** 2, 0), 0))
    coefficients[TERMS + 1] = np.sqrt(np.maximum(odd - np.sum(coefficients[1:TERMS:2] ** 2, 0), 0))
    return coefficients


def _sum_series(
    total: Array,
    coefficients: Array,
    index1: NDArray[np.intp],
    index2: NDArray[np.intp],
    correlation: Array,
) -> None:
    """Write Mehler's series into ``total``, by Horner's rule on halves that fit the cache."""
    if total.size > BLOCK:
        axis = int(np.argmax(total.shape))
        middle = total.shape[axis] // 2
        for side in (slice(None, middle), slice(middle, None)):
            part = (slice(None),) * axis + (side,)
            _sum_series(total[part], coefficients, index1[part], index2[part], correlation[part])
        return
    index1, index2 = _unrepeat(index1), _unrepeat(index2)
    total[...] = 0
    for row in coefficients[::-1]:
        total *= correlation
        total += row[index1] * row[index2]


def _unrepeat(index: NDArray[np.intp]) -> NDArray[np.intp]:
    """Undo a broadcast: keep one element along each axis of stride zero."""
    return index[tuple(slice(None, 1 if stride == 0 else None) for stride in index.strides)]
