from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from click.testing import Result

Run = Callable[..., Result]

TARGET = ("compare", "models.py:he", "--input", "16,64", "--draws", "2")


def test_initializations_stand_side_by_side(run: Run) -> None:
    result = run(*TARGET)
    assert result.exit_code == 1
    assert "Comparison of Sequential: default, xavier_normal, kaiming_normal" in result.stdout
    assert "VP301 error weight variance does not fit under xavier_normal" in result.stdout
    assert result.stdout.endswith(
        "default unhealthy, xavier_normal unhealthy, kaiming_normal healthy: 61 layers, 2 draws "
        "checked.\n"
    )


def test_one_may_name_them(run: Run) -> None:
    inits = ("--init", "kaiming_normal", "--init", "orthogonal", "--init", "kaiming_normal")
    document = json.loads(run(*TARGET, *inits, "--format", "json").stdout)
    assert list(document["initializations"]) == ["kaiming_normal", "orthogonal"]


def test_it_exits_with_0_if_all_are_healthy(run: Run) -> None:
    assert run(*TARGET, "--init", "kaiming_normal").exit_code == 0


def test_page_and_figure_are_written(run: Run) -> None:
    files = ("--html", "page.html", "--plot", "curves.svg")
    result = run(*TARGET, "--init", "kaiming_normal", *files)
    assert result.exit_code == 0, result.stderr
    assert "<title>Comparison of Sequential" in Path("page.html").read_text()
    assert "<svg" in Path("curves.svg").read_text()
