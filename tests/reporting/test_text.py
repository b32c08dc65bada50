from __future__ import annotations

import dataclasses

import pytest

from tests.reporting.results import EVIL, diagnosis, healthy, recording
from varprobe import reporting
from varprobe.reporting import to_text


def test_findings_say_where_what_and_what_to_do_next() -> None:
    text = to_text(diagnosis("a", "b"))
    assert "VP301 error weight variance: a\n    the weight of a is off\n" in text
    assert "    fix: draw a again\n" in text
    assert "    also: 1 more (b)\n" in text
    assert "    next: varprobe explain VP301\n" in text


def test_it_ends_with_the_verdict() -> None:
    assert to_text(healthy("a", "b", draws=3)).endswith("\nhealthy: 2 layers, 3 draws checked.\n")
    assert to_text(diagnosis("a")).splitlines()[-1].startswith("UNHEALTHY: 1 layer")


def test_names_are_shown_as_they_are() -> None:
    # Rich would read "[b]" as markup and swallow it.
    assert EVIL in to_text(recording(EVIL))


@pytest.mark.parametrize("width", [60, 80, 120])
def test_no_line_is_longer_than_asked_for(width: int) -> None:
    text = to_text(diagnosis("a" * 50, "b"), width=width)
    assert max(map(len, text.splitlines())) <= width


def test_plain_text_has_no_colours() -> None:
    assert "\x1b" not in to_text(diagnosis("a"))


def test_a_long_list_of_what_was_not_observed_is_cut() -> None:
    (unseen,) = recording("a").unobserved
    many = recording("a").__class__(
        records=recording("a").records,
        unobserved=tuple(
            type(unseen)(module=f"m{index}", reason="never called") for index in range(11)
        ),
    )
    assert "m7: never called\n  … and 3 more\n" in to_text(many)


@pytest.mark.parametrize("form", ["to_text", "to_markdown", "to_html", "to_json"])
def test_what_follows_from_a_cause_is_told_under_it(form: str) -> None:
    result = diagnosis("a")
    (cause,) = result.findings
    effect = dataclasses.replace(cause, code="VP201", module="layer<2>")
    cause = dataclasses.replace(cause, consequences=(effect,), effect="it gets better")
    told = getattr(reporting, form)(dataclasses.replace(result, findings=(cause,)))
    assert told.index("VP301") < told.index("it gets better") < told.index("VP201")
    assert ("layer&lt;2" if form in ("to_html", "to_markdown") else "layer<2") in told
