from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest
from click.testing import Result

Run = Callable[..., Result]


def test_a_healthy_model_ends_with_what_was_looked_at(run: Run) -> None:
    result = run("check", "models.py:with_inputs", "--draws", "3")
    assert result.stdout == "healthy: 61 layers, 3 draws checked.\n"


def test_findings_name_layer_number_limit_and_the_next_command(run: Run) -> None:
    stdout = run("check", "models.py:xavier", "--input", "16,64").stdout
    assert "VP101 error vanishing activations: " in stdout
    assert "allowed is a factor of 400" in stdout
    assert "fix: " in stdout
    assert "next: varprobe explain VP301" in stdout


def test_the_option_replaces_the_inputs_of_the_target(run: Run) -> None:
    result = run("check", "models.py:with_inputs", "--input", "4,63")
    assert "(4x63 and 64x64)" in result.stderr


def test_several_inputs_are_positional_arguments(run: Run) -> None:
    inputs = ("--input", "4,6:int64:10", "--input", "1")
    result = run("check", "models.py:Embedded", *inputs, "--format", "json")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["layers"] == 3


def test_the_loss_of_the_target_is_used(run: Run) -> None:
    result = run("check", "models.py:with_loss", "--format", "json")
    assert json.loads(result.stdout)["analysis"]["meta"]["loss"] == "user"


def test_the_weights_may_be_drawn_anew(run: Run) -> None:
    target = ("check", "models.py:xavier", "--input", "16,64")
    assert run(*target).exit_code == 1
    assert run(*target, "--init", "kaiming_normal").exit_code == 0


@pytest.mark.parametrize(
    ("options", "codes"),
    [
        (("--select", "vp2"), {"VP201"}),
        (("--ignore", "VP1,VP3"), {"VP201"}),
        (("--select", "VP001"), set()),
    ],
)
def test_codes_are_selected_and_ignored(
    run: Run, options: tuple[str, ...], codes: set[str]
) -> None:
    result = run("check", "models.py:xavier", "--input", "16,64", *options, "--format", "json")
    document = json.loads(result.stdout)
    assert {finding["code"] for finding in document["findings"]} == codes
    assert result.exit_code == (1 if codes else 0)


def test_an_empty_list_of_codes_is_wrong_usage(run: Run) -> None:
    result = run("check", "models.py:he", "--select", ",")
    assert result.exit_code == 2
    assert "no code given, for example VP101,VP2." in result.stderr


def test_the_same_seed_gives_the_same_document(run: Run) -> None:
    args = ("check", "models.py:he", "--input", "16,64", "--format", "json")
    assert run(*args).stdout == run(*args).stdout
    assert run(*args).stdout != run(*args, "--seed", "1").stdout


def test_a_page_is_written_also_when_there_are_findings(run: Run) -> None:
    result = run("check", "models.py:xavier", "--input", "16,64", "--html", "new/page.html")
    assert result.exit_code == 1
    assert "wrote new/page.html" in result.stderr
    assert "<title>Diagnosis of Sequential</title>" in Path("new/page.html").read_text()


def test_what_cannot_be_written_is_a_sentence(run: Run) -> None:
    result = run("check", "models.py:with_inputs", "--html", "models.py/page.html")
    assert result.exit_code == 2
    assert "'models.py/page.html' cannot be written: " in result.stderr
    # What was found out is not lost with the file.
    assert "healthy: 61 layers" in result.stdout


def test_modules_are_included_and_excluded(run: Run) -> None:
    target = ("check", "models.py:with_inputs", "--format", "json")
    result = run(*target, "--include", "?", "--include", "1?", "--exclude", "*[13579]")
    assert json.loads(result.stdout)["layers"] == 10


def test_a_pattern_without_a_match_is_an_error(run: Run) -> None:
    result = run("check", "models.py:with_inputs", "--exclude", "heads.*")
    assert result.exit_code == 2
    assert "There is no module named 'heads.*'" in result.stderr


def test_markdown_is_one_document_for_a_pull_request(run: Run) -> None:
    result = run("check", "models.py:xavier", "--input", "16,64", "--format", "markdown")
    assert result.exit_code == 1
    assert result.stdout.startswith("## Diagnosis of Sequential\n\n**Unhealthy**")


