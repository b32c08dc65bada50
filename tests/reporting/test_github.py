from __future__ import annotations

import re
from dataclasses import replace

import pytest

from tests.reporting.results import EVIL, comparison, diagnosis, finding, healthy, recording
from varprobe.errors import UnknownNameError
from varprobe.reporting import Source, summarize_for_github, to_github

SOURCE = Source(name="models.py:build", path="src/models.py", line=7)


def read_command(line: str) -> tuple[str, dict[str, str], str]:
    """Return name, properties and message of a command, as a workflow runner reads them."""
    match = re.fullmatch(r"::([a-z]+) ([^:]*)::(.*)", line)
    assert match is not None, line
    name, properties, message = match.groups()
    pairs = dict(pair.split("=", 1) for pair in properties.split(","))
    return name, {key: unescape(value) for key, value in pairs.items()}, unescape(message)


def unescape(text: str) -> str:
    for code, sign in (("%3A", ":"), ("%2C", ","), ("%0D", "\r"), ("%0A", "\n"), ("%25", "%")):
        text = text.replace(code, sign)
    return text


def test_a_kind_of_finding_is_an_annotation_on_the_line() -> None:
    first, closing = to_github(diagnosis("a", "b"), source=SOURCE).splitlines()
    name, properties, message = read_command(first)
    assert name == "error"
    assert properties == {"title": "VP301 weight variance", "file": "src/models.py", "line": "7"}
    assert message == "a: the weight of a is off\nfix: draw a again\nalso: 1 more (b)"
    assert closing == "UNHEALTHY: 2 layers, 1 draw checked; ignored: VP103 ×4."


def test_levels_have_their_commands() -> None:
    findings = tuple(finding("a", level=level) for level in ("error", "warning", "info"))
    lines = to_github(replace(diagnosis("a"), findings=findings)).splitlines()
    assert [line.split()[0] for line in lines] == ["::error", "::warning", "::notice", "UNHEALTHY:"]


def test_a_healthy_model_says_what_was_checked() -> None:
    (line,) = to_github(healthy("a"), source=SOURCE).splitlines()
    assert read_command(line) == (
        "notice",
        {"title": "varprobe check models.py:build"},
        "healthy: 1 layer, 1 draw checked.",
    )


def test_without_a_file_there_is_no_line() -> None:
    first = to_github(diagnosis("a"), source=Source(name="torchvision.models:vgg16"))
    assert read_command(first.splitlines()[0])[1] == {"title": "VP301 weight variance"}


def test_foreign_text_ends_no_command_and_begins_none() -> None:
    evil = f"{EVIL}\n::warning::100%\r"
    first, _ = to_github(diagnosis(evil), source=Source(name="x", path="a,b:c.py")).splitlines()
    _, properties, message = read_command(first)
    assert properties["file"] == "a,b:c.py"
    assert message.startswith(f"{evil}: the weight of {evil} is off")


def test_a_comparison_annotates_every_run() -> None:
    lines = to_github(comparison()).splitlines()
    assert read_command(lines[0])[2].startswith("a (under default): ")
    assert lines[-1].startswith("UNHEALTHY: default unhealthy (ignored: VP103 ×4), kaiming_normal")


def test_a_summary_has_the_verdict_and_no_tables() -> None:
    text = summarize_for_github(diagnosis("a", "b"), source=SOURCE)
    assert text.startswith("## models.py:build\n\n**Unhealthy**: 2 layers, 1 draw checked")
    assert "**VP301 error**" in text
    assert "\n|" not in text
    assert summarize_for_github(healthy("a")).startswith("## Diagnosis of Net\n\n**Healthy**")


@pytest.mark.parametrize("write", [to_github, summarize_for_github])
def test_what_holds_no_verdict_is_refused(write) -> None:
    with pytest.raises(
        UnknownNameError, match="no kind of result with a verdict named 'Recording'"
    ):
        write(recording("a"))
