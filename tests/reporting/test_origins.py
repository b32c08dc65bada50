from __future__ import annotations

import json
from dataclasses import replace

from tests.identification.test_origins import IDENTIFIED
from tests.reporting.results import EVIL
from varprobe.reporting import describe, to_html, to_json, to_markdown, to_text


def test_each_parameter_has_a_row() -> None:
    table = describe(IDENTIFIED).sections[0].tables[0]
    titles = [column.title for column in table.columns]
    rows = [dict(zip(titles, row, strict=True)) for row in table.rows]
    assert rows[0] == {
        "parameter": "fc.weight",
        "shape": "50×100",
        "std": "0.140",
        "distribution": "normal",
        "laws": "kaiming fan_in relu, std 0.14",
        "expected": "relu: 2/fan_in",
        "ratio": "0.980",
        "fits": "yes",
    }
    assert (rows[1]["distribution"], rows[1]["laws"], rows[1]["fits"]) == ("constant 2", "–", "–")
    assert (rows[2]["ratio"], rows[2]["fits"]) == ("16.0", "no")


def test_long_lists_of_laws_are_cut() -> None:
    weight = IDENTIFIED["fc.weight"]
    many = replace(IDENTIFIED, origins=(replace(weight, laws=weight.laws * 3),))
    assert "kaiming fan_in relu, std 0.14, 4 more" in describe(many).sections[0].tables[0].rows[0]


def test_without_any_nonlinearity_the_columns_for_it_are_left_out() -> None:
    section = describe(replace(IDENTIFIED, origins=(IDENTIFIED["scale"],))).sections[0]
    assert [column.title for column in section.tables[0].columns][-1] == "laws"
    assert "No nonlinearity was found" in section.notes[1]


def test_text_ends_with_what_was_found() -> None:
    text = " ".join(to_text(IDENTIFIED).split())
    assert "Not observed: lazy: has no shape yet" in text
    assert text.endswith(
        "3 parameters: 1 normal, 1 constant, 1 normal or uniform; 1 of 2 do not fit."
    )
    assert "out.weight few" in text


def test_pages_show_the_figure_and_take_names_as_they_are() -> None:
    evil = replace(IDENTIFIED, origins=(replace(IDENTIFIED["fc.weight"], module=EVIL),))
    page = to_html(evil)
    assert "<script>" not in page
    assert "<title>Identification of Net</title>" in page
    assert "data:image/svg+xml" in page
    assert "Parameters, all of 1" in page
    assert "| scale |  | 0.00 | constant 2 | – |" in to_markdown(IDENTIFIED)


def test_without_parameters_there_is_still_a_report() -> None:
    nothing = replace(IDENTIFIED, origins=())
    assert "0 parameters: none." in to_text(nothing)
    assert "data:image" not in to_html(nothing)


def test_json_has_all_laws_and_numbers() -> None:
    document = json.loads(to_json(IDENTIFIED))
    assert document["format"] == "varprobe identification"
    assert document["unobserved"] == [{"module": "lazy", "reason": "has no shape yet"}]
    first, second, _ = document["parameters"]
    assert first["laws"][1] == {"name": "std 0.14", "variance": 0.0196}
    assert first["expected"] == {"name": "2/fan_in", "variance": 0.02}
    assert (first["fits"], first["shape"]) == (True, [50, 100])
    assert (second["fits"], second["expected"], second["z"]) == (None, None, "nan")