def test_the_project_sets_what_no_option_says(run: Run) -> None:
    target = ("check", "models.py:xavier", "--input", "16,64", "--format", "json")
    settings = Path("pyproject.toml")
    settings.write_text(
        '[tool.varprobe]\npreset = "lenient"\nignore = ["VP1"]\ndraws = 2\nseed = 3\n'
    )
    result = run(*target)
    document = json.loads(result.stdout)
    assert (result.exit_code, document["draws"], document["ignored"]) == (0, 2, {"VP101": 1})
    assert document["analysis"]["meta"]["seed"] == 3
    assert run(*target, "--preset", "default").exit_code == 1
    replaced = json.loads(run(*target, "--ignore", "VP2", "--draws", "1", "--seed", "0").stdout)
    assert (replaced["draws"], replaced["ignored"]) == (1, {"VP201": 1})
    # A model that comes with its weights has one draw of them, whatever the project says.
    assert json.loads(run("check", "models.py:pair", "--format", "json").stdout)["draws"] == 1


FORMATS = ("text", "json", "markdown", "github", "junit", "sarif")


@pytest.mark.parametrize("output_format", FORMATS)
def test_exit_codes_are_the_same_in_every_format(run: Run, output_format: str) -> None:
    shown = ("--format", output_format, "--select", "VP302")
    assert run("check", "models.py:pair", *shown).exit_code == 0
    unhealthy = run("check", "models.py:pair", *shown, "--init", "normal(std=0)")
    assert unhealthy.exit_code == 1
    assert "VP302" in unhealthy.stdout
    broken = run("check", "models.py:Broken", "--input", "4,8", *shown)
    assert (broken.exit_code, broken.stdout) == (2, "")


@pytest.mark.parametrize(
    ("output_format", "read"),
    [
        ("json", json.loads),
        ("sarif", json.loads),
        ("junit", ElementTree.fromstring),
        ("github", re.compile(r"::notice [^\n]*\n").fullmatch),
    ],
)
def test_stdout_is_one_document_whatever_the_model_prints(
    run: Run, output_format: str, read: Callable[[str], object]
) -> None:
    result = run("check", "models.py:pair", "--format", output_format)
    assert "importing" in result.stderr
    assert read(result.stdout) is not None


def test_annotations_point_to_the_target(run: Run) -> None:
    result = run("check", "models.py:xavier", "--input", "16,64", "--format", "github")
    line = (Path("models.py").read_text().splitlines().index("def xavier():")) + 1
    assert f"file=models.py,line={line}::0: fan_in × second moment" in result.stdout
    assert "%0Ahence VP101 error vanishing activations: 56: " in result.stdout


def test_the_summary_of_a_job_grows(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", "summary.md")
    run("check", "models.py:pair", "--format", "github")
    run("check", "models.py:pair", "--format", "json")
    run("check", "models.py:xavier", "--input", "16,64", "--format", "github")
    text = Path("summary.md").read_text()
    assert text.startswith("## models.py:pair\n\n**Healthy**: 2 layers, 1 draw checked.\n")
    assert text.count("\n\n## models.py:xavier\n\n**Unhealthy**") == 1
    assert text.count("models.py:pair") == 1
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", "no/such/folder")
    result = run("check", "models.py:pair", "--format", "github")
    assert result.exit_code == 2
    assert "'no/such/folder' cannot be written: " in result.stderr


@pytest.mark.parametrize("output_format", FORMATS)
@pytest.mark.parametrize(
    ("settings", "options", "message"),
    [
        ("ingore = []", (), "There is no key named 'ingore'. Did you mean 'ignore'?"),
        ('select = ["VP310"]', (), "There is no check named 'VP310'. Did you mean"),
        ("", ("--ignore", "VP310"), "There is no check named 'VP310'. Did you mean"),
        ("", ("--ignore", "VP0"), "VP001 cannot be ignored"),
        ('levels = { VP001 = "info" }', (), "VP001 cannot be a matter of info"),
    ],
)
def test_wrong_usage_is_a_sentence_and_no_verdict(
    run: Run, settings: str, options: tuple[str, ...], message: str, output_format: str
) -> None:
    Path("pyproject.toml").write_text(f"[tool.varprobe]\n{settings}\n")
    result = run("check", "models.py:pair", *options, "--format", output_format)
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr


@pytest.mark.parametrize(
    ("target", "code", "message"),
    [
        ("gives_number", 2, "gives int, expected a torch.nn.Module"),
        ("with_foreign_loss", 2, "The loss does not depend on any parameter of the model"),
        ("gives_nothing_to_record", 1, "VP001 error nothing recorded"),
    ],
)
def test_what_was_not_judged_never_passes(run: Run, target: str, code: int, message: str) -> None:
    result = run("check", f"models.py:{target}")
    assert result.exit_code == code
    assert message in result.stdout + result.stderr
