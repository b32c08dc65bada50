from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import varprobe as vp
from varprobe.identification.identifying import identify


def list_followers(model: nn.Module, inputs: torch.Tensor | None = None) -> dict[str, str]:
    found = identify(model, inputs)
    return {origin.module: origin.follower for origin in found if origin.follower}


class Functional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linears = nn.ModuleList(nn.Linear(8, 8) for _ in range(6))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a, b, c, d, e, f = self.linears
        x = F.relu(a(x))
        x = torch.tanh(F.dropout(b(x)) + x)
        x = F.gelu(F.layer_norm(c(x), (8,)))
        x = F.leaky_relu(d(x), 0.3)
        x = torch.sigmoid(e(x)) * x
        return F.silu(f(x)) * 2


class HandWritten(nn.Module):
    """A GELU that nobody knows by name: there is a tanh inside."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 0.5 * x * (1 + torch.tanh(0.79788456 * (x + 0.044715 * x**3)))


class Gated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate, self.up, self.down = nn.Linear(8, 16), nn.Linear(8, 16), nn.Linear(16, 8)
        self.act = nn.SiLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(self.act(self.gate(x)) * self.up(x))


def test_functions_are_seen_in_a_forward_pass() -> None:
    # Behind c comes a normalization; d's slope is in no record; a sigmoid is half of a gate.
    expected = {"linears.0": "relu", "linears.1": "tanh", "linears.5": "silu"}
    assert list_followers(Functional(), torch.randn(4, 8)) == expected
    assert list_followers(Functional()) == {}


def test_what_an_activation_is_made_of_is_not_what_it_is() -> None:
    model = nn.Sequential(nn.Linear(8, 8), HandWritten(), nn.Linear(8, 8), nn.ReLU())
    assert list_followers(model, torch.randn(4, 8)) == {"2": "relu"}


def test_modules_in_a_sequential_follow_each_other() -> None:
    model = nn.Sequential(
        *(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU()),
        *(nn.Conv2d(8, 8, 3), nn.Dropout(), nn.LeakyReLU(0.2)),
        *(nn.Flatten(), nn.Linear(32, 8), nn.Identity(), nn.Tanh(), nn.Linear(8, 8)),
    )
    expected = {"3": "leaky_relu(negative_slope=0.2)", "7": "tanh"}
    assert list_followers(model) == expected
    assert list_followers(model, torch.randn(2, 3, 6, 6)) == expected


def test_an_order_of_registration_that_leaves_doubt_says_nothing() -> None:
    assert list_followers(Gated()) == {}
    assert list_followers(Gated(), torch.randn(4, 8)) == {"gate": "silu"}


@pytest.mark.parametrize(
    ("activation", "squared"),
    [(nn.ReLU(), 2.0), (nn.LeakyReLU(0.2), 2 / 1.04), (nn.Tanh(), 1.0), (nn.SELU(), 1.0)],
    ids=lambda value: type(value).__name__,
)
def test_the_expected_law_is_that_of_kaiming(activation: nn.Module, squared: float) -> None:
    origin = vp.identify(nn.Sequential(nn.Conv2d(4, 8, 3, groups=2), activation))["0.weight"]
    # Two channels in each group, 3 × 3 taps.
    assert origin.expected.variance == pytest.approx(squared / 18)
    assert origin.expected_std**2 == pytest.approx(squared / 18)
