from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

Run = Callable[..., Result]

TARGET = ("predict", "models.py:he", "--input", "16,64")

UNRULED = """
import torch
from torch import nn

class Cumulative(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, x):
        # No rule of theory: a product along the features.
        return self.linear(x).cumprod(1)

class Counting(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(8, 8)
        assert self.linear.weight.sum().item() is not None

    def forward(self, x):
        return self.linear(x)
"""


@pytest.fixture(autouse=True)
def unruled() -> None:
    Path("unruled.py").write_text(UNRULED)


def test_each_layer_has_a_row_with_its_error_bar(run: Run) -> None:
    result = run(*TARGET, "--init", "kaiming_normal")
    assert result.exit_code == 0, result.stderr
    rows = [line.split() for line in result.stdout.splitlines() if " Linear " in line]
    assert len(rows) == 2 * 30
    # He's law keeps the second moment, whatever it is for these inputs.
    assert len({row[3] for row in rows[:30]}) == 1
    bars = [float(row[5]) for row in rows[:30]]
    assert bars == sorted(bars), "the error bar widens with depth"
    assert result.stdout.splitlines()[-1] == "182 tensors: 182 exact."


def test_the_numbers_are_those_of_predict(run: Run) -> None:
    import torch
    from torch import nn

    import varprobe as vp

    document = json.loads(run(*TARGET, "--init", "kaiming_normal", "--format", "json").stdout)
    assert document["format"] == "varprobe prediction"
    layers = [m for _ in range(30) for m in (nn.Linear(64, 64, bias=False), nn.ReLU())]
    inputs = torch.randn(16, 64, generator=torch.Generator().manual_seed(0))
    expected = vp.predict(nn.Sequential(*layers), inputs, init="kaiming_normal")
    told = [row["second_moment"] for row in document["expectations"]]
    assert told == [row.second_moment for row in expected]


def test_markdown_is_one_document(run: Run) -> None:
    result = run(*TARGET, "--format", "markdown")
    assert result.stdout.startswith("## Prediction for Sequential\n")
    assert "| depth | layer | kind |" in result.stdout


def test_what_has_no_rule_is_listed_and_drawn(run: Run) -> None:
    result = run("predict", "unruled.py:Cumulative", "--input", "4,8", "--draws", "4")
    assert result.exit_code == 0, result.stderr
    assert "Operations without a rule" in result.stdout
    assert "aten.cumprod" in result.stdout
    assert "estimated from 4 draws of the weights" in result.stdout
    assert "approximate" in result.stdout.splitlines()[-1]


def test_without_draws_it_stays_unknown(run: Run) -> None:
    result = run("predict", "unruled.py:Cumulative", "--input", "4,8", "--draws", "0")
    assert result.exit_code == 0, result.stderr
    assert "have no numbers: no draws were asked for" in result.stdout
    assert "unknown" in result.stdout.splitlines()[-1]


def test_on_the_meta_device_nothing_has_numbers(run: Run) -> None:
    Path("huge.py").write_text(
        "from torch import nn\n"
        # 4 TB of weights, which no test machine could hold.
        "def build():\n    return nn.Sequential(nn.Linear(2**20, 2**20, bias=False), nn.ReLU())\n"
    )
    shape = ("--input", "1,1048576")
    result = run("predict", "huge.py:build", "--meta", *shape, "--init", "kaiming_normal")
    assert result.exit_code == 0, result.stderr
    rows = [line.split() for line in result.stdout.splitlines() if " Linear " in line]
    # Standard normal inputs, He's law: E[x²] = 2. The gradient of a unit cotangent is halved.
    assert [float(row[3]) for row in rows] == [2.0, 0.5]


def test_a_target_may_bring_inputs_to_the_meta_device(run: Run) -> None:
    result = run("predict", "models.py:with_inputs", "--meta")
    assert result.exit_code == 0, result.stderr
    assert "182 tensors: 182 exact." in result.stdout


def test_integers_keep_their_numbers_on_the_meta_device(run: Run) -> None:
    tokens = ("--input", "4,16:int64:10", "--input", "8")
    result = run("predict", "models.py:Embedded", "--meta", *tokens)
    assert result.exit_code == 0, result.stderr


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("models.py:instance", "--meta", "--input", "4,8"), "is a model already, with numbers in"),
        (("models.py:pair", "--meta"), "is a model already"),
        (("unruled.py:Counting", "--meta", "--input", "4,8"), "cannot be built on the meta device"),
        (("models.py:he", "--input", "16,64", "--draws", "1"), "two draws are the fewest"),
        (("models.py:he", "--input", "16,64", "--draws", "-1"), "is not in the range x>=0"),
        (("models.py:he",), "brings no inputs"),
        (("models.py:he", "--input", "16,64", "--init", "kaimin_normal"), "Did you mean"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_wrong_usage_is_a_sentence_and_2(run: Run, args: tuple[str, ...], message: str) -> None:
    result = run("predict", *args)
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stdout == ""


def test_page_and_figure_are_kept(run: Run) -> None:
    result = run(*TARGET, "--html", "page.html", "--plot", "depth.png")
    assert result.exit_code == 0, result.stderr
    page = Path("page.html").read_text()
    assert "<title>Prediction for Sequential</title>" in page
    assert "data:image/svg+xml" in page
    assert Path("depth.png").read_bytes().startswith(b"\x89PNG")
