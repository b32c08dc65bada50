from __future__ import annotations

import inspect

import pytest

from varprobe import errors
from varprobe.errors import PropagationError, UnknownNameError, VarprobeError, VarprobeWarning

DEFINED = [
    item
    for _, item in inspect.getmembers(errors, inspect.isclass)
    if item.__module__ == errors.__name__
]


def test_unknown_name_suggests_the_nearest_and_lists_all_sorted() -> None:
    error = UnknownNameError.among(
        "initialization", "kaiming_norm", ["orthogonal", "kaiming_normal"]
    )
    assert str(error) == (
        "There is no initialization named 'kaiming_norm'. Did you mean 'kaiming_normal'? "
        "Known: kaiming_normal, orthogonal."
    )


def test_unknown_name_suggests_nothing_where_nothing_is_near() -> None:
    error = UnknownNameError.among("check", "zzz", ["VP101"])
    assert str(error) == "There is no check named 'zzz'. Known: VP101."


@pytest.mark.parametrize(
    "kind", [UnknownNameError, errors.DuplicateNameError, errors.InvalidArgumentError]
)
def test_a_wrong_argument_is_also_a_value_error(kind: type) -> None:
    assert issubclass(kind, ValueError)


def test_a_verdict_is_an_assertion_that_except_varprobe_error_lets_through() -> None:
    assert issubclass(PropagationError, AssertionError)
    assert not issubclass(PropagationError, VarprobeError)


def test_the_warning_is_a_user_warning() -> None:
    assert issubclass(VarprobeWarning, UserWarning)


@pytest.mark.parametrize("kind", DEFINED)
def test_the_tree_in_the_docstring_shows_every_class(kind: type) -> None:
    assert kind.__name__ in (errors.__doc__ or "")


@pytest.mark.parametrize(
    "kind", [kind for kind in DEFINED if kind not in (PropagationError, VarprobeWarning)]
)
def test_every_other_error_can_be_caught_as_one(kind: type) -> None:
    assert issubclass(kind, VarprobeError)
