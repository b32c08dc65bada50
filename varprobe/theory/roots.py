"""Where scatter comes from: branches of one stream scatter together.

The logarithm of a second moment is taken as a sum of independent deviations, one for each array
whose finite number of units adds to it. Behind a layer and an activation it is that of the array
below, times the exponent with which it follows, and a new one.
"""

from __future__ import annotations

from collections.abc import Mapping

Roots = Mapping[int, float]
"""Deviation of the logarithm by what it comes from: the identity of the pairs of an array."""


def scale_roots(roots: Roots, factor: float) -> Roots:
    """Return the deviations of a quantity that follows with this exponent."""
    return {key: factor * value for key, value in roots.items()}


def add_root(roots: Roots, key: int, deviation: float) -> Roots:
    """Return the deviations with one more."""
    return {**roots, key: roots.get(key, 0.0) + deviation}


def add_roots(first: Roots, second: Roots) -> Roots:
    """Return the deviations of a product."""
    return {k: first.get(k, 0.0) + second.get(k, 0.0) for k in {**first, **second}}


def covary(first: Roots, second: Roots) -> float:
    """Return the covariance of two logarithms."""
    return sum(value * second[key] for key, value in first.items() if key in second)


def separate(first: Roots, second: Roots) -> float:
    """Return the variance of the difference of two logarithms."""
    return sum(value * value for value in add_roots(first, scale_roots(second, -1.0)).values())
