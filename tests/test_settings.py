from __future__ import annotations

import re
from pathlib import Path

import pytest

from varprobe.errors import SettingsError
from varprobe.settings import Settings, find_settings

WHOLE = """
[tool.varprobe]
preset = "strict"
select = ["VP1", "VP2"]
ignore = ["VP103"]
levels = { VP301 = "error" }
per-layer-ignores = { "decoder.head*" = ["VP301"] }
draws = 3
seed = 0
"""


def write(folder: Path, text: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "pyproject.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_every_key_is_read(tmp_path: Path) -> None:
    path = write(tmp_path, WHOLE)
    assert find_settings(tmp_path) == Settings(
        preset="strict",
        select=("VP1", "VP2"),
        ignore=("VP103",),
        levels={"VP301": "error"},
        per_layer_ignores={"decoder.head*": ("VP301",)},
        draws=3,
        seed=0,
        path=path,
    )


def test_the_nearest_table_counts_not_the_nearest_file(tmp_path: Path) -> None:
    write(tmp_path, "[tool.varprobe]\ndraws = 5\n")
    write(tmp_path / "package", "[project]\nname = 'other'\n")
    assert find_settings(tmp_path / "package" / "tests").draws == 5
    write(tmp_path / "package", "[tool.varprobe]\ndraws = 2\n")
    assert find_settings(tmp_path / "package" / "tests").draws == 2


def test_a_project_that_says_nothing_has_the_defaults(tmp_path: Path) -> None:
    write(tmp_path, "[tool.varprobe]\n")
    assert find_settings(tmp_path) == Settings(path=tmp_path / "pyproject.toml")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[tool.varprobe]\ningore = ["VP1"]', "no key named 'ingore'. Did you mean 'ignore'?"),
        ("[tool.varprobe]\nper_layer_ignores = {}", "Did you mean 'per-layer-ignores'?"),
        ("[tool.varprobe]\ndraws = 0", "draws = 0 means nothing, expected a whole number from 1"),
        ("[tool.varprobe]\ndraws = true", "draws = True means nothing"),
        ("[tool.varprobe]\nseed = -1", "seed = -1 means nothing"),
        ('[tool.varprobe]\nignore = "VP1"', "ignore = 'VP1' means nothing, expected a list of"),
        ("[tool.varprobe]\nselect = [1]", "select = [1] means nothing"),
        ('[tool.varprobe]\nlevels = ["VP1"]', "levels = ['VP1'] means nothing"),
        ("[tool.varprobe.levels]\nVP1 = 2", "levels = {'VP1': 2} means nothing"),
        ("[tool.varprobe.per-layer-ignores]\n'a' = 'VP1'", "expected lists of codes by pattern"),
        ("[tool]\nvarprobe = 3", "tool.varprobe is 3, expected a table"),
        ("[tool.varprobe\n", "cannot be read: "),
    ],
)
def test_what_means_nothing_is_refused_with_its_file(
    text: str, message: str, tmp_path: Path
) -> None:
    write(tmp_path, text)
    with pytest.raises(SettingsError, match=re.escape(message)) as caught:
        find_settings(tmp_path)
    assert str(tmp_path / "pyproject.toml") in str(caught.value)
