"""A verdict as SARIF 2.1.0, the format of code scanning."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from urllib.parse import quote

import varprobe
from varprobe.diagnosis import RULES, Finding
from varprobe.recording_file import codec_of
from varprobe.reporting.verdicts import Source, list_codes, list_verdicts, name_check

SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/os/schemas/sarif-schema-2.1.0.json"

LEVELS = {"error": "error", "warning": "warning", "info": "note"}
"""Level of a finding: level of a SARIF result."""

NUMBERS = ("measured", "expected", "threshold")


def to_sarif(result: object, *, source: Source | None = None) -> str:
    """Return a verdict as a SARIF log: a rule for each check that ran, a result for each finding.

    Parameters
    ----------
    result : Diagnosis or Comparison
        What a public call returned.
    source : Source, optional
        What was checked, and where; code scanning shows only results that are in a file.

    Returns
    -------
    str
        ASCII, indented by two, with a newline at its end.

    Raises
    ------
    UnknownNameError
        If ``result`` holds no verdict.

    Examples
    --------
    >>> import json, torch, varprobe as vp
    >>> log = json.loads(to_sarif(vp.check(torch.nn.Linear(64, 64), torch.randn(32, 64))))
    >>> log["version"], log["runs"][0]["results"]
    ('2.1.0', [])
    """
    verdicts = list_verdicts(result)
    findings = tuple(finding for verdict in verdicts.values() for finding in verdict.findings)
    codes = sorted({code for verdict in verdicts.values() for code in list_codes(verdict)})
    driver = {
        "name": "varprobe",
        "version": varprobe.__version__,
        "semanticVersion": varprobe.__version__,
        "rules": [_describe_rule(code, findings) for code in codes],
    }
    run = {
        "tool": {"driver": driver},
        # One run, also of several verdicts: code scanning takes no two runs of one tool.
        "results": [_describe_finding(finding, codes, source) for finding in findings],
        "invocations": [{"executionSuccessful": True}],
        "columnKind": "unicodeCodePoints",
        "properties": {
            "verdicts": {
                label or (source.name if source else "model"): {
                    "healthy": verdict.healthy,
                    "checked": verdict.checked,
                }
                for label, verdict in verdicts.items()
            }
        },
    }
    log = {"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}
    return json.dumps(log, indent=2, allow_nan=False) + "\n"


def _describe_rule(code: str, findings: tuple[Finding, ...]) -> dict[str, object]:
    name = name_check(code, findings)
    described: dict[str, object] = {
        "id": code,
        "name": "".join(word.capitalize() for word in re.findall("[a-zA-Z0-9]+", name)),
        "shortDescription": {"text": name},
    }
    if code in RULES:
        rule = RULES[code]
        source = f"\n\n{rule.reference}" if rule.reference else ""
        described |= {
            "fullDescription": {"text": f"{rule.what} {rule.why}"},
            "help": {"text": f"{rule.why}\n\n{rule.remedy}{source}"},
            "defaultConfiguration": {"level": LEVELS[rule.level]},
        }
    return described


def _describe_finding(
    finding: Finding, codes: Sequence[str], source: Source | None
) -> dict[str, object]:
    where = finding.module or "(root)"
    about = source.name if source else ""
    identity = "\n".join((finding.code, about, finding.run, finding.module))
    run = f" (under {finding.run})" if finding.run else ""
    return {
        "ruleId": finding.code,
        "ruleIndex": codes.index(finding.code),
        "level": LEVELS[finding.level],
        "message": {"text": "\n".join((f"{where}{run}: {finding.message}", *finding.notes))},
        "locations": [_locate(where, source)],
        # The numbers move with every change, the layer and the code do not.
        "partialFingerprints": {
            "layerAndCode/v1": hashlib.sha256(identity.encode()).hexdigest()[:32]
        },
        "properties": _list_numbers(finding),
    }


def _locate(layer: str, source: Source | None) -> dict[str, object]:
    logical = [{"name": layer.rpartition(".")[2], "fullyQualifiedName": layer, "kind": "member"}]
    if source is None or not source.path:
        return {"logicalLocations": logical}
    physical = {
        "artifactLocation": {"uri": quote(source.path), "uriBaseId": "%SRCROOT%"},
        "region": {"startLine": source.line},
    }
    return {"physicalLocation": physical, "logicalLocations": logical}


def _list_numbers(finding: Finding) -> Mapping[str, object]:
    encoded: Mapping[str, object] = codec_of(Finding).encode(finding)
    return {name: encoded[name] for name in NUMBERS}
