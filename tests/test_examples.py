from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.py"))


def test_there_are_examples() -> None:
    assert EXAMPLES


def test_the_index_lists_every_example() -> None:
    index = (Path(__file__).parents[1] / "examples" / "README.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| \[(\S+)\]\((\S+)\) \|", index, re.MULTILINE)
    assert sorted(listed) == [(path.name, path.name) for path in EXAMPLES]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_runs_by_itself(example: Path, tmp_path: Path) -> None:
    # As a copy in an empty directory: it needs no other file, and what it writes is thrown away.
    script = shutil.copy(example, tmp_path)
    # Some examples show tests.
    runner = ["-m", "pytest"] if example.name.startswith("test_") else ["-W", "error"]
    quick = ["--quick"] if '"--quick"' in example.read_text(encoding="utf-8") else []
    result = subprocess.run(
        [sys.executable, *runner, script, *quick],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout, "an example shows its reader something"
