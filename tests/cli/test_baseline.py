from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from varprobe.cli.baseline import name_file

Run = Callable[..., Result]

TARGET = ("models.py:xavier", "--input", "16,64")
FILE = Path("tests", "baselines", "models.xavier.json")
CHECK = ("check", *TARGET, "--select", "VP305", "--baseline", str(FILE))


@pytest.fixture(autouse=True)
def desk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sit at a desk, also when these tests run in CI."""
    monkeypatch.delenv("CI", raising=False)


def test_a_baseline_is_written_and_compared_with(run: Run) -> None:
    written = run("baseline", *TARGET)
    assert (written.exit_code, written.stdout) == (0, f"wrote {FILE}\n")
    assert "The model is not healthy: see varprobe check models.py:xavier." in written.stderr
    assert run(*CHECK, "--seed", "5").exit_code == 0
    document = json.loads(FILE.read_text())
    document["weight"]["8.weight"] *= 2
    FILE.write_text(json.dumps(document))
    result = run(*CHECK)
    assert result.exit_code == 1
    assert "VP305 error drift from the baseline: 8" in result.stdout


def test_a_file_is_replaced_by_the_flag_only(run: Run) -> None:
    run("baseline", *TARGET, "--out", str(FILE))
    before = FILE.read_bytes()
    again = run("baseline", *TARGET, "--out", str(FILE), "--draws", "2")
    assert again.exit_code == 2
    assert f"'{FILE}' exists already. To compare: varprobe check models.py:xavier" in again.stderr
    assert FILE.read_bytes() == before
    updated = run(*CHECK, "--update-baseline", "--draws", "2")
    assert (updated.exit_code, f"wrote {FILE}" in updated.stderr) == (0, True)
    assert json.loads(FILE.read_text())["draws"] == 2


def test_an_update_judges_all_but_the_drift(run: Run) -> None:
    run("baseline", *TARGET)
    result = run("check", *TARGET, "--baseline", str(FILE), "--update-baseline")
    assert result.exit_code == 1
    assert "VP101" in result.stdout
    assert "VP305" not in result.stdout


@pytest.mark.parametrize("command", [("baseline", *TARGET), (*CHECK, "--update-baseline")])
def test_nothing_is_written_in_ci(
    run: Run, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    monkeypatch.setenv("CI", "true")
    result = run(*command)
    assert result.exit_code == 2
    assert "CI=true is set, and a baseline is not written in CI" in result.stderr
    assert not FILE.exists()


@pytest.mark.parametrize("output_format", ["text", "json", "sarif"])
@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        (None, (), "There is no baseline tests/baselines/models.xavier.json. Write it with"),
        (None, ("--update-baseline",), "There is no baseline tests/baselines/models.xavier.json."),
        ("{}", (), "models.xavier.json is no baseline: "),
        ("{}", ("--update-baseline",), "models.xavier.json is no baseline: "),
    ],
)
def test_what_cannot_be_compared_with_is_no_verdict(
    run: Run, content: str | None, options: tuple[str, ...], message: str, output_format: str
) -> None:
    if content is not None:
        FILE.parent.mkdir(parents=True)
        FILE.write_text(content)
    result = run(*CHECK, *options, "--format", output_format)
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr
    assert content is None or FILE.read_text() == content


def test_a_baseline_of_another_model_is_no_verdict(run: Run) -> None:
    run("baseline", "models.py:pair", "--out", str(FILE))
    result = run(*CHECK)
    assert result.exit_code == 2
    assert "models.xavier.json is of another model: model was 'Noisy' and is" in result.stderr


def test_an_update_needs_a_file(run: Run) -> None:
    result = run("check", *TARGET, "--update-baseline")
    assert result.exit_code == 2
    assert "--update-baseline needs the file to replace: --baseline FILE." in result.stderr


@pytest.mark.parametrize(
    ("target", "name"),
    [
        ("models.py:build", "models.build.json"),
        ("src/net/models.py:Net.small", "models.Net.small.json"),
        ("package.models:build", "package.models.build.json"),
        ("my net.py:build", "my_net.build.json"),
    ],
)
def test_a_file_is_named_after_its_target(target: str, name: str) -> None:
    assert name_file(target) == Path("tests", "baselines", name)
