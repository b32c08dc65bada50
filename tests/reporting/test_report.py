from __future__ import annotations

from tests.reporting.results import finding
from varprobe.reporting.numbers import MISSING
from varprobe.reporting.report import Column, Table, group_findings


def test_findings_of_one_check_level_and_run_stand_together() -> None:
    findings = [
        finding("a"),
        finding("b", code="VP101"),
        finding("c"),
        finding("c", level="warning"),
        finding("c", run="other"),
    ]
    groups = group_findings(findings)
    assert [(g.first.code, g.first.level, g.first.run, len(g.others)) for g in groups] == [
        ("VP301", "error", "", 1),
        ("VP101", "error", "", 0),
        ("VP301", "warning", "", 0),
        ("VP301", "error", "other", 0),
    ]


def test_no_finding_is_lost_or_doubled() -> None:
    findings = [finding(name, code=code) for name in "abc" for code in ("VP101", "VP301")]
    groups = group_findings(findings)
    shown = [f for group in groups for f in (group.first, *group.others)]
    assert sorted(map(str, shown)) == sorted(map(str, findings))


def test_a_layer_with_two_findings_is_named_once() -> None:
    (group,) = group_findings([finding("a"), finding(""), finding("")])
    assert group.other_modules == ["(root)"]


def test_a_required_column_stays() -> None:
    table = Table(columns=(Column("measured", required=True),), rows=((MISSING,),))
    assert table.without_empty_columns() == table


def test_columns_of_numbers_without_any_are_left_out() -> None:
    table = Table(
        columns=(Column("layer", numeric=False), Column("z"), Column("gain")),
        rows=(("–", MISSING, "1.00"), ("b", MISSING, MISSING)),
    )
    assert table.without_empty_columns() == Table(
        columns=(Column("layer", numeric=False), Column("gain")),
        rows=(("–", "1.00"), ("b", MISSING)),
    )
