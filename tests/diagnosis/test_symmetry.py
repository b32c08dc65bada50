from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.diagnosis.cases import draw_weights, he, mlp, resnet8
from tests.diagnosis.judging import judge, rows


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return draw_weights(mlp(4, nn.ReLU, width=64), he)


@pytest.mark.parametrize(("copies", "flagged"), [(64, True), (8, True), (2, True), (1, False)])
def test_units_with_a_twin(copies: int, flagged: bool) -> None:
    model = net()
    with torch.no_grad():
        model[2].weight.copy_(model[2].weight[: 64 // copies].repeat(copies, 1))
    found = judge(model, rows(), "VP302")
    assert [finding.module for finding in found] == ["2"] * flagged
    assert all(f"only {64 // copies} of its 64 units" in finding.message for finding in found)


def test_a_few_twins_are_chance_or_taste() -> None:
    model = net()
    with torch.no_grad():
        model[2].weight[:16] = model[2].weight[16:32]
    assert judge(model, rows(), "VP302") == []


def test_filters_of_different_channels_may_be_equal() -> None:
    # Blur and other fixed kernels, one channel at a time.
    kernel = nn.Conv2d(8, 8, 3, groups=8, bias=False)
    with torch.no_grad():
        kernel.weight.copy_(torch.randn(1, 1, 3, 3).expand(8, 1, 3, 3))
    assert judge(nn.Sequential(kernel, nn.Conv2d(8, 8, 3)), torch.randn(2, 8, 9, 9), "VP302") == []


@pytest.mark.parametrize(("frozen", "count"), [(True, 0), (False, 1)])
def test_a_fixed_average_is_no_drawn_weight(frozen: bool, count: int) -> None:
    model = net()
    nn.init.constant_(model[2].weight, 1 / 64)
    model[2].requires_grad_(not frozen)
    assert len(judge(model, rows(), "VP302")) == count


@pytest.mark.parametrize(("index", "flagged"), [(0, True), (4, True), (6, True), (8, False)])
def test_zeros_that_stop_the_signal(index: int, flagged: bool) -> None:
    # The last layer may begin at 0: after one step everything moves.
    model = net()
    nn.init.zeros_(model[index].weight)
    found = judge(model, rows(), "VP302")
    assert [finding.module for finding in found] == [str(index)] * flagged


class Around(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(net() for _ in range(2))
        self.widen = nn.ModuleList(nn.Linear(10, 64) for _ in range(2))
        self.head = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block, widen in zip(self.blocks, self.widen, strict=True):
            x = x + widen(block(x))
        return self.head(x)


def test_zeros_with_a_way_around_are_a_design() -> None:
    model = Around()
    for layer in model.widen:
        nn.init.zeros_(layer.weight)
    assert judge(model, rows(), "VP302") == []
    (finding,) = judge(model, rows(), "VP304")
    assert (finding.level, finding.module) == ("info", "widen.0")
    assert "begins at 0 (2 alike)" in finding.message


def test_zero_scales_of_norms_are_a_design() -> None:
    model, images = resnet8(zero_init=True), torch.randn(4, 3, 8, 8)
    assert judge(model, images, "VP302") == []
    assert [f.module for f in judge(model, images, "VP304")] == ["3.bn2"]


@pytest.mark.parametrize(("place", "is_blamed"), [(4, True), (7, False)])
def test_zero_scales_of_norms_without_a_way_around_stop_everything(place, is_blamed) -> None:
    layers = [part for _ in range(3) for part in (nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU())]
    model = nn.Sequential(*layers, nn.Linear(64, 10))
    nn.init.zeros_(model[place].weight)
    if not is_blamed:  # before the head: all begins to move after one step, but not behind a ReLU
        model[8] = nn.Tanh()
    found = judge(model, rows(), "VP302")
    assert [f.module for f in found] == ([str(place)] if is_blamed else [])
    assert [f.module for f in judge(model, rows(), "VP304")] == ([] if is_blamed else [str(place)])


def test_a_constant_weight_without_a_fan_is_seen() -> None:
    attention = nn.MultiheadAttention(64, 4, batch_first=True)
    nn.init.constant_(attention.in_proj_weight, 0.1)
    x = torch.randn(2, 5, 64)
    (finding,) = judge(attention, (x, x, x), "VP302")
    assert "in_proj_weight" in finding.message
