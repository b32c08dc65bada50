from __future__ import annotations

import math

import pandas as pd
import pytest

from varprobe.errors import UnknownNameError
from varprobe.identification import Identification, Origin, VarianceLaw
from varprobe.recording import Unobserved
from varprobe.schema import IDENTIFICATION

LAW = VarianceLaw("kaiming fan_in relu", 0.02)

IDENTIFIED = Identification(
    origins=(
        Origin(
            module="fc",
            parameter="weight",
            kind="Linear",
            shape=(50, 100),
            mean=0.001,
            variance=0.0196,
            candidates=("normal",),
            laws=(LAW, VarianceLaw("std 0.14", 0.0196)),
            p_value=0.4,
            follower="relu",
            expected=VarianceLaw("2/fan_in", 0.02),
            ratio=0.98,
            z=-1.0,
            fits=True,
        ),
        Origin(
            module="",
            parameter="scale",
            kind="Net",
            shape=(),
            mean=2.0,
            variance=0.0,
            candidates=("constant",),
        ),
        Origin(
            module="out",
            parameter="weight",
            kind="Linear",
            shape=(4, 4),
            mean=0.0,
            variance=4.0,
            candidates=("normal", "uniform"),
            note="few",
            follower="tanh",
            expected=VarianceLaw("1/fan_in", 0.25),
            ratio=16.0,
            z=4.0,
            fits=False,
        ),
    ),
    unobserved=(Unobserved(module="lazy", reason="has no shape yet"),),
    meta={"model": "Net", "order": "calls"},
)


def test_the_frame_has_the_columns_of_the_schema() -> None:
    frame = IDENTIFIED.to_frame()
    assert list(frame.columns) == [column.name for column in IDENTIFICATION]
    assert {c.name: str(frame[c.name].dtype) for c in IDENTIFICATION if c.dtype != "str"} == {
        c.name: c.dtype for c in IDENTIFICATION if c.dtype != "str"
    }
    first = frame.iloc[0]
    assert first["laws"] == "kaiming fan_in relu, std 0.14"
    assert (first["shape"], first["numel"]) == ("50×100", 5000)
    assert (first["std"], first["expected_std"]) == (math.sqrt(0.0196), math.sqrt(0.02))
    assert frame["distribution"].tolist() == ["normal", "constant", "normal or uniform"]
    assert frame["fits"].tolist()[::2] == [True, False]
    assert pd.isna(frame["fits"][1])


def test_parameters_are_found_by_name() -> None:
    assert IDENTIFIED["fc.weight"].laws[0] == LAW
    assert IDENTIFIED["scale"].numel == 1
    with pytest.raises(UnknownNameError, match=r"fc\.wieght.*fc\.weight"):
        IDENTIFIED["fc.wieght"]


def test_the_repr_counts() -> None:
    assert repr(IDENTIFIED) == (
        "<Identification of Net: 3 parameters: 1 normal, 1 constant, 1 normal or uniform; 1 not "
        "read>"
    )


def test_it_draws_itself() -> None:
    assert IDENTIFIED.plot().places == ("fc.weight", "out.weight")
