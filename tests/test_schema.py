from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from varprobe.schema import (
    ANALYSIS,
    PHASE_DIAGRAM,
    PREDICTION,
    RECORDING,
    SIGNALS,
    Column,
    build_frame,
)

TABLES = {
    "recording": RECORDING,
    "prediction": PREDICTION,
    "analysis": ANALYSIS,
    "phase diagram": PHASE_DIAGRAM,
}

COLUMNS = (
    Column("label", "str", "", "a string"),
    Column("count", "int64", "", "a number of things"),
    Column("size", "float64", "a", "a measured value"),
    Column("signal", "category", "", "one of few", SIGNALS),
)


@pytest.mark.parametrize("columns", TABLES.values(), ids=TABLES)
def test_no_table_has_two_columns_of_one_name(columns: tuple[Column, ...]) -> None:
    names = [column.name for column in columns]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("columns", TABLES.values(), ids=TABLES)
def test_every_column_says_what_it_means_and_categories_what_they_allow(
    columns: tuple[Column, ...],
) -> None:
    for column in columns:
        assert column.meaning
        assert bool(column.categories) == (column.dtype == "category")


def test_columns_of_one_name_agree_between_the_tables() -> None:
    known: dict[str, Column] = {}
    for column in (*RECORDING, *PREDICTION, *ANALYSIS):
        first = known.setdefault(column.name, column)
        assert (column.dtype, column.unit) == (first.dtype, first.unit)


def test_an_analysis_has_every_column_of_the_recording_first() -> None:
    assert ANALYSIS[: len(RECORDING)] == RECORDING


def test_a_frame_has_the_columns_in_order_with_their_dtypes() -> None:
    frame = build_frame(
        COLUMNS,
        [
            {"signal": "weight", "size": 1, "count": 3, "label": "x"},
            {"label": "y", "count": 2**40, "size": math.inf, "signal": "gradient"},
        ],
    )
    assert list(frame) == ["label", "count", "size", "signal"]
    assert frame["label"].tolist() == ["x", "y"]
    assert frame["count"].dtype == np.int64
    assert frame["count"].tolist() == [3, 2**40]
    assert frame["size"].dtype == np.float64
    assert frame["size"].tolist() == [1.0, math.inf]
    assert frame["signal"].tolist() == ["weight", "gradient"]


def test_a_category_knows_all_its_values_whichever_occur() -> None:
    frame = build_frame(COLUMNS, [{"label": "x", "count": 1, "size": 0.0, "signal": "weight"}])
    assert tuple(frame["signal"].cat.categories) == SIGNALS


def test_what_a_row_lacks_is_nan_never_zero() -> None:
    frame = build_frame(COLUMNS, [{"label": "x", "count": 1}])
    assert frame["size"].isna().all()
    assert frame["signal"].isna().all()


def test_a_row_may_hold_more_than_the_columns() -> None:
    frame = build_frame(COLUMNS, [{"label": "x", "count": 1, "colour": "red"}])
    assert "colour" not in frame


def test_no_rows_make_an_empty_frame_with_the_same_dtypes() -> None:
    full = build_frame(COLUMNS, [{"label": "x", "count": 1, "size": 0.5, "signal": "weight"}])
    pd.testing.assert_series_equal(build_frame(COLUMNS, []).dtypes, full.dtypes)


def test_rows_may_come_from_a_generator() -> None:
    rows = ({"label": str(i), "count": i} for i in range(3))
    assert build_frame(COLUMNS, rows)["count"].tolist() == [0, 1, 2]
