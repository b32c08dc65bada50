from __future__ import annotations

import re

from tests.reporting.results import EVIL, comparison, diagnosis, healthy, recording
from varprobe.reporting import to_markdown


def read_tables(text: str) -> list[list[str]]:
    """Return the tables of a page, as GitHub finds them: rows of one width."""
    return [block.splitlines() for block in text.split("\n\n") if block.startswith("| ")]


def test_every_row_of_a_table_has_as_many_cells_as_its_head() -> None:
    tables = read_tables(to_markdown(recording("a", EVIL)))
    assert len(tables) == 2
    for table in tables:
        assert len({len(re.findall(r"(?<!\\)\|", row)) for row in table}) == 1


def test_foreign_text_is_neither_markup_nor_html() -> None:
    text = to_markdown(recording("a", EVIL))
    assert "<script" not in text
    assert r"&lt;script&gt;alert(1)&lt;/script&gt;\|\`\[b\]\*&amp;\"'".replace('\\"', '"') in text


def test_the_verdict_comes_first_and_findings_before_numbers() -> None:
    text = to_markdown(diagnosis("a", "b"))
    assert text.startswith("## Diagnosis of Net\n\n**Unhealthy**: 2 layers, 1 draw checked")
    assert "- **VP301 error** weight variance: **a**<br>\n  the weight of a is off<br>\n" in text
    assert "  Fix: draw a again<br>\n  Also 1 more: b\n" in text
    assert text.index("VP301") < text.index("### Activations")
    assert "**Healthy**" in to_markdown(healthy("a"))


def test_a_comparison_has_a_table_for_each_initialization() -> None:
    text = to_markdown(comparison())
    assert "**kaiming\\_normal**\n\n| layer | measured | predicted | ratio | z |\n" in text


def test_what_was_not_observed_is_listed() -> None:
    assert "### Not observed\n\n- a: it is &lt;shy&gt;\n" in to_markdown(recording("a"))
