"""How exact moments have to be, whatever computes them."""

from __future__ import annotations

import math

import pytest

from varprobe import Moments

PROMISED = 1e-6
"""Relative accuracy of E[x²] and of the variance, and of the mean in units of the deviations."""


def assert_accurate(found: Moments, exact: Moments) -> None:
    assert (found.numel, found.nan, found.inf) == (exact.numel, exact.nan, exact.inf)
    assert found.abs_max == pytest.approx(exact.abs_max, rel=1e-7)
    if exact.finite:
        second = exact.second_moment
        assert found.second_moment == pytest.approx(second, rel=PROMISED)
        # Equal elements: the first mean is off by 1e-6 of itself at most, and the square of that
        # cancels but for the roundings of float64 sums, 1e-14 of it.
        floor = 1e-26 * second
        assert found.variance == pytest.approx(exact.variance, rel=PROMISED, abs=floor)
        spread = math.sqrt(exact.variance)
        smallest = 1e-15 * math.sqrt(second)
        assert found.mean == pytest.approx(exact.mean, abs=PROMISED * spread + smallest, rel=0)
