"""Starting varprobe is cheap: whoever installs it pays at every pytest run and every ``--help``."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = {"matplotlib", "pandas", "scipy", "torch"}

HELP = """
import contextlib
from varprobe.cli import main
with contextlib.suppress(SystemExit):
    main(["--help"])
"""

EMPTY_TEST_RUN = """
import pytest
pytest.main(["--collect-only", "-p", "no:cacheprovider"])
"""


def list_modules_after(code: str, directory: Path) -> set[str]:
    """Return the names of the modules that a fresh interpreter holds after running ``code``."""
    report = "import json, sys; print(); print(json.dumps(list(sys.modules)))"
    result = subprocess.run(
        [sys.executable, "-c", f"{code}\n{report}"],
        cwd=directory,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return set(json.loads(result.stdout.splitlines()[-1]))


@pytest.mark.parametrize(
    ("code", "forbidden"),
    [
        ("import varprobe", HEAVY),
        (HELP, HEAVY),
        ("import varprobe.pytest_plugin", HEAVY),
        (EMPTY_TEST_RUN, HEAVY),
        ("import varprobe.recording, varprobe.recording_file", HEAVY),
        # A saved recording is judged where there is no torch, and the theory's type Prediction is
        # part of an analysis.
        ("import varprobe.analysis, varprobe.diagnosis", {"torch", "matplotlib"}),
        ("import varprobe.theory", {"matplotlib", "scipy"}),
        ("import varprobe.plotting", {"matplotlib"}),
        ("import varprobe; varprobe.map_phases('erf', sigma_w2=[1], sigma_b2=[0])", {"torch"}),
    ],
    ids=lambda value: value.strip() if isinstance(value, str) else ",".join(sorted(value)),
)
def test_nothing_heavy_is_loaded_before_it_is_used(
    code: str, forbidden: set[str], tmp_path: Path
) -> None:
    assert list_modules_after(code, tmp_path) & forbidden == set()


def test_an_empty_test_run_does_load_the_plugin(tmp_path: Path) -> None:
    assert "varprobe.pytest_plugin" in list_modules_after(EMPTY_TEST_RUN, tmp_path)


@pytest.mark.parametrize("module", sorted(HEAVY))
def test_what_is_loaded_is_seen(module: str, tmp_path: Path) -> None:
    assert module in list_modules_after(f"import {module}", tmp_path)


def test_the_first_use_loads_torch(tmp_path: Path) -> None:
    assert "torch" in list_modules_after("import varprobe; varprobe.Probe", tmp_path)
