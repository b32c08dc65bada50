from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.diagnosis.cases import draw_weights, he, mlp
from tests.diagnosis.judging import judge, rows


class Scaled(nn.Module):
    """x + scale · layer(x), four times, the scale a parameter of a form of one's choice."""

    def __init__(self, scale: torch.Tensor) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(64, 64) for _ in range(4))
        self.scales = nn.ParameterList(nn.Parameter(scale.clone()) for _ in range(4))
        self.head = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer, scale in zip(self.layers, self.scales, strict=True):
            x = x + scale * layer(x)
        return self.head(x)


@pytest.mark.parametrize(
    ("scale", "named"),
    [
        (torch.zeros(1), "ReZero"),
        (torch.zeros(()), "ReZero"),
        (torch.full((64,), 1e-4), "LayerScale"),
        (torch.ones(1), ""),
        (torch.ones(64), ""),
    ],
)
def test_scales_of_branches(scale: torch.Tensor, named: str) -> None:
    found = judge(Scaled(scale), rows(), "VP304")
    assert len(found) == bool(named)
    assert all(named in f.message and "(4 alike)" in f.message for f in found)
    assert all(f.level == "info" for f in found)


class Headed(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.body = draw_weights(mlp(3, nn.ReLU, width=64), he)
        self.head = nn.Linear(10, 5)
        with torch.no_grad():
            self.head.weight.mul_(factor)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x))


@pytest.mark.parametrize(("factor", "count"), [(1e-2, 1), (1.0, 0)])
def test_a_small_head(factor: float, count: int) -> None:
    torch.manual_seed(0)
    found = judge(Headed(factor), rows(), "VP304")
    assert [finding.module for finding in found] == ["head"] * count


def test_a_model_of_zeros_is_no_design() -> None:
    model = draw_weights(mlp(3, nn.ReLU, width=64), nn.init.zeros_)
    assert judge(model, rows(), "VP304") == []
