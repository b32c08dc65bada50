from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from click.testing import Result

from varprobe import Recording

Run = Callable[..., Result]

TARGET = ("profile", "models.py:he", "--input", "16,64")


def test_each_layer_has_a_row_with_measurement_and_prediction(run: Run) -> None:
    result = run(*TARGET, "--init", "kaiming_normal", "--draws", "2")
    assert result.exit_code == 0, result.stderr
    assert "second moment E[x²] in a², geometric mean over 2 draws" in result.stdout
    head, _ = [line for line in result.stdout.splitlines() if line.startswith("depth")]
    assert head.split() == [
        *("depth", "layer", "kind", "measured", "predicted", "ratio", "z", "gain", "local")
    ]
    rows = [line.split() for line in result.stdout.splitlines() if " Linear " in line]
    # He's law keeps it at 2 on average; a draw of this width scatters by a factor of a few.
    assert {row[1] for row in rows} == {str(2 * index) for index in range(30)}
    assert all(0.1 < float(row[4]) < 10 for row in rows)


def test_without_a_prediction_there_is_the_measurement(run: Run) -> None:
    result = run(*TARGET, "--no-predict")
    assert result.exit_code == 0
    assert "measured" in result.stdout
    assert "predicted" not in result.stdout.replace("predicted =", "")


def test_json_is_one_document(run: Run) -> None:
    document = json.loads(run(*TARGET, "--format", "json").stdout)
    assert document["format"] == "varprobe analysis"
    assert document["meta"]["model"] == "Sequential"


def test_recording_page_and_figure_are_kept(run: Run) -> None:
    files = ("--save", "r.json", "--html", "page.html", "--plot", "depth.png")
    result = run(*TARGET, "--draws", "2", *files)
    assert result.exit_code == 0, result.stderr
    assert Recording.load("r.json").draws == 2
    assert "<title>Analysis of Sequential</title>" in Path("page.html").read_text()
    assert Path("depth.png").read_bytes().startswith(b"\x89PNG")
    written = [line for line in result.stderr.splitlines() if line.startswith("wrote")]
    assert written == ["wrote r.json", "wrote page.html", "wrote depth.png"]


def test_an_unknown_image_format_is_a_sentence(run: Run) -> None:
    result = run(*TARGET, "--plot", "depth.bmp")
    assert result.exit_code == 2
    assert "There is no image format named 'bmp'" in result.stderr


def test_modules_are_included_and_excluded(run: Run, tmp_path: Path) -> None:
    saved = tmp_path / "recording.json"
    run(
        "profile", "models.py:with_inputs", "--include", "?", "--exclude", "0", "--save", str(saved)
    )
    assert Recording.load(saved).modules == tuple("123456789")
