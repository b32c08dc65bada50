from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from click.testing import Result

Run = Callable[..., Result]


def test_each_parameter_has_a_row_with_its_initializer(run: Run) -> None:
    result = run("identify", "models.py:he")
    assert result.exit_code == 0, result.stderr
    rows = [line for line in result.stdout.splitlines() if ".weight" in line]
    assert len(rows) == 30
    assert all(" normal " in row and "kaiming fan_in relu" in row for row in rows)
    assert all("relu: 2/fan_in" in row and " yes" in row for row in rows)
    assert result.stdout.endswith("30 parameters: 30 normal.\n")
    assert "order registration" in result.stdout


def test_what_does_not_fit_is_counted_and_no_failure(run: Run) -> None:
    result = run("identify", "models.py:xavier")
    assert result.exit_code == 0
    assert "30 of 30 do not fit" in result.stdout


def test_inputs_show_the_order_of_calls(run: Run) -> None:
    for args in [("models.py:with_inputs",), ("models.py:he", "--input", "16,64")]:
        assert "order calls" in run("identify", *args).stdout


def test_json_is_one_document(run: Run) -> None:
    document = json.loads(run("identify", "models.py:he", "--format", "json").stdout)
    assert document["format"] == "varprobe identification"
    assert len(document["parameters"]) == 30


def test_the_same_seed_gives_the_same_document(run: Run) -> None:
    first, again, other = (
        run("identify", "models.py:he", "--seed", seed, "--format", "json").stdout
        for seed in ("1", "1", "2")
    )
    assert first == again != other


def test_page_and_figure_are_kept(run: Run) -> None:
    result = run("identify", "models.py:Noisy", "--html", "page.html", "--plot", "weights.png")
    assert result.exit_code == 0, result.stderr
    assert "<title>Identification of Noisy</title>" in Path("page.html").read_text()
    assert Path("weights.png").read_bytes().startswith(b"\x89PNG")


def test_a_model_without_parameters_is_a_sentence(run: Run) -> None:
    result = run("identify", "models.py:gives_nothing_to_record")
    assert result.exit_code == 2
    assert "Identity has no parameters" in result.stderr
