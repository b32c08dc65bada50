"""Exit codes and messages: 0 healthy, 1 findings, 2 everything else, and never a traceback."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable

import click
import pytest
from click.testing import CliRunner, Result

from tests.cli.conftest import MODELS
from varprobe.cli.commands import FAILURE, INTERRUPTED, Commands, explain_error

Run = Callable[..., Result]
Start = Callable[..., subprocess.Popen[str]]

INPUT = ("--input", "16,64")


@pytest.mark.parametrize(
    ("args", "code"),
    [
        (("check", "models.py:he", *INPUT), 0),
        (("check", "models.py:xavier", *INPUT), 1),
        (("check", "models.py:xavier", *INPUT, "--format", "json"), 1),
        (("check", "models.py:gives_nothing_to_record"), 1),
        (("check", "models.py:absent", *INPUT), 2),
        (("check", "models.py:he", *INPUT, "--format", "xml"), 2),
        (("check",), 2),
        (("nonsense",), 2),
        (("profile", "models.py:he", *INPUT, "--no-predict"), 0),
        (("explain", "VP999"), 2),
        (("--help",), 0),
        (("--version",), 0),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_the_exit_code_is_the_verdict(run: Run, args: tuple[str, ...], code: int) -> None:
    assert run(*args).exit_code == code


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("models.py:he",), "brings no inputs. Add their shape, for example --input 32,3,224,224"),
        (("models.py:he", *INPUT, "--init", "kaimin_normal"), "Did you mean 'kaiming_normal'?"),
        (("models.py:he", *INPUT, "--select", "VP30x"), "There is no check named 'VP30X'"),
        (("models.py:he", "--input", "16,63"), "The model raised RuntimeError: mat1 and mat2"),
        (("models.py:Broken", "--input", "4,8"), "The model raised KeyError: 'no such thing' (at "),
        (("models.py:Leaving", "--input", "4,8"), "The model raised SystemExit: 0"),
        (("models.py:instance", "--input", "4,8", "--draws", "2"), "draws=2 with the weights kept"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_failure_is_a_sentence_on_stderr(run: Run, args: tuple[str, ...], message: str) -> None:
    result = run("check", *args)
    assert result.exit_code == FAILURE
    assert result.stdout == ""
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def test_the_place_in_the_model_is_named(run: Run) -> None:
    line = 1 + MODELS.splitlines().index('        raise KeyError("no such thing")')
    stderr = run("check", "models.py:Broken", "--input", "4,8").stderr
    assert f"models.py:{line}). Check that the inputs are what it expects" in stderr


def test_the_traceback_is_there_on_demand(run: Run) -> None:
    result = run("--traceback", "check", "models.py:Broken", "--input", "4,8")
    assert result.exit_code == FAILURE
    assert "Traceback (most recent call last)" in result.stderr
    assert "Error: The model raised KeyError" in result.stderr


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (KeyboardInterrupt(), INTERRUPTED, "Interrupted."),
        (click.Abort(), INTERRUPTED, "Interrupted."),
        (ZeroDivisionError("by zero."), FAILURE, "ZeroDivisionError: by zero"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_nothing_but_a_verdict_exits_with_1(
    error: BaseException, code: int, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    @click.command()
    def fail() -> None:
        raise error

    group = Commands("group", commands=[fail], params=[click.Option(["--traceback"], is_flag=True)])
    result = CliRunner().invoke(group, ["fail"])
    assert result.exit_code == code
    assert message in result.stderr


def test_an_error_of_varprobe_itself_is_not_blamed_on_the_model() -> None:
    def provoke() -> BaseException:
        from varprobe.analysis import analyze
        from varprobe.recording import Recording

        try:
            analyze(Recording(records=(None,)))  # type: ignore[arg-type]
        except AttributeError as error:
            return error
        raise AssertionError("no error")

    assert explain_error(provoke()).startswith("varprobe failed with AttributeError")


@pytest.mark.parametrize("command", ["check", "compare", "demo", "explain", "profile"])
def test_the_help_of_each_command_has_an_example(run: Run, command: str) -> None:
    result = run(command, "--help")
    assert result.exit_code == 0
    assert f"\n    varprobe {command}" in result.stdout
    assert command in run("--help").stdout


def test_a_machine_format_is_one_document_whatever_the_model_prints(start: Start) -> None:
    with start("check", "models.py:Noisy", "--input", "4,8", "--format", "json") as process:
        stdout, stderr = process.communicate()
    assert json.loads(stdout)["healthy"] is True
    assert process.returncode == 0
    assert "importing" in stderr
    assert "forward" in stderr


def test_findings_and_failures_reach_the_shell(start: Start) -> None:
    args = ("models:xavier", *INPUT, "--format", "json")
    with (
        start("check", *args) as findings,
        start("check", *args, "--draws", "0") as usage,
        start("check", "models:absent", *INPUT, "--format", "json") as failure,
    ):
        (document, _), (nothing, _), (neither, message) = (
            process.communicate() for process in (findings, usage, failure)
        )
    assert (findings.returncode, usage.returncode, failure.returncode) == (1, 2, 2)
    assert json.loads(document)["healthy"] is False
    assert (nothing, neither) == ("", "")
    assert message.splitlines()[-1] == "Error: TARGET 'models:absent': there is no 'absent'."


def test_a_reader_that_goes_away_is_no_verdict(start: Start) -> None:
    with start("explain") as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == ""
    assert process.returncode == FAILURE
