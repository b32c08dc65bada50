from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from tests.reporting.results import (
    analysis,
    comparison,
    diagnosis,
    healthy,
    prediction,
    recording,
)
from varprobe.errors import UnknownNameError
from varprobe.recording import Recording
from varprobe.recording_file import VERSION
from varprobe.reporting import to_json
from varprobe.reporting.json_document import DOCUMENT_VERSION


def refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is no JSON")


def read(result: object) -> dict[str, object]:
    """Parse as strictly as the standard has it: Python would take NaN and Infinity."""
    document = json.loads(to_json(result), parse_constant=refuse)
    assert isinstance(document, dict)
    return document


@pytest.mark.parametrize(
    ("result", "name"),
    [
        (recording("a"), "varprobe recording"),
        (analysis("a"), "varprobe analysis"),
        (diagnosis("a"), "varprobe diagnosis"),
        (comparison(), "varprobe comparison"),
        (prediction("a"), "varprobe prediction"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_document_names_itself(result: object, name: str) -> None:
    document = read(result)
    version = VERSION if name == "varprobe recording" else DOCUMENT_VERSION
    assert (document["format"], document["version"]) == (name, version)


def test_the_document_of_a_recording_is_its_file(tmp_path: Path) -> None:
    original = recording("a", "b", draws=2)
    original.to_json(tmp_path / "recording.json")
    assert Recording.load(tmp_path / "recording.json") == original


def test_infinity_and_nan_are_strings_and_what_does_not_apply_is_null() -> None:
    document = read(diagnosis("a"))
    (found,) = document["findings"]
    assert (found["measured"], found["expected"], found["threshold"]) == ("inf", 2.0, "nan")
    weight = next(s for s in document["analysis"]["sites"] if s["signal"] == "weight")
    assert (weight["ratio"], weight["gain"], weight["status"]) == ("nan", None, None)


def test_a_site_has_the_numbers_of_the_analysis() -> None:
    result = analysis("a", "b", draws=2)
    (row,) = [s for s in read(result)["sites"] if (s["module"], s["signal"]) == ("b", "activation")]
    (site,) = [s for s in result.select(signal="activation") if s.site.module == "b"]
    assert site.gain is not None
    numbers = {
        "draws": 2,
        "second_moment": site.second_moment,
        "predicted_second_moment": 1.0,
        "ratio": site.ratio,
        "z": site.z,
        "gain": site.gain.measured,
        "gain_z": site.gain.z,
        "zero_fraction": 0.25,
    }
    # Equal, not close: the shortest decimal of a float reads back as that float.
    assert {name: row[name] for name in numbers} == numbers


def test_a_verdict_has_what_a_gate_needs() -> None:
    document = read(healthy("a", "b", draws=3))
    assert (document["healthy"], document["layers"], document["draws"]) == (True, 2, 3)
    assert read(diagnosis("a"))["ignored"] == {"VP103": 4}


def test_a_comparison_has_a_verdict_for_each_initialization() -> None:
    judged = read(comparison())["initializations"]
    assert {name: verdict["healthy"] for name, verdict in judged.items()} == {
        "default": False,
        "kaiming_normal": True,
    }


def test_an_expectation_spells_out_its_site() -> None:
    document = read(prediction("a"))
    known, unknown = document["expectations"]
    assert (known["module"], known["signal"], known["log_std"]) == ("a", "activation", 0.5)
    assert (unknown["second_moment"], unknown["reason"]) == ("nan", "aten.fft: no rule")
    assert math.isnan(float(unknown["log_std"]))


def test_other_things_are_no_results() -> None:
    with pytest.raises(UnknownNameError, match="no kind of result named 'list'"):
        to_json([])
