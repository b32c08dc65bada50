from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.diagnosis.judging import judge, rows


class Net(nn.Module):
    """Three layers; how the second is used is the test's choice."""

    def __init__(self, use: Callable[[nn.Module, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.first, self.second, self.third = (nn.Linear(64, 64) for _ in range(3))
        self.use = use

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.third(x + self.use(self.second, torch.relu(self.first(x))))


def plain(layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return layer(x)


def detached(layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return layer(x).detach()


def without_graph(layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return layer(x)


def unused(layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return x


def functional(layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return F.linear(x, layer.weight, layer.bias)


def functional_detached(layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return F.linear(x, layer.weight.detach(), layer.bias.detach())


def only_looked_at(layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
    # Read, and even an argument of an operation, but nothing comes of it.
    assert layer.weight.detach().norm() > 0
    return x


@pytest.mark.parametrize(
    ("use", "level", "reason"),
    [
        (functional_detached, "error", "used detached"),
        (only_looked_at, "info", "never called"),
        (detached, "error", "no gradient came back to its output"),
        (without_graph, "error", "ran without a graph"),
        (unused, "info", "never called"),
    ],
)
def test_reasons_are_told_apart(use: Callable[..., torch.Tensor], level: str, reason: str) -> None:
    found = {f.module: f for f in judge(Net(use), rows(), "VP203")}
    assert found["second" if "second" in found else "first"].level == level
    assert any(reason in finding.message for finding in found.values())


@pytest.mark.parametrize("use", [plain, functional])
def test_a_layer_with_a_gradient_is_fine_however_it_is_used(
    use: Callable[..., torch.Tensor],
) -> None:
    assert judge(Net(use), rows(), "VP203") == []


def test_frozen_layers_are_a_design() -> None:
    model = Net(plain)
    model.first.requires_grad_(False)
    (finding,) = judge(model, rows(), "VP203")
    assert (finding.level, finding.module) == ("info", "first")
    assert "frozen" in finding.message


def test_weights_that_are_detached_are_told_from_outputs_that_are() -> None:
    class Frozen(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return F.linear(x, self.weight.detach(), self.bias.detach())

    model = nn.Sequential(nn.Linear(64, 64), Frozen(64, 64))
    (finding,) = judge(model, rows(), "VP203")
    assert (finding.level, finding.module) == ("error", "1")
    assert "none at its weights" in finding.message


def test_layers_alike_are_one_finding() -> None:
    model = nn.Sequential(*[nn.Linear(64, 64) for _ in range(4)])
    model[:3].requires_grad_(False)
    (finding,) = judge(model, rows(), "VP203")
    assert "3 modules alike" in finding.message


def test_a_token_that_this_input_does_not_need_is_no_fault() -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mask_token = nn.Parameter(torch.zeros(64))
            self.layer = nn.Linear(64, 64)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(x)

    assert [f.level for f in judge(Masked(), rows(), "VP203")] == ["info"]


def test_without_a_backward_pass_nothing_is_missing() -> None:
    assert judge(Net(detached), rows(), "VP203", loss=False) == []
