from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from tests.diagnosis.cases import draw_weights, he, mlp
from tests.diagnosis.judging import judge, rows
from varprobe.diagnosis.collapse import MIN_SPREAD


class Mixing(nn.Module):
    """Attention layers whose tokens reach the next one through them only, or around them, too."""

    def __init__(self, depth: int, *, around: bool) -> None:
        super().__init__()
        self.values = nn.ModuleList(nn.Linear(64, 64, bias=False) for _ in range(depth))
        self.head = nn.Linear(64, 10)
        self.around = around
        for layer in self.values:
            nn.init.orthogonal_(layer.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for value in self.values:
            mixed = torch.softmax(x @ x.mT / 64, dim=-1) @ value(x)
            x = x + mixed if self.around else mixed
        return self.head(x)


@pytest.mark.parametrize(("around", "codes"), [(False, ["tokens"]), (True, [])])
def test_attention_without_a_way_around_makes_tokens_alike(around: bool, codes: list[str]) -> None:
    torch.manual_seed(0)
    found = judge(Mixing(6, around=around), torch.randn(8, 16, 64), "VP105")
    assert [finding.message.split()[0] for finding in found] == codes
    assert all(finding.measured < MIN_SPREAD == finding.threshold for finding in found)


class Sampled(nn.Module):
    """The same stack of tanh layers under weights of σ_w, with biases of σ_b."""

    def __init__(self, weight: float, bias: float) -> None:
        super().__init__()
        self.layers = mlp(12, nn.Tanh, width=64)
        for layer in self.layers:
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=weight / 8)
                nn.init.normal_(layer.bias, std=bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


# Poole et al. 2016: with σ_w² = 0.3, σ_b² = 1 samples contract by χ = 0.1 a layer or so; at
# σ_w² = 1, σ_b = 0 they stay as they are.
@pytest.mark.parametrize(("weight", "bias", "flagged"), [(0.55, 1.0, True), (1.0, 0.0, False)])
def test_large_biases_make_samples_alike(weight: float, bias: float, flagged: bool) -> None:
    torch.manual_seed(0)
    found = judge(Sampled(weight, bias), rows(), "VP105")
    assert [finding.message.split()[0] for finding in found] == ["samples"] * flagged


def test_it_is_said_where_it_begins() -> None:
    torch.manual_seed(0)
    model = draw_weights(mlp(6, nn.Tanh, width=64), nn.init.xavier_normal_)
    with torch.no_grad():
        model[4].weight.mul_(1e-4)
        model[4].bias.normal_()
    (finding,) = judge(model, rows(), "VP105")
    assert finding.module == "6"
    assert "samples are alike from here on" in finding.message


def test_samples_that_enter_alike_are_not_the_models_fault() -> None:
    torch.manual_seed(0)
    model = draw_weights(mlp(6, nn.ReLU, width=64), he)
    assert judge(model, torch.ones(32, 64), "VP105") == []
    assert judge(model, 1e3 + rows(), "VP105") == []


@pytest.mark.parametrize("unit", [1e-6, 1e6])
def test_units_do_not_matter(unit: float) -> None:
    torch.manual_seed(0)
    model = draw_weights(mlp(30, nn.ReLU, width=64), he)
    assert judge(model, unit * rows(), "VP105") == []


class Queried(nn.Module):
    """A last layer that reads learned queries, the same for every sample."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64))
        self.queries = nn.Parameter(torch.randn(64))
        self.head = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        encoded = self.encoder(x)
        return encoded[:, :10] + self.head(self.queries.expand(len(x), -1))


def test_what_is_constant_by_design_has_not_collapsed() -> None:
    torch.manual_seed(0)
    assert judge(Queried(), rows(), "VP105") == []


def test_the_limit_is_that_of_a_he_stack_of_660_layers() -> None:
    assert 9 * math.pi**2 / (2 * 660**2) == pytest.approx(MIN_SPREAD, rel=0.05)
