from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import overhead
import pytest
import torch
from nets import GPT, build_linears, build_mlp, build_resnet
from overhead import Round, Task
from torch import nn
from watchers import Training, watch_by_hand

# The models of the benchmark, as small as they go: how long they take is nobody's business here.
TINY = (
    Task("MLP", partial(build_mlp, nn.ReLU, 2, 4), partial(torch.randn, 2, 4), turns=2),
    Task("ResNet", partial(build_resnet, 2), partial(torch.randn, 2, 3, 32, 32), turns=2),
    Task("GPT", partial(GPT, 1, 8, 2, 4, 8), partial(torch.randint, 8, (2, 4)), turns=2),
    Task(
        "Linear",
        partial(build_linears, 3, 4),
        partial(torch.randn, 2, 4),
        turns=2,
        per_record=True,
    ),
)


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_the_table_has_a_line_for_each_model(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(overhead, "TASKS", TINY)
    overhead.main(["--quick"])
    machine, _, *table = capsys.readouterr().out.splitlines()
    assert f"torch {torch.__version__}" in machine
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table]
    titles = [title for title, *_ in rows]
    assert titles == ["training step", "---", "MLP", "ResNet", "GPT", "Linear", titles[-1]]
    assert rows[0][1:] == ["bare", *overhead.WATCHERS]
    assert {len(row) for row in rows} == {len(rows[0])}
    # Two for each of the three layers and their container.
    assert rows[-1][1] == "8 records"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_cuda_device_it_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        overhead.main(["--device", "cuda"])
    assert "there is no CUDA device here" in capsys.readouterr().err


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_the_table_of_a_cuda_device_has_the_same_lines(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(overhead, "TASKS", TINY)
    overhead.main(["--quick", "--device", "cuda"])
    assert torch.cuda.get_device_name() in capsys.readouterr().out


def test_a_ratio_is_the_median_of_the_rounds() -> None:
    rounds = [Round(2.0, 3.0), Round(1.0, 1.25), Round(2.0, 2.6)]
    assert overhead.spell_ratio(rounds) == "1.30 (1.25–1.50)"


def test_the_cost_of_a_record_is_what_comes_on_top() -> None:
    assert overhead.spell_cost([Round(1e-3, 1.5e-3)], records=10) == "50 µs"


def test_watching_by_hand_leaves_no_hook() -> None:
    training = Training(build_mlp(nn.ReLU, 2, 4), torch.randn(2, 4))
    with watch_by_hand(training) as step:
        step()
    assert not any(module._forward_hooks for module in training.model.modules())
