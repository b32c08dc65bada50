from __future__ import annotations

from dataclasses import replace
from xml.etree import ElementTree

from tests.reporting.results import EVIL, comparison, diagnosis, finding, healthy
from varprobe.reporting import Source, to_junit

SOURCE = Source(name="models.py:build", path="src/models.py", line=7)


def read(text: str) -> ElementTree.Element:
    assert text.isascii()
    assert text.endswith("\n")
    return ElementTree.fromstring(text)


def test_a_check_is_a_case_that_fails_by_an_error_only() -> None:
    findings = (finding("a"), finding("b"), finding("c", code="VP103", level="warning"))
    judged = replace(
        diagnosis("a"), findings=findings, checks=("VP901", "VP301"), ignored={"VP201": 2}
    )
    root = read(to_junit(judged))
    assert root.attrib == {
        "name": "varprobe", "tests": "4", "failures": "1", "errors": "0", "skipped": "1"
    }  # fmt: skip
    (suite,) = root
    assert {**root.attrib, "name": "Net"} == suite.attrib
    warned, skipped, failed, passed = suite.findall("testcase")
    assert warned.get("name") == "VP103 dead units"
    assert warned.findtext("system-out", "").startswith("VP103 warning: c: the weight of c is off")
    assert warned.find("failure") is None
    assert skipped.find("skipped").attrib == {"message": "2 findings ignored"}
    failure = failed.find("failure")
    assert failure.attrib == {"type": "VP301", "message": "a: the weight of a is off"}
    assert "VP301 error: b: the weight of b is off\n    fix: draw b again" in failure.text
    assert (passed.get("name"), len(passed)) == ("VP901 non-finite values", 0)
    assert suite.findtext("system-out") == "1 layer, 1 draw checked"


def test_cases_know_what_they_are_about() -> None:
    case = read(to_junit(diagnosis("a"), source=SOURCE)).find("*/testcase")
    assert case.attrib == {
        "classname": "varprobe.models.py:build",
        "name": "VP103 dead units",
        "file": "src/models.py",
        "line": "7",
    }
    elsewhere = read(to_junit(diagnosis("a"), source=Source(name="x:y"))).find("*/testcase")
    assert "file" not in elsewhere.attrib


def test_a_verdict_of_an_unregistered_check_is_not_lost() -> None:
    judged = replace(diagnosis("a"), findings=(finding("a", code="VP777"),))
    names = [case.get("name") for case in read(to_junit(judged)).iter("testcase")]
    assert "VP777 weight variance" in names


def test_a_comparison_is_a_suite_for_each_initialization() -> None:
    suites = read(to_junit(comparison())).findall("testsuite")
    assert [suite.get("name") for suite in suites] == [
        "Net under default",
        "Net under kaiming_normal",
    ]
    assert [suite.get("failures") for suite in suites] == ["1", "0"]


def test_what_xml_cannot_hold_is_replaced() -> None:
    evil = f"{EVIL}]]>\x1b[31m\x00\ud800é"
    failure = read(to_junit(diagnosis(evil))).find("*/testcase/failure")
    clean = f"{EVIL}]]>\ufffd[31m\ufffd\ufffdé"
    assert failure.get("message") == f"{clean}: the weight of {clean} is off"


def test_a_healthy_model_has_no_failure() -> None:
    root = read(to_junit(replace(healthy("a"), checks=("VP001", "VP101"))))
    assert (root.get("tests"), root.get("failures")) == ("2", "0")
