"""Turn any callable into a function of float64 arrays; find its kinks and its derivative.

Kinks are found by splitting, as in Pachón, Platte and Trefethen 2010, Piecewise-smooth chebfuns:
an interval on which a polynomial of degree 15 fits is smooth; one on which none does is halved, and
holds a kink if it still does not fit when it is 0.01 wide.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.polynomial import chebyshev

from varprobe.theory.quadrature import Array, Function

POINTS = 16
"""Chebyshev points an interval."""

FIRST_EDGES = np.arange(-24.0, 24.0, 0.5) + 1 / math.pi
"""First intervals, off all round numbers: a kink on an edge would look smooth from either side."""

RESOLVED = 1e-12
"""Last coefficients, relative to the largest value of the function, of an interval that fits."""

SMOOTH_WIDTH = 1e-2
"""Width below which what does not fit is a kink: narrow enough to pass tanh(100 x) as smooth, wide
enough to see a jump of the second derivative, as in ELU."""

LEAST_WIDTH = 1e-11
"""Width at which the search for a kink ends."""

NOISE = 1e-14
"""Last coefficients, relative to the values nearby, that may be rounding errors."""

STEP = 0.25
"""Half-width of the interval whose interpolant is differentiated, away from kinks."""


def adapt(function: Callable[[Any], Any]) -> Function:
    """Return ``function`` as one of float64 arrays; a torch callable is given tensors.

    Raises
    ------
    TypeError
        If it takes neither an array nor a tensor, or does not return one value for each element.
    """
    probe = np.linspace(-1.0, 1.0, 4)
    try:
        values = np.asarray(function(probe), dtype=np.float64)
    except (TypeError, AttributeError, RuntimeError):
        return _adapt_torch(function)
    if values.shape != probe.shape:
        raise TypeError(
            f"A nonlinearity maps each element to one number; {function!r} turned shape "
            f"{probe.shape} into {values.shape}."
        )
    return lambda x: np.asarray(function(x), dtype=np.float64)


def _adapt_torch(function: Callable[[Any], Any]) -> Function:
    import torch

    def call(x: Array) -> Array:
        with torch.no_grad():
            result: Array = function(torch.tensor(x, dtype=torch.float64)).double().numpy()
        return result

    try:
        call(np.zeros(1))
    except (TypeError, AttributeError, RuntimeError) as error:
        raise TypeError(
            f"{function!r} takes neither a numpy array nor a torch tensor: {error}"
        ) from error
    return call


def find_kinks(function: Function) -> tuple[float, ...]:
    """Return where ``function`` or its first or second derivative jumps, between -23 and 23.

    A place that cannot be told from a multiple of 1/1000 is rounded to it.

    Examples
    --------
    >>> find_kinks(lambda x: np.clip(x, -1, 2.5))
    (-1.0, 2.5)
    """
    nodes, transform = _interpolation()
    low, high = FIRST_EDGES[:-1], FIRST_EDGES[1:]
    kinks: set[float] = set()
    largest = float(np.abs(function(FIRST_EDGES)).max())
    while low.size:
        middle, half = (low + high) / 2, (high - low) / 2
        tails = np.abs(function(middle[:, None] + half[:, None] * nodes) @ transform.T)
        rough = tails.max(axis=1) > RESOLVED * largest
        narrow = rough & (high - low < SMOOTH_WIDTH)
        suspects = zip(low[narrow].tolist(), high[narrow].tolist(), strict=True)
        kinks.update(_pin_down(function, *suspect) for suspect in suspects)
        wide = rough & ~narrow
        low, high = (
            np.concatenate([low[wide], middle[wide]]),
            np.concatenate([middle[wide], high[wide]]),
        )
    return tuple(sorted(kinks))


def _pin_down(function: Function, low: float, high: float) -> float:
    """Halve towards the half that a polynomial fits worse, while rounding lets one tell."""
    nodes, transform = _interpolation()
    while high - low > LEAST_WIDTH:
        middle, half = (low + high) / 2, (high - low) / 4
        values = function(np.array([[low + half], [high - half]]) + half * nodes)
        left, right = np.abs(values @ transform.T).max(axis=1)
        if max(left, right) < NOISE * np.abs(values).max():
            break
        low, high = (low, middle) if left > right else (middle, high)
    place, width = (low + high) / 2, high - low
    rounded = round(place, 3)
    return rounded if abs(place - rounded) < width + LEAST_WIDTH else place


def _interpolation() -> tuple[Array, Array]:
    """Return the Chebyshev points of [-1, 1] and the rows that give the last four coefficients."""
    nodes: Array = chebyshev.chebpts1(POINTS)
    to_series = np.linalg.inv(chebyshev.chebvander(nodes, POINTS - 1))
    return nodes, np.asarray(to_series[-4:], dtype=np.float64)


def differentiate(function: Function, kinks: Sequence[float]) -> Function:
    """Return the derivative of ``function`` by local interpolation that crosses no kink.

    Accurate to about 1e-13 of the function's size for functions as smooth as tanh between kinks.

    Examples
    --------
    >>> differentiate(np.abs, [0.0])(np.array([-2.0, 0.5])).round(12)
    array([-1.,  1.])
    """
    nodes = chebyshev.chebpts1(POINTS)
    to_series = np.linalg.inv(chebyshev.chebvander(nodes, POINTS - 1))
    slopes = chebyshev.chebder(to_series, axis=0)
    edges = np.array([-np.inf, *sorted(kinks), np.inf])

    def derivative(x: Array) -> Array:
        flat = np.asarray(x, dtype=np.float64).ravel()
        right = np.searchsorted(edges[1:-1], flat, side="left") + 1
        low, high = edges[right - 1], edges[right]
        half = np.minimum(STEP, (high - low) / 2)
        # Relative to the size of x, so that the nodes stay apart where x is large.
        half = np.minimum(np.maximum(half, 1e-6 * np.abs(flat)), (high - low) / 2)
        centre = np.clip(flat, low + half, high - half)
        values = function(centre[:, None] + half[:, None] * nodes)
        powers = chebyshev.chebvander((flat - centre) / half, POINTS - 2)
        result: Array = np.einsum("ij,jk,ik->i", powers, slopes, values, optimize=True) / half
        return result.reshape(np.shape(x))

    return derivative
