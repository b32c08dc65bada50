from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import Result

from varprobe.cli import demo

Run = Callable[..., Result]


def test_the_crops_are_of_a_normalised_photograph() -> None:
    crops = demo.load_crops(0)
    assert crops.shape == (demo.CROPS, 3, demo.CROP, demo.CROP)
    assert torch.equal(crops, demo.load_crops(0))
    assert not torch.equal(crops, demo.load_crops(1))
    # The photograph has 1; eight crops are a small sample of it.
    assert 0.2 < crops.square().mean() < 3


def test_the_net_is_as_deep_as_he_s() -> None:
    convolutions = [m for m in demo.build_net() if isinstance(m, torch.nn.Conv2d)]
    assert len(convolutions) == 30
    assert all(convolution.bias is not None for convolution in convolutions)


def test_it_prints_tables_and_findings_and_writes_two_files(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # The same experiment, small: the numbers are the business of the commands it is made of.
    monkeypatch.setattr(demo, "WIDTH", 16)
    monkeypatch.setattr(demo, "CROP", 8)
    before = set(tmp_path.iterdir())
    result = run("demo", "--draws", "2")
    assert result.exit_code == 0, result.stderr
    assert "factor per layer" in result.stdout
    assert "VP301 error weight variance does not fit under xavier_normal" in result.stdout
    assert "hence: VP201 error vanishing gradients" in result.stdout
    assert "conv30" in result.stdout
    paths = [line.removeprefix("wrote ") for line in result.stdout.splitlines()[-2:]]
    assert paths == ["varprobe-demo/comparison.png", "varprobe-demo/comparison.html"]
    assert all(Path(path).stat().st_size > 10_000 for path in paths)
    assert {path.name for path in set(tmp_path.iterdir()) - before} == {"varprobe-demo"}


def test_what_it_writes_is_ignored_by_git() -> None:
    ignored = Path(__file__).parents[2].joinpath(".gitignore").read_text().splitlines()
    assert "/varprobe-demo/" in ignored
