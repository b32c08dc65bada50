from __future__ import annotations

import base64
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest

from tests.reporting.results import (
    EVIL,
    analysis,
    comparison,
    diagnosis,
    healthy,
    prediction,
    recording,
)
from varprobe.reporting import to_html, to_html_fragment

RESULTS = {
    "recording": recording("a", EVIL),
    "analysis": analysis("a", EVIL),
    "diagnosis": diagnosis("a", EVIL),
    "healthy": healthy("a", EVIL),
    "comparison": comparison(),
    "prediction": prediction("a", EVIL),
}
VOID = {"img", "meta"}


class Page(HTMLParser):
    """Reads a page: its elements in order, its text, and whether every element is closed."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(params=RESULTS)
def result(request: pytest.FixtureRequest) -> object:
    return RESULTS[request.param]


def test_every_element_is_closed(result: object) -> None:
    assert Page(to_html(result)).open == []
    assert Page(to_html_fragment(result)).open == []


def test_a_page_loads_nothing_and_runs_nothing(result: object) -> None:
    page = to_html(result)
    parsed = Page(page)
    assert {tag for tag, _ in parsed.elements} & {"script", "link", "iframe", "object"} == set()
    links = [
        value
        for _, attrs in parsed.elements
        for name, value in attrs.items()
        if name in {"src", "href", "srcset"} or name.startswith("on")
    ]
    assert all(link is not None and link.startswith("data:image/svg+xml") for link in links)
    assert not re.search(r"@import|url\(", page)


def test_foreign_text_is_shown_and_not_obeyed() -> None:
    page = to_html(diagnosis("a", EVIL))
    assert "<script" not in page
    assert EVIL in Page(page).text


def test_a_page_has_both_schemes_and_a_title() -> None:
    page = to_html(healthy("a"))
    assert "<title>Diagnosis of Net</title>" in page
    assert '<meta name="color-scheme" content="light dark">' in page
    assert "prefers-color-scheme: dark" in page


def test_the_figure_is_an_image_with_a_description() -> None:
    (attrs,) = [attrs for tag, attrs in Page(to_html(analysis("a", "b"))).elements if tag == "img"]
    assert attrs["alt"]
    figure = base64.b64decode((attrs["src"] or "").partition("base64,")[2])
    assert ElementTree.fromstring(figure).tag == "{http://www.w3.org/2000/svg}svg"


def test_every_finding_is_there_with_its_remedy() -> None:
    text = Page(to_html(diagnosis("a", "b", "c"))).text
    assert "the weight of a is off" in text
    assert "draw a again" in text
    assert "and 2 more" in text
    assert "the weight of c is off" in text


def test_the_same_numbers_give_the_same_bytes() -> None:
    assert to_html(comparison()) == to_html(comparison())


def test_a_fragment_is_what_a_notebook_shows() -> None:
    result = diagnosis("a", "b")
    assert result._repr_html_() == to_html_fragment(result)
    assert "<html" not in to_html_fragment(result)
