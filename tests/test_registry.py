from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from varprobe.errors import DuplicateNameError, UnknownNameError
from varprobe.registry import Registry


@pytest.fixture
def greetings() -> Registry[str, str]:
    registry: Registry[str, str] = Registry("greeting")
    registry.register("polite", "formal")("Good morning")
    registry.register("short")("Hi")
    return registry


def test_an_entry_is_found_under_each_of_its_names(greetings: Registry[str, str]) -> None:
    assert greetings["polite"] == greetings["formal"] == "Good morning"
    assert list(greetings) == ["polite", "formal", "short"]
    assert len(greetings) == 3


def test_register_returns_what_it_files() -> None:
    def greet() -> str:
        return "Hi"

    assert Registry("greeting").register("short")(greet) is greet


def test_a_failed_look_up_lists_the_names_and_suggests_the_nearest(
    greetings: Registry[str, str],
) -> None:
    with pytest.raises(UnknownNameError) as caught:
        greetings["polit"]
    assert str(caught.value) == (
        "There is no greeting named 'polit'. Did you mean 'polite'? Known: formal, polite, short."
    )


def test_a_duplicate_is_refused_and_says_how_to_replace(greetings: Registry[str, str]) -> None:
    with pytest.raises(DuplicateNameError) as caught:
        greetings.register("short")("Yo")
    assert str(caught.value) == (
        "The greeting 'short' is registered already. Choose another name, or pass "
        "overwrite=True to replace it."
    )
    assert greetings["short"] == "Hi"


def test_a_refused_registration_files_none_of_its_names(greetings: Registry[str, str]) -> None:
    with pytest.raises(DuplicateNameError):
        greetings.register("curt", "short")("Yo")
    assert "curt" not in greetings


def test_overwrite_replaces(greetings: Registry[str, str]) -> None:
    greetings.register("short", overwrite=True)("Yo")
    assert greetings["short"] == "Yo"
    assert len(greetings) == 3


def test_get_and_in_do_not_raise_for_unknown_names(greetings: Registry[str, str]) -> None:
    assert greetings.get("rude") is None
    assert greetings.get("rude", "Hey") == "Hey"
    assert greetings.get("short", "Hey") == "Hi"
    assert "rude" not in greetings


def test_classes_as_names_are_spelled_by_their_name() -> None:
    registry: Registry[type, str] = Registry("rule")
    registry.register(dict)("a rule")
    with pytest.raises(UnknownNameError, match=r"no rule named 'list'.*Known: dict\."):
        registry[list]


@given(st.dictionaries(st.text(), st.integers()))
def test_a_registry_is_the_mapping_of_what_was_registered(entries: dict[str, int]) -> None:
    registry: Registry[str, int] = Registry("number")
    for name, entry in entries.items():
        registry.register(name)(entry)
    assert dict(registry) == entries
