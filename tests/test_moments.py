from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction
from functools import reduce

import pytest
from hypothesis import given, strategies as st

from tests.strategies import elements
from varprobe.moments import (
    LinearInput,
    Moments,
    geometric_mean,
    merge_exponents,
    merge_linear_inputs,
)

UNIT_ROUNDOFF = 2.0**-53


def measure(values: list[float]) -> Moments:
    """Return the moments of ``values``, each exact but for one rounding: the oracle."""
    finite = [Fraction(value) for value in values if math.isfinite(value)]
    mean = sum(finite, Fraction(0)) / max(1, len(finite))
    return Moments(
        numel=len(values),
        mean=float(mean),
        m2=float(sum(((x - mean) ** 2 for x in finite), Fraction(0))),
        abs_max=float(max(map(abs, finite), default=0)),
        zeros=values.count(0.0),
        nan=sum(map(math.isnan, values)),
        inf=sum(map(math.isinf, values)),
    )


def assert_same_but_for_rounding(merged: Moments, whole: Moments, merges: int) -> None:
    """Compare what ``merges`` merges gave with the moments of all the elements.

    With u the unit roundoff, A = abs_max and n elements, to first order in u:

    - mean. A merge takes a convex combination of two means (their errors do not grow), adds three
      roundings of delta·share, |delta| <= 2A, and one of the sum: 7uA more. The first means are
      rounded once. After k merges the error is at most e = (7k + 1)uA <= 8(k + 1)uA.
    - m2. All terms are positive, so the at most 6 roundings of a merge cost 6u·m2 <= 6u·nA². The
      means enter through delta²·w with w = n1·n2/(n1 + n2), which changes by 2|delta|·2e·w, at
      most 8Ae·w; merged one chunk after the other, the w sum up to at most n. Together at most
      6k·u·nA² + 8A·8(k + 1)uA·n + one rounding of the first m2 <= 71(k + 1)·u·nA².
    - E[x²] = m2/n + mean²: 71(k + 1)uA² + 2A·e + 3 roundings <= 90(k + 1)uA².

    The factor 2 beyond covers the terms in u².
    """
    assert (merged.numel, merged.zeros, merged.nan, merged.inf) == (
        whole.numel,
        whole.zeros,
        whole.nan,
        whole.inf,
    )
    assert merged.abs_max == whole.abs_max
    unit = 2 * (merges + 1) * UNIT_ROUNDOFF
    largest = whole.abs_max
    assert merged.mean == pytest.approx(whole.mean, rel=0, abs=8 * unit * largest)
    assert merged.m2 == pytest.approx(whole.m2, rel=0, abs=71 * unit * whole.finite * largest**2)
    if whole.finite:
        bound = 90 * unit * largest**2
        assert merged.second_moment == pytest.approx(whole.second_moment, rel=0, abs=bound)


chunks = st.lists(elements | st.sampled_from([math.nan, math.inf, -math.inf]), max_size=8)


def test_properties_of_a_known_sample() -> None:
    moments = measure([0.0, 2.0, 4.0, math.nan, math.inf])
    assert moments.nonfinite == 2
    assert moments.finite == 3
    assert moments.mean == 2.0
    assert moments.variance == 8 / 3
    assert moments.second_moment == 8 / 3 + 4.0
    assert moments.zero_fraction == 1 / 5


def test_second_moment_is_not_the_variance() -> None:
    moments = measure([1.0, 3.0])
    assert (moments.variance, moments.second_moment) == (1.0, 5.0)


@pytest.mark.parametrize("values", [[], [math.nan, math.inf]])
def test_without_finite_elements_there_are_no_moments(values: list[float]) -> None:
    moments = measure(values)
    assert math.isnan(moments.variance)
    assert math.isnan(moments.second_moment)


def test_zeros_that_were_not_counted_are_nan() -> None:
    assert math.isnan(Moments(numel=4, mean=0.0, m2=0.0, abs_max=0.0).zero_fraction)


