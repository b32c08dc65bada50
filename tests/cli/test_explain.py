from __future__ import annotations

from collections.abc import Callable

import pytest
from click.testing import Result

from varprobe.diagnosis import RULES

Run = Callable[..., Result]


def squeeze(text: str) -> str:
    return " ".join(text.split())


@pytest.mark.parametrize("code", sorted(RULES))
def test_a_code_is_explained_in_full(run: Run, code: str) -> None:
    rule = RULES[code]
    result = run("explain", code)
    assert result.exit_code == 0
    assert result.stdout.startswith(f"{code} {rule.name} ({rule.level})\n")
    told = squeeze(result.stdout)
    for text in (rule.what, rule.why, rule.remedy, rule.reference):
        assert squeeze(text) in told


def test_small_letters_will_do(run: Run) -> None:
    assert run("explain", "vp301").stdout == run("explain", "VP301").stdout


def test_an_unknown_code_gets_a_suggestion(run: Run) -> None:
    result = run("explain", "VP3011")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "There is no check named 'VP3011'. Did you mean 'VP301'?" in result.stderr


def test_without_a_code_all_are_listed(run: Run) -> None:
    lines = run("explain").stdout.splitlines()
    assert [line.split()[0] for line in lines] == sorted(RULES)
