from __future__ import annotations

import math

import pytest
from hypothesis import given, strategies as st

from varprobe.reporting.numbers import (
    MISSING,
    count,
    format_number,
    format_score,
    format_share,
    shorten,
)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0.00"),
        (1.0, "1.00"),
        (-12.345, "-12.3"),
        (123.0, "123"),
        (999.6, "1.00e+03"),
        (0.00012345, "0.000123"),
        (1e-30, "1.00e-30"),
        (math.inf, "inf"),
        (math.nan, MISSING),
    ],
)
def test_a_number_has_three_digits(value: float, text: str) -> None:
    assert format_number(value) == text


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_number_reads_as_itself_to_three_digits(value: float) -> None:
    # Half a unit of the third digit of 1.00: a relative error of 0.5 %. Subnormals have fewer.
    assert math.isclose(float(format_number(value)), value, rel_tol=5.1e-3, abs_tol=1e-320) or (
        abs(value) > 1.79e308
    )


def test_a_score_has_a_sign_and_a_share_is_a_percentage() -> None:
    assert [format_score(2.0), format_score(-0.04), format_score(math.nan)] == [
        "+2.0",
        "-0.0",
        MISSING,
    ]
    assert [format_share(0.5), format_share(math.nan)] == ["50.0%", MISSING]


def test_nouns_follow_their_number() -> None:
    assert [count(0, "layer"), count(1, "layer"), count(2, "layer")] == [
        "0 layers",
        "1 layer",
        "2 layers",
    ]


@pytest.mark.parametrize(
    ("names", "text"), [("", ""), ("ab", "a, b"), ("abc", "a, b, c"), ("abcde", "a, b, …, e")]
)
def test_a_long_list_keeps_its_ends(names: str, text: str) -> None:
    assert shorten(list(names), limit=3) == text
