"""The family that normal, uniform and truncated normal belong to: a normal law cut at ±c.

c counts standard deviations of the uncut law. c = 0 is the uniform distribution, c = 2 what is
called trunc_normal, c = ∞ the normal. The formulas are those of the doubly truncated normal
distribution (Johnson, Kotz and Balakrishnan 1994, Continuous Univariate Distributions, 13.10).
"""

from __future__ import annotations

import math

from varprobe.initializers.laws import NORMAL_KURTOSIS, UNIFORM_KURTOSIS

UNIFORM, NORMAL = 0.0, math.inf


def density_at(cut: float) -> float:
    """Return the density of the cut law at its ends, for an uncut variance of 1."""
    return math.exp(-(cut**2) / 2) / math.sqrt(2 * math.pi) / share_kept(cut)


def share_kept(cut: float) -> float:
    """Return the probability that a normal variable lies between the cuts."""
    return math.erf(cut / math.sqrt(2))


def variance_left(cut: float) -> float:
    """Return the variance of the cut law, for an uncut variance of 1.

    Examples
    --------
    >>> round(variance_left(2.0), 4), variance_left(NORMAL)
    (0.7737, 1.0)
    """
    return 1.0 if cut == NORMAL else 1 - 2 * cut * density_at(cut)


def kurtosis_of(cut: float) -> float:
    """Return the fourth central moment over the squared variance of the cut law.

    Examples
    --------
    >>> kurtosis_of(UNIFORM), round(kurtosis_of(2.0), 3), kurtosis_of(NORMAL)
    (1.8, 2.366, 3.0)
    """
    if cut == UNIFORM:
        return UNIFORM_KURTOSIS
    if cut == NORMAL:
        return NORMAL_KURTOSIS
    return (3 - 2 * cut * (cut**2 + 3) * density_at(cut)) / variance_left(cut) ** 2


def find_cut(ratio: float) -> float | None:
    """Return the cut c at which the variance is ``ratio`` times the square of the half-width.

    None if that is at less than 0.1 or more than 12: the law is then all but uniform or normal.

    Examples
    --------
    >>> round(find_cut(variance_left(2.0) / 4), 6), find_cut(1 / 3), find_cut(0.001)
    (2.0, None, None)
    """
    from scipy.optimize import brentq

    def miss(cut: float) -> float:
        return variance_left(cut) / cut**2 - ratio

    least, most = 0.1, 12.0
    return float(brentq(miss, least, most)) if miss(most) < 0 < miss(least) else None
