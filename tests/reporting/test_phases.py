from __future__ import annotations

import json
import math

import pytest

import varprobe as vp
from varprobe.reporting import describe, to_html, to_json, to_markdown, to_text
from varprobe.reporting.phases import EDGE_NOTE, build_sections, explain_edge, summarize_phases
from varprobe.theory.mean_field import find_edge_of_chaos


@pytest.fixture(scope="module")
def few() -> vp.PhaseDiagram:
    return vp.map_phases("erf", sigma_w2=[0.5, 2.5], sigma_b2=[0.05, 0.2, 0.3])


@pytest.fixture(scope="module")
def many() -> vp.PhaseDiagram:
    return vp.map_phases("erf")


def test_few_networks_are_all_shown(few: vp.PhaseDiagram) -> None:
    edge, networks = build_sections(few)
    assert [row[:2] for row in edge.tables[0].rows] == [
        ("0.05", "1.376"),
        ("0.2", "1.788"),
        ("0.3", "1.963"),
    ]
    assert [table.title for table in networks.tables] == [
        "sigma_b2 = 0.05",
        "sigma_b2 = 0.2",
        "sigma_b2 = 0.3",
    ]
    assert [row[:2] for row in networks.tables[0].rows] == [("0.5", "ordered"), ("2.5", "chaotic")]
    assert summarize_phases(few) == "6 networks: 3 ordered, 3 chaotic"


def test_of_many_networks_those_of_one_variance_are_shown(many: vp.PhaseDiagram) -> None:
    report = describe(many)
    (table,) = report.sections[1].tables
    assert table.title == "sigma_b2 = 0.05"
    assert len(table.rows) == len(many.sigma_w2)
    (everything,) = report.details
    assert sum(len(table.rows) for table in everything.tables) == len(many.points)
    assert report.facts[1] == ("sigma_b2", "0 … 0.5 (15 values)")


def test_a_line_on_every_side_needs_no_explanation(many: vp.PhaseDiagram) -> None:
    assert explain_edge(many) == ()


@pytest.mark.parametrize(
    ("name", "chi", "critical"),
    [
        ("relu", "0.5", "2"),
        ("leaky_relu(negative_slope=0.5)", "0.625", "1.6"),
        ("linear", "1", "1"),
    ],
)
def test_a_nonlinearity_that_scales_has_a_point_in_words(
    name: str, chi: str, critical: str
) -> None:
    for biases in ([0.0, 0.1], [0.1]):
        [note] = explain_edge(vp.map_phases(name, sigma_w2=[1.0], sigma_b2=biases))
        assert f"so that chi = {chi} sigma_w2 at every second moment" in note
        assert f"At sigma_w2 = {critical} without biases every second moment stays" in note


def test_where_there_is_no_edge_it_says_what_there_is() -> None:
    diagram = vp.map_phases("gelu", sigma_w2=[1.0, 3.0], sigma_b2=[0.0, 0.05])
    assert explain_edge(diagram) == (
        "gelu has no edge of chaos at sigma_b2 = 0, 0.05: no second moment is a stable fixed point "
        "with chi = 1.",
        "q* is infinite, activations explode, beyond sigma_w2 = 2.352 (sigma_b2 = 0), 2.234 "
        "(sigma_b2 = 0.05).",
    )
    (networks,) = build_sections(diagram)
    assert networks.notes[:2] == explain_edge(diagram)
    assert EDGE_NOTE not in networks.notes


def test_every_format_takes_it(few: vp.PhaseDiagram) -> None:
    assert to_text(few).startswith("Phase diagram of erf\n")
    assert to_text(few).endswith("\n6 networks: 3 ordered, 3 chaotic.\n")
    assert "| sigma\\_b2 | sigma\\_w2 | q\\* | xi\\_q |" in to_markdown(few)
    page = to_html(few)
    assert "<title>Phase diagram of erf</title>" in page
    assert "data:image/svg+xml" in page


def test_what_cannot_be_drawn_has_no_figure() -> None:
    diagram = vp.map_phases("erf", sigma_w2=[1.0], sigma_b2=[0.1, 0.2])
    assert describe(diagram).draw is None
    assert "data:image/svg+xml" not in to_html(diagram)


def test_the_document_has_every_number() -> None:
    diagram = vp.map_phases("relu", sigma_w2=[1.0, 3.0], sigma_b2=[0.0])
    document = json.loads(to_json(diagram))
    assert document["format"] == "varprobe phase diagram"
    assert (document["sigma_w2"], document["sigma_b2"]) == ([1.0, 3.0], [0.0])
    assert document["unbounded_from"] == list(diagram.unbounded_from)
    below, above = document["networks"]
    assert (below["phase"], below["chi"], below["xi_gradient"]) == ("ordered", 0.5, 1 / math.log(2))
    assert (above["phase"], above["q_star"]) == ("chaotic", "inf")
    [edge] = document["edge"]
    assert edge["sigma_w2"] == find_edge_of_chaos("relu").sigma_w2
