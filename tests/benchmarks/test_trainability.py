from __future__ import annotations

import dataclasses
import math
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import trainability
from bundles import GOAL, OPTIMIZERS, SGD, WINDOW, draw_batches, stack, take_step, train
from digit_nets import BLOCKS, GRID, QUICK_GRID, Digits, Net, cross
from heat_map import draw_heat_map, find_edges, trace_boundary
from torch import nn
from torch.nn import functional as F

TINY = cross(["plain"], ["relu"], [8], [2, 3], [0.5, 1.0, 2.0**0.5])


@pytest.fixture(scope="module")
def digits() -> Digits:
    """Images that tell their class: it is the brightest of the first ten pixels."""
    images = torch.randn(256, 64, generator=torch.Generator().manual_seed(0))
    classes = images[:, :10].argmax(dim=1)
    return Digits(images + 3 * F.one_hot(classes, 64), classes)


def test_the_grid_is_as_large_as_promised_and_has_no_net_twice() -> None:
    assert len(set(GRID)) == len(GRID) >= 200
    assert len({net.seed for net in GRID}) == len(GRID)
    assert {net.block for net in QUICK_GRID} == {net.block for net in GRID} == set(BLOCKS)


@pytest.mark.parametrize("block", BLOCKS)
def test_depth_and_gain_are_those_of_the_net(block: str) -> None:
    model = Net(block, "relu", width=64, depth=4, gain=2.0).build()
    weights = [layer.weight for layer in model.modules() if isinstance(layer, nn.Linear)]
    assert len(weights) == 4 + 1
    # 4096 weights of variance 4 / 64: their mean square scatters by sqrt(2 / 4096).
    assert weights[1].square().mean().item() * 64 / 4 == pytest.approx(
        1, abs=5 * math.sqrt(2 / 4096)
    )


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_bundle_trains_each_net_as_torch_trains_it_alone(
    block: str, optimizer: str, digits: Digits
) -> None:
    nets = cross([block], ["tanh"], [8], [3], [1.0, 1.5])
    rates = (0.01, 0.003)
    rows = stack([net.build().double() for net in nets])
    bundle, rate = OPTIMIZERS[optimizer](), torch.tensor(rates).double().unsqueeze(1)
    twins = [net.build().double() for net in nets]
    alone = [
        getattr(torch.optim, optimizer)(twin.parameters(), lr=lr)
        for twin, lr in zip(twins, rates, strict=True)
    ]
    for batch in draw_batches(digits, 5):
        batch = Digits(batch.images.double(), batch.classes)
        rows, _ = take_step(twins[0], rows, rate, bundle, batch)
        for twin, single in zip(twins, alone, strict=True):
            single.zero_grad()
            F.cross_entropy(twin(batch.images), batch.classes).backward()
            single.step()
    # Adam divides by gradients, and where they are zero but for rounding its direction is chance.
    torch.testing.assert_close(rows, stack(twins), rtol=1e-7, atol=1e-8)


def test_who_has_learned_leaves_and_who_cannot_stays_to_the_end(digits: Digits) -> None:
    [net] = cross(["plain"], ["relu"], [16], [2], [1.0])
    models = [net.build() for _ in range(3)]
    before = stack(models)
    learned, idle, thrown = train(models, [0.1, 0.0, 1e30], SGD(), draw_batches(digits, 400))
    assert learned.accuracy >= GOAL
    assert learned.steps % WINDOW == 0
    assert idle.accuracy < GOAL
    assert thrown.accuracy < GOAL
    assert math.isnan(idle.steps)
    assert math.isnan(thrown.steps)
    assert torch.equal(stack(models), before)


def test_what_is_in_the_files_is_not_done_again(tmp_path: Path, digits: Digits) -> None:
    def train_some(nets: list[Net]) -> trainability.Rows:
        done.extend(nets)
        return trainability.train_nets(nets, digits, steps=WINDOW)

    done: list[Net] = []
    first = trainability.fill(tmp_path / "training.csv", TINY[:4], train_some)
    again = trainability.fill(tmp_path / "training.csv", TINY, train_some)
    assert done == TINY
    assert len(again) == len(TINY) * 2 * 3
    assert set(first.index) == {dataclasses.astuple(net) for net in TINY[:4]}


