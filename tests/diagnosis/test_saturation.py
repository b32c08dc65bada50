from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.diagnosis.cases import Draw, draw_weights, mlp, normal
from tests.diagnosis.judging import judge, rows
from varprobe.diagnosis.saturation import BOUNDED, MIN_SLOPE
from varprobe.moments import Moments


def xavier(weight: torch.Tensor) -> None:
    nn.init.xavier_normal_(weight, gain=5 / 3)


@pytest.mark.parametrize("activation", [nn.Tanh, nn.Sigmoid])
@pytest.mark.parametrize(("draw", "flagged"), [(normal(4.0), True), (xavier, False)])
def test_large_weights_saturate(activation: type[nn.Module], draw: Draw, flagged: bool) -> None:
    torch.manual_seed(0)
    found = judge(draw_weights(mlp(3, activation, width=64), draw), rows(), "VP104")
    assert [(f.level, f.module) for f in found] == [("error", "1")] * flagged
    assert all(f.measured < MIN_SLOPE and "and 2 more" in f.message for f in found)


@pytest.mark.parametrize("activation", [nn.Tanh, nn.Sigmoid])
def test_the_slope_follows_from_the_moments(activation: type[nn.Module]) -> None:
    x = torch.randn(10_000, dtype=torch.float64, requires_grad=True)
    y = activation()(x)
    y.sum().backward()
    steepest = {"Tanh": 1.0, "Sigmoid": 0.25}[activation.__name__]
    values = y.detach()
    moments = Moments(
        numel=y.numel(),
        mean=float(values.mean()),
        m2=float((values - values.mean()).square().sum()),
        abs_max=1.0,
    )
    slope = BOUNDED[activation.__name__].slope(moments)
    assert slope == pytest.approx(float(x.grad.mean()) / steepest)


def test_a_gate_that_starts_closed_is_a_design() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64), nn.Sigmoid(), nn.Linear(64, 10))
    nn.init.constant_(model[0].bias, -5.0)
    (finding,) = judge(model, rows(), "VP104")
    assert finding.level == "info"
    assert "a gate that starts closed" in finding.message


def test_a_single_output_may_be_saturated() -> None:
    model = nn.Sequential(nn.Linear(64, 1), nn.Tanh())
    nn.init.normal_(model[0].weight, std=10.0)
    assert judge(model, rows(), "VP104") == []
