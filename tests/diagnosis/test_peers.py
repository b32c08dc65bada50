"""The odd layer among its peers, under every law that people draw from."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from torch import nn

import varprobe as vp
from tests.diagnosis.cases import draw_weights, he, he_times, layer_norm_mlp, mlp, normal
from tests.diagnosis.judging import judge, rows
from varprobe.diagnosis.peers import find_odd

Init = Callable[[torch.Tensor], object]


def pyramid(draw: Init) -> nn.Sequential:
    """Return linear layers of different widths, so that the laws differ from each other."""
    torch.manual_seed(0)
    widths = [64, 128, 128, 64, 64, 32, 32]
    pairs = itertools.pairwise(widths)
    layers = [layer for a, b in pairs for layer in (nn.Linear(a, b), nn.ReLU())]
    return draw_weights(nn.Sequential(*layers, nn.Linear(32, 10)), draw)


def fan_out(weight: torch.Tensor) -> None:
    nn.init.kaiming_normal_(weight, mode="fan_out")


LAWS: dict[str, Init] = {
    "he": he,
    "he backward": fan_out,
    "glorot": nn.init.xavier_uniform_,
    "orthogonal": nn.init.orthogonal_,
    "one std": normal(0.02),
    "sparse": lambda weight: nn.init.sparse_(weight, sparsity=0.8, std=0.1),
}


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("factor", [1.0, 0.3, 3.0])
def test_one_layer_is_odd_under_any_law(law: str, factor: float) -> None:
    model = pyramid(LAWS[law])
    with torch.no_grad():
        model[6].weight.mul_(factor)
    found = judge(model, rows(), "VP301")
    odd = [finding for finding in found if "peers" in finding.message]
    assert [(f.module, f.level) for f in odd] == [("6", "error")] * (factor != 1.0)
    assert all(f.measured / f.expected == pytest.approx(factor**2, rel=0.3) for f in odd)


def test_a_gain_that_is_ten_percent_off_is_seen() -> None:
    torch.manual_seed(0)
    model = draw_weights(mlp(8, nn.ReLU), he)
    with torch.no_grad():
        model[6].weight.mul_(1.1)
    (finding,) = judge(model, rows(width=128), "VP301")
    assert (finding.module, finding.level) == ("6", "warning")
    assert finding.remedy.endswith("draws 6.weight from kaiming_normal(nonlinearity='relu')")


@pytest.mark.parametrize("index", [0, 12])
def test_at_the_ends_the_scale_is_a_choice(index: int) -> None:
    model = pyramid(he)
    with torch.no_grad():
        model[index].weight.mul_(0.1)
    assert [(f.module, f.level) for f in judge(model, rows(), "VP301")] == [(str(index), "info")]


def test_a_norm_takes_the_scale_back() -> None:
    torch.manual_seed(0)
    model = layer_norm_mlp(5, width=64)
    with torch.no_grad():
        model[6].weight.mul_(10.0)
    (finding,) = judge(model, rows(), "VP301")
    assert (finding.module, finding.level) == ("6", "info")
    assert "norm" in finding.message


def name_odd(model: nn.Module, inputs: torch.Tensor) -> list[str]:
    weights = vp.analyze(vp.profile(model, inputs)).select(signal="weight")
    return [odd.site.site.module for odd in find_odd([s for s in weights if s.first.fan_in])]


def test_scales_that_fall_with_depth_are_no_odd_layers() -> None:
    # BEiT divides the last layer of block l by sqrt(2 l).
    torch.manual_seed(0)
    model = draw_weights(mlp(6, nn.ReLU), he)
    with torch.no_grad():
        for depth, layer in enumerate(model[:-1:2], start=1):
            layer.weight.div_(math.sqrt(2 * depth))
    assert name_odd(model, rows(width=128)) == []


def test_two_kinds_of_layers_are_no_odd_layers() -> None:
    torch.manual_seed(0)
    model = draw_weights(mlp(6, nn.ReLU), he)
    with torch.no_grad():
        for layer in model[4:10:2]:
            layer.weight.mul_(0.3)
    assert name_odd(model, rows(width=128)) == []


def test_layers_of_a_block_are_compared_with_those_of_other_blocks() -> None:
    # In each block the second layer is small by design; in the third block it is not.
    torch.manual_seed(0)
    blocks = [nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64)) for _ in range(4)]
    model = nn.Sequential(*blocks, nn.Linear(64, 10))
    for index, block in enumerate(blocks):
        draw_weights(block[0], he)
        draw_weights(block[1], he_times(0.1 if index != 2 else 1.0))
    assert name_odd(model, rows()) == ["2.1"]