def frame(*rows: tuple[bool, bool, str]) -> pd.DataFrame:
    """Make nets of (flagged, trainable, codes)."""
    index = [("plain", "relu", 8, depth, 1.0) for depth, _ in enumerate(rows)]
    nets = pd.DataFrame(rows, columns=["flagged", "trainable", "codes"])
    nets.index = pd.MultiIndex.from_tuples(index, names=trainability.KEY)
    return nets.assign(reached=[2 if trainable else 0 for _, trainable, _ in rows])


def test_recall_is_of_untrainable_nets_and_alarms_are_of_trainable_ones() -> None:
    nets = frame(
        (True, False, "VP101"), (True, False, "VP201"), (False, False, ""), (False, True, "")
    )
    _, every, lenient, strict, plain, _, last = trainability.tabulate_scores(nets)
    # Clopper and Pearson's own intervals for 2 of 3 and 0 of 1.
    rates = "| 2 of 3: 0.67 (0.09–0.99) | 0 of 1: 0.00 (0.00–0.97) |"
    assert every == f"| all {rates}"
    assert (lenient.endswith(rates), plain, last) == (
        True,
        f"| plain {rates}",
        f"| plain, relu, 8 {rates}",
    )
    assert strict.endswith("| 2 of 4: 0.50 (0.07–0.93) | none |")


def test_theory_calls_nets_too_deep_off_the_edge_of_chaos() -> None:
    nets = cross(["plain"], ["relu"], [8], [2, 50], [1.0, 2.0**0.5])
    index = pd.MultiIndex.from_tuples([dataclasses.astuple(net) for net in nets])
    # At Xavier's gain chi is 1/2: 6 / ln 2 = 8.7 layers.
    assert trainability.is_too_deep(pd.DataFrame(index=index)) == [False, False, True, False]


def test_codes_are_counted_where_they_err() -> None:
    nets = frame((True, False, "VP101 VP201"), (True, True, "VP201"), (True, True, "VP101 VP201"))
    *_, first, second = trainability.tabulate_codes(nets)
    assert first == "| VP101 | 1 | 1 | 0 | plain relu 1 |"
    assert second == "| VP201 | 1 | 2 | 1 | plain relu 2 |"


@pytest.mark.parametrize(
    ("steps", "expected"), [((30.0, 50.0, math.nan), True), ((math.nan, 40.0, math.nan), False)]
)
def test_a_net_trains_if_two_of_three_rates_reach_the_goal(
    steps: tuple[float, ...], expected: bool
) -> None:
    runs = pd.DataFrame({"optimizer": "SGD", "accuracy": 0.5, "steps": steps})
    runs.index = pd.MultiIndex.from_tuples(
        [("plain", "relu", 8, 2, 1.0)] * 3, names=trainability.KEY
    )
    verdicts = pd.DataFrame({"healthy": [True], "codes": [""]}, index=runs.index[:1])
    nets = trainability.join(runs, verdicts, "SGD")
    assert nets["trainable"].tolist() == [expected]
    assert nets["steps"].tolist() == [min(step for step in steps if step == step)]


def test_the_boundary_runs_between_flagged_cells_and_others() -> None:
    flagged = np.array([[False, True], [False, False]])
    segments = set(trace_boundary(flagged, columns=[0, 1, 2], rows=[0, 1, 2]))
    assert segments == {((1, 0), (1, 1)), ((1, 1), (2, 1))}
    np.testing.assert_allclose(find_edges([1, 4, 16]), [0.5, 2, 8, 32])


def test_the_whole_prints_its_tables_and_draws_its_figure(
    tmp_path: Path,
    digits: Digits,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(trainability, "QUICK_GRID", TINY)
    monkeypatch.setattr(trainability, "load_digits", lambda: digits)
    monkeypatch.setattr(trainability, "draw_heat_map", lambda nets: draw_heat_map(nets, width=8))
    threads = torch.get_num_threads()
    try:
        figure = tmp_path / "map.png"
        trainability.main(["--quick", "--folder", str(tmp_path), "--figure", str(figure)])
    finally:
        torch.set_num_threads(threads)
    printed = capsys.readouterr().out
    assert "| 3 × 8 |" in printed
    assert "| all |" in printed
    assert figure.stat().st_size > 10_000


def test_without_scikit_learn_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(SystemExit, match="pip install scikit-learn"):
        trainability.load_digits()
