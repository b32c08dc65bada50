"""The project in examples/ci, as somebody copies it: what its files say is run."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from varprobe.cli import main
from varprobe.settings import find_settings

PROJECT = Path(__file__).parents[1] / "examples" / "ci"


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Sit in a copy of the project."""
    folder = Path(shutil.copytree(PROJECT, tmp_path / "project"))
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield folder
    sys.modules.pop("models", None)


def read_steps() -> list[dict[str, str]]:
    """Return the steps of the workflow."""
    workflow = yaml.safe_load(Path(".github/workflows/propagation.yml").read_text())
    # YAML 1.1 reads the word `on` as true.
    assert set(workflow[True]) == {"push", "pull_request"}
    steps: list[dict[str, str]] = workflow["jobs"]["propagation"]["steps"]
    return steps


def read_commands() -> list[str]:
    """Return what the workflow runs of varprobe and pytest."""
    runs = [step["run"] for step in read_steps() if "run" in step]
    return [run for run in runs if run.startswith(("varprobe ", "pytest "))]


def read_hook() -> dict[str, str]:
    """Return the hook of pre-commit."""
    (repository,) = yaml.safe_load(Path(".pre-commit-config.yaml").read_text())["repos"]
    (hook,) = repository["hooks"]
    return hook


def run_here(command: str) -> Result:
    """Run a command of varprobe in this process."""
    name, *arguments = shlex.split(command)
    assert name == "varprobe"
    return CliRunner().invoke(main, arguments, prog_name=name)


def break_initialization() -> None:
    path = Path("models.py")
    path.write_text(path.read_text().replace('"kaiming_normal"', '"normal(std=0.01)"'))


def test_the_workflow_passes_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    scripts = Path(sys.executable).parent
    root = Path(__file__).parents[1]
    monkeypatch.setenv("PATH", f"{scripts}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(root))
    monkeypatch.setenv("CI", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", "summary.md")
    commands = read_commands()
    assert len(commands) == 3
    for command in commands:
        subprocess.run(["bash", "-e", "-c", command], check=True, timeout=120)
    assert Path("summary.md").read_text().startswith("## models.py:build\n\n**Healthy**")
    assert 'tests="1"' in Path("propagation.xml").read_text()
    (uploaded,) = [s["with"]["sarif_file"] for s in read_steps() if "sarif" in str(s.get("uses"))]
    assert '"results": []' in Path(uploaded).read_text()


def test_the_gate_closes_when_the_initialization_breaks() -> None:
    break_initialization()
    check, _, scan = read_commands()
    result = run_here(check)
    assert result.exit_code == 1
    assert re.search(r"^::error title=VP\d{3} .*,file=models.py,line=11::", result.stdout)
    assert run_here(read_hook()["entry"]).exit_code == 1
    # Findings are left to code scanning, and nothing else is.
    command, redirection = scan.split(" > ")
    assert run_here(command).exit_code == 1
    assert redirection == "varprobe.sarif || test $? -eq 1"


def test_the_hook_runs_when_the_model_changes() -> None:
    hook = read_hook()
    files = re.compile(hook["files"])
    changed = ("models.py", "pyproject.toml", "README.md", "tests/test_models.py")
    assert [name for name in changed if files.search(name)] == ["models.py", "pyproject.toml"]
    assert hook["pass_filenames"] is False
    result = run_here(hook["entry"])
    assert (result.exit_code, result.stdout) == (0, "healthy: 21 layers, 3 draws checked.\n")


def test_the_settings_can_be_followed() -> None:
    settings = find_settings()
    assert settings.path == Path("pyproject.toml").resolve()
    assert (settings.draws, settings.levels) == (3, {"VP301": "error"})


def test_the_baseline_is_written_as_the_page_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    block = re.search(r"```bash\n(.*?)```", Path("README.md").read_text(), re.DOTALL)
    assert block is not None
    baseline, update = block[1].splitlines()
    assert update == "pytest -m propagation --varprobe-update-baselines"
    file = Path("tests/baselines/models.build.json")
    committed = file.read_text()
    file.unlink()
    assert run_here(baseline).exit_code == 0
    # Another build of torch may draw other numbers, of the same sites.
    assert re.sub(r"[\d.e-]+", "0", file.read_text()) == re.sub(r"[\d.e-]+", "0", committed)
