from __future__ import annotations

import math

import pytest

from tests.reporting.results import Expected, Prediction
from varprobe.recording import Site
from varprobe.reporting.expectations import (
    build_section,
    build_section_of_operations,
    summarize_statuses,
)


def expect(module: str, status: str = "exact", reason: str = "") -> Expected:
    number = math.nan if status in ("unknown", "tainted") else 2.0
    return Expected(site=Site(module=module), second_moment=number, status=status, reason=reason)


def test_a_reason_is_said_once_with_the_rows_that_share_it() -> None:
    tainted = [expect(f"c{index}", "tainted", "fft") for index in range(2)]
    rows = [expect("a"), expect("b", "unknown", "fft"), *tainted]
    section = build_section("gradient", rows)
    assert section.notes[1:] == ("tainted: c0, c1: fft.", "unknown: b: fft.")


def test_of_many_reasons_the_most_common_are_said() -> None:
    rows = [
        expect(f"{number}.{row}", "unknown", f"reason {number}")
        for number in range(5)
        for row in range(number + 1)
    ]
    notes = build_section("gradient", rows).notes[1:]
    assert notes == (
        "unknown: 4.0, 4.1, 4.2, 4.3, 4.4: reason 4.",
        "unknown: 3.0, 3.1, 3.2, 3.3: reason 3.",
        "unknown: 2.0, 2.1, 2.2: reason 2.",
        "Others, for 2 more reasons.",
    )


@pytest.mark.parametrize(
    ("meta", "note"),
    [
        ({"draws": 16}, "The rows behind them are estimated from 16 draws of the weights."),
        ({"draws": 0, "no_draws": "too large"}, "The rows behind them have no numbers: too large."),
        ({}, "The rows behind them have no numbers: nothing was drawn."),
    ],
)
def test_it_is_said_whether_draws_were_used(meta: dict[str, object], note: str) -> None:
    prediction = Prediction(expect("a"))
    prediction.meta = meta
    section = build_section_of_operations(prediction)
    assert section.tables[0].rows == (("aten.fft", "2"),)
    assert section.notes == (note,)


def test_the_summary_counts_from_the_best_to_the_worst() -> None:
    rows = [expect("a", "tainted"), expect("b", "approximate"), expect("c"), expect("d")]
    assert summarize_statuses(rows) == "4 tensors: 2 exact, 1 approximate, 1 tainted"
    assert summarize_statuses(rows[:1]) == "1 tensor: 1 tainted"
