from __future__ import annotations

import pytest

from tests.reporting.results import (
    Prediction,
    analysis,
    comparison,
    diagnosis,
    healthy,
    prediction,
    recording,
)
from varprobe.analysis import analyze
from varprobe.errors import UnknownNameError
from varprobe.recording import Recording
from varprobe.reporting import describe
from varprobe.reporting.report import Section, Table


def read(table: Table) -> dict[str, dict[str, str]]:
    """Return the cells of a table by layer and title."""
    titles = [column.title for column in table.columns]
    rows = [dict(zip(titles, row, strict=True)) for row in table.rows]
    return {row[titles[titles.index("layer")]]: row for row in rows}


def find(sections: tuple[Section, ...], start: str) -> Section:
    (section,) = [section for section in sections if section.title.startswith(start)]
    return section


def test_measured_and_predicted_stand_side_by_side() -> None:
    report = describe(analysis("a", "b"))
    (table,) = find(report.sections, "Activations").tables
    row = read(table)["b"]
    assert (row["measured"], row["predicted"], row["ratio"]) == ("0.500", "1.00", "0.500")
    # ln 0.5 is -0.693, a typical draw lies at -0.5²/2, one standard error is 0.5.
    assert row["z"] == "-1.1"
    assert (row["gain"], row["local"]) == ("0.500", "1.00")


def test_the_headings_say_which_moment_in_which_unit() -> None:
    titles = [section.title for section in describe(analysis("a", draws=3)).sections]
    assert titles == [
        "Activations x: second moment E[x²] in a², geometric mean over 3 draws",
        "Gradients ∂L/∂x: second moment E[(∂L/∂x)²] in L²/a², geometric mean over 3 draws",
    ]
    (note, *_) = describe(analysis("a")).sections[0].notes
    assert note.startswith("Second moment = mean of squares, not the variance")


def test_a_missing_prediction_has_its_reason() -> None:
    gradients = find(describe(analysis("a", "b")).sections, "Gradients")
    assert gradients.notes == ("No prediction for b: aten.fft: no rule.",)


def test_without_a_prediction_there_are_no_columns_for_it() -> None:
    (table,) = describe(recording("a", "b")).sections[0].tables
    titles = [column.title for column in table.columns]
    assert titles == ["depth", "layer", "kind", "measured", "gain", "local"]


def test_codes_stand_at_the_layers_and_in_the_table_that_they_are_about() -> None:
    report = describe(diagnosis("a", "b", codes=("VP301", "VP201", "VP101")))
    activations, gradients = (read(section.tables[0]) for section in report.sections)
    assert activations["a"]["found"] == "VP301, VP101"
    assert gradients["b"]["found"] == "VP201"


def test_a_diagnosis_ends_with_what_was_looked_at_and_ignored() -> None:
    assert describe(healthy("a", "b", draws=3)).closing == "2 layers, 3 draws checked"
    assert describe(diagnosis("a")).closing == "1 layer, 1 draw checked; ignored: VP103 ×4"


@pytest.mark.parametrize(
    ("result", "verdict"),
    [
        (healthy("a"), True),
        (diagnosis("a"), False),
        (analysis("a"), None),
        (recording("a"), None),
        (comparison(), None),
    ],
    ids=["healthy", "unhealthy", "analysis", "recording", "comparison"],
)
def test_only_a_diagnosis_has_a_verdict(result: object, verdict: bool | None) -> None:
    assert describe(result).healthy is verdict


def test_a_comparison_has_a_row_and_a_table_for_each_initialization() -> None:
    report = describe(comparison())
    (overview,) = report.sections[0].tables
    # The activations halve with each layer, the gradients halve towards the input.
    assert [row[:4] + row[5:6] for row in overview.rows] == [
        ("default", "unhealthy", "VP301", "0.500", "0.500"),
        ("kaiming_normal", "healthy", "–", "0.500", "0.500"),
    ]
    assert [table.title for table in report.sections[1].tables] == ["default", "kaiming_normal"]
    assert report.closing == (
        "default unhealthy (ignored: VP103 ×4), kaiming_normal healthy: 2 layers, 1 draw checked"
    )


def test_several_runs_have_a_table_each() -> None:
    both = recording("a", run="first").merge(recording("a", run="second"))
    assert [table.title for table in describe(both).sections[0].tables] == ["first", "second"]


def test_a_prediction_shows_error_bars_and_what_it_has_no_rule_for() -> None:
    report = describe(prediction("a", "b"))
    (table,) = find(report.sections, "Activations").tables
    assert read(table)["a"]["error bar"] == "0.500"
    (unknown,) = find(report.sections, "Gradients").tables
    assert read(unknown)["b"]["status"] == "unknown"
    (operations,) = find(report.sections, "Operations without a rule").tables
    assert operations.rows == (("aten.fft", "2"),)
    assert report.closing == "3 tensors: 2 exact, 1 unknown"


def test_details_hold_every_site_of_every_signal() -> None:
    details = describe(recording("a", "b")).details
    assert sum(len(table.rows) for section in details for table in section.tables) == 6


def test_nothing_recorded_is_no_obstacle() -> None:
    report = describe(analyze(Recording(records=(), meta={})))
    assert (report.sections, report.draw) == ((), None)
    assert report.closing == "0 layers, 0 draws recorded"


def test_an_empty_prediction_is_no_obstacle() -> None:
    report = describe(Prediction())
    assert [section.title for section in report.sections] == ["Operations without a rule"]
    assert report.draw is None
    assert report.closing == "0 tensors: nothing to predict"


def test_other_things_are_no_results() -> None:
    with pytest.raises(UnknownNameError, match="no kind of result named 'dict'"):
        describe({})
