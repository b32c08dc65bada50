"""A norm whose scale another one takes off again."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import varprobe as vp
from varprobe.recording import Site

CHANNELS = 16


def build(between: type[nn.Module], groups: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, CHANNELS, 3, bias=False),
        nn.BatchNorm2d(CHANNELS),
        between(),
        nn.Conv2d(CHANNELS, CHANNELS, 3, groups=groups, bias=False),
        nn.BatchNorm2d(CHANNELS),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(CHANNELS * 16, 4),
    )


@pytest.mark.parametrize(
    ("between", "groups", "vanishes"),
    [
        (nn.ReLU, CHANNELS, True),  # each channel by itself, and positively homogeneous
        (nn.SiLU, CHANNELS, False),
        (nn.ReLU, 1, False),
    ],
)
def test_the_scale_of_a_channel_behind_which_another_norm_stands(
    between: type[nn.Module], groups: int, vanishes: bool
) -> None:
    torch.manual_seed(0)
    model, x = build(between, groups), torch.randn(4, 3, 8, 8)
    model(x).square().sum().backward()
    scale, other = (float(model[i].weight.grad.square().mean()) for i in (1, 4))
    # What eps = 1e-5 leaves of a gradient, squared.
    assert (scale < 1e-6 * other) is vanishes
    prediction = vp.predict(model, x, draws=0)
    row, depthwise = (
        prediction.find(Site(module=name, output="weight", signal="weight_gradient"))
        for name in ("1", "3")
    )
    assert row is not None
    assert depthwise is not None
    assert (row.second_moment == 0.0) is vanishes
    assert depthwise.status == "approximate"