def test_zeros_stay_unknown_if_one_side_did_not_count_them() -> None:
    counted = measure([0.0, 1.0])
    uncounted = Moments(numel=1, mean=0.0, m2=0.0, abs_max=0.0)
    assert counted.merge(uncounted).zeros is None
    assert uncounted.merge(counted).zeros is None


@given(st.lists(chunks, min_size=1, max_size=6))
def test_merged_chunks_are_the_whole(parts: list[list[float]]) -> None:
    merged = reduce(Moments.merge, map(measure, parts))
    whole = measure([value for part in parts for value in part])
    assert_same_but_for_rounding(merged, whole, merges=len(parts) - 1)


@given(chunks, chunks, chunks)
def test_merging_is_associative_and_commutative(
    first: list[float], second: list[float], third: list[float]
) -> None:
    a, b, c = measure(first), measure(second), measure(third)
    whole = measure([*first, *second, *third])
    for merged in (a.merge(b).merge(c), a.merge(b.merge(c)), c.merge(b).merge(a)):
        assert_same_but_for_rounding(merged, whole, merges=2)


@given(chunks)
def test_merging_with_nothing_changes_nothing(values: list[float]) -> None:
    moments = measure(values)
    assert moments.merge(measure([])) == moments
    assert measure([]).merge(moments) == moments


def test_a_small_spread_survives_a_large_mean() -> None:
    # E[x²] - mean² would lose all of it: the spread is 1e-16 of the mean's square.
    halves = measure([1e8, 1e8 + 1.0]), measure([1e8, 1e8 + 1.0])
    assert halves[0].merge(halves[1]).variance == 0.25


@pytest.mark.parametrize("absent", [(None, None), (None, {0: 1}), ({0: 1}, None)])
def test_a_histogram_that_one_side_did_not_take_is_unknown(
    absent: tuple[dict[int, int] | None, dict[int, int] | None],
) -> None:
    assert merge_exponents(*absent) is None


def test_histograms_add_up_in_order() -> None:
    merged = merge_exponents({3: 2, 0: 1}, {-1: 5, 3: 4})
    assert merged is not None
    assert list(merged.items()) == [(-1, 5), (0, 1), (3, 6)]


def make_linear_input(scale: float, *, effective_samples: float, positions: int) -> LinearInput:
    return LinearInput(
        second_moment=scale,
        energy=10 * scale,
        common_energy=5 * scale,
        effective_samples=effective_samples,
        positions=positions,
    )


def test_inputs_are_averaged_by_their_positions() -> None:
    small = make_linear_input(1.0, effective_samples=2.0, positions=1)
    large = make_linear_input(5.0, effective_samples=7.0, positions=3)
    merged = make_linear_input(4.0, effective_samples=7.0, positions=4)
    assert merge_linear_inputs(small, large) == merged


def test_spreads_are_averaged_where_both_sides_know_them() -> None:
    one = make_linear_input(1.0, effective_samples=1.0, positions=1)
    near, far = (replace(one, sample_spread=s, token_spread=None) for s in (0.1, 0.3))
    merged = merge_linear_inputs(near, far)
    assert merged is not None
    assert merged.sample_spread == pytest.approx(0.2)
    assert merged.token_spread is None


def test_an_input_that_one_side_did_not_see_is_unknown() -> None:
    seen = make_linear_input(1.0, effective_samples=1.0, positions=1)
    assert merge_linear_inputs(seen, None) is None
    assert merge_linear_inputs(None, seen) is None


def test_geometric_mean() -> None:
    assert geometric_mean([1.0, 4.0]) == 2.0
    assert geometric_mean([0.0, 4.0]) == 0.0
    assert math.isnan(geometric_mean([math.nan, 0.0]))
    assert math.isnan(geometric_mean([]))
    # A product of these would underflow.
    assert geometric_mean([1e-300] * 5) == pytest.approx(1e-300)
