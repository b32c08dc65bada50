"""SARIF 2.1.0: what its schema requires, property by property, and what code scanning asks for."""

from __future__ import annotations

import json
from dataclasses import replace

from tests.reporting.results import EVIL, comparison, diagnosis, finding, healthy
from varprobe.diagnosis import RULES
from varprobe.reporting import Source, to_sarif

SOURCE = Source(name="models.py:build", path="src/my models.py", line=7)


def read(text: str) -> dict:
    """Return the one run of a log that has all that SARIF and code scanning require."""
    assert text.isascii()
    log = json.loads(text, parse_constant=lambda name: 1 / 0)
    assert log["version"] == "2.1.0"
    assert log["$schema"].endswith("/sarif-schema-2.1.0.json")
    (run,) = log["runs"]
    driver = run["tool"]["driver"]
    assert driver["name"] == "varprobe"
    ids = [rule["id"] for rule in driver["rules"]]
    assert len(set(ids)) == len(ids)
    for rule in driver["rules"]:
        assert rule["name"].isidentifier()
        for text_of in ("shortDescription", "fullDescription", "help"):
            assert rule.get(text_of, {"text": "x"})["text"]
        assert rule.get("defaultConfiguration", {"level": "note"})["level"] in LEVELS
    for result in run["results"]:
        assert ids[result["ruleIndex"]] == result["ruleId"]
        assert result["level"] in LEVELS
        assert result["message"]["text"]
        (location,) = result["locations"]
        assert all(isinstance(value, str) for value in result["partialFingerprints"].values())
        for logical in location["logicalLocations"]:
            assert logical["fullyQualifiedName"]
        if "physicalLocation" in location:
            where = location["physicalLocation"]
            assert where["region"]["startLine"] >= 1
            assert " " not in where["artifactLocation"]["uri"]
    assert all(call["executionSuccessful"] is True for call in run["invocations"])
    return run


LEVELS = {"none", "note", "warning", "error"}


def test_a_finding_is_a_result_with_its_layer_and_its_line() -> None:
    first, second = read(to_sarif(diagnosis("net.a", "b"), source=SOURCE))["results"]
    assert first["message"]["text"] == "net.a: the weight of net.a is off\nfix: draw net.a again"
    assert first["locations"] == [
        {
            "physicalLocation": {
                "artifactLocation": {"uri": "src/my%20models.py", "uriBaseId": "%SRCROOT%"},
                "region": {"startLine": 7},
            },
            "logicalLocations": [{"name": "a", "fullyQualifiedName": "net.a", "kind": "member"}],
        }
    ]
    assert first["properties"] == {"measured": "inf", "expected": 2.0, "threshold": "nan"}
    assert first["partialFingerprints"] != second["partialFingerprints"]


def test_levels_are_those_of_sarif() -> None:
    findings = tuple(finding("a", level=level) for level in ("error", "warning", "info"))
    run = read(to_sarif(replace(diagnosis("a"), findings=findings)))
    assert [result["level"] for result in run["results"]] == ["error", "warning", "note"]
    assert "physicalLocation" not in run["results"][0]["locations"][0]


def test_every_check_that_ran_is_a_rule_with_its_help() -> None:
    run = read(to_sarif(replace(healthy("a"), checks=tuple(RULES))))
    rules = run["tool"]["driver"]["rules"]
    assert [rule["id"] for rule in rules] == sorted(RULES)
    assert all(RULES[rule["id"]].remedy in rule["help"]["text"] for rule in rules)
    assert run["results"] == []
    assert run["properties"]["verdicts"] == {
        "model": {"healthy": True, "checked": "1 layer, 1 draw checked"}
    }


def test_a_fingerprint_survives_other_numbers_and_tells_targets_apart() -> None:
    def mark(judged, source):
        return read(to_sarif(judged, source=source))["results"][0]["partialFingerprints"]

    judged = diagnosis("a")
    moved = replace(judged, findings=(replace(judged.findings[0], measured=3.0, message="other"),))
    assert mark(judged, SOURCE) == mark(moved, replace(SOURCE, line=99))
    assert mark(judged, SOURCE) != mark(judged, replace(SOURCE, name="models.py:other"))


def test_a_comparison_and_foreign_names_are_one_valid_run() -> None:
    run = read(to_sarif(comparison()))
    assert run["results"][0]["message"]["text"].startswith("a (under default): ")
    read(to_sarif(diagnosis(EVIL, ""), source=SOURCE))
    read(to_sarif(replace(diagnosis("a"), findings=(finding("a", code="VP777"),))))
