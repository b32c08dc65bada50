"""A verdict as JUnit XML: a test case for each check, so that CI keeps a history of each."""

from __future__ import annotations

import re
from xml.etree import ElementTree

from varprobe.diagnosis import Diagnosis
from varprobe.reporting.numbers import count
from varprobe.reporting.verdicts import Source, list_codes, list_verdicts, name_check

_UNSPEAKABLE = re.compile(r"[^\t\n\r\x20-\uD7FF\uE000-\uFFFD\U00010000-\U0010FFFF]")
"""What XML 1.0 cannot hold, not even escaped."""


def to_junit(result: object, *, source: Source | None = None) -> str:
    """Return a verdict as JUnit XML.

    A check that made an error has failed, one whose findings are all ignored was skipped; what is
    only a warning or an info stands in its output.

    Parameters
    ----------
    result : Diagnosis or Comparison
        What a public call returned; a comparison is a suite for each initialization.
    source : Source, optional
        What was checked, for the name of the suite and the ``file`` and ``line`` of each case.

    Returns
    -------
    str
        An ASCII document with a newline at its end.

    Raises
    ------
    UnknownNameError
        If ``result`` holds no verdict.

    Examples
    --------
    >>> import torch, varprobe as vp
    >>> text = to_junit(vp.check(torch.nn.Linear(64, 64), torch.randn(32, 64)))
    >>> 'failures="0"' in text, 'name="VP201 vanishing gradients"' in text
    (True, True)
    """
    root = ElementTree.Element("testsuites", name="varprobe")
    for label, diagnosis in list_verdicts(result).items():
        root.append(_build_suite(label, diagnosis, source))
    for total in ("tests", "failures", "errors", "skipped"):
        root.set(total, str(sum(int(suite.get(total, "0")) for suite in root)))
    ElementTree.indent(root)
    document: bytes = ElementTree.tostring(root, encoding="us-ascii")
    return document.decode("ascii") + "\n"


def _build_suite(label: str, diagnosis: Diagnosis, source: Source | None) -> ElementTree.Element:
    model = str(diagnosis.analysis.recording.meta.get("model", "model"))
    about = source.name if source else model
    name = f"{about} under {label}" if label else about
    cases = [_build_case(code, name, diagnosis, source) for code in list_codes(diagnosis)]
    suite = ElementTree.Element(
        "testsuite",
        name=_clean(name),
        tests=str(len(cases)),
        failures=str(sum(case.find("failure") is not None for case in cases)),
        errors="0",
        skipped=str(sum(case.find("skipped") is not None for case in cases)),
    )
    suite.extend(cases)
    ElementTree.SubElement(suite, "system-out").text = _clean(diagnosis.checked)
    return suite


def _build_case(
    code: str, suite: str, diagnosis: Diagnosis, source: Source | None
) -> ElementTree.Element:
    found = tuple(finding for finding in diagnosis.all_findings if finding.code == code)
    case = ElementTree.Element(
        "testcase",
        classname=_clean(f"varprobe.{suite}"),
        name=_clean(f"{code} {name_check(code, found)}"),
    )
    if source and source.path:
        case.set("file", _clean(source.path))
        case.set("line", str(source.line))
    errors = [finding for finding in found if finding.level == "error"]
    if errors:
        where = errors[0].module or "(root)"
        message = f"{where}: {errors[0].message}"
        failure = ElementTree.SubElement(case, "failure", type=code, message=_clean(message))
        failure.text = _clean("\n".join(map(str, errors)))
    elif not found and diagnosis.ignored.get(code):
        message = f"{count(diagnosis.ignored[code], 'finding')} ignored"
        ElementTree.SubElement(case, "skipped", message=message)
    notes = [str(finding) for finding in found if finding.level != "error"]
    if notes:
        ElementTree.SubElement(case, "system-out").text = _clean("\n".join(notes))
    return case


def _clean(text: str) -> str:
    return _UNSPEAKABLE.sub("\ufffd", text)
