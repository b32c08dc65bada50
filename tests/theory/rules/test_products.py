"""Gates: products of two arrays, one of them made of the other."""

from __future__ import annotations

import torch
from torch import nn

import varprobe as vp
from tests.reference.module_moments import compare
from varprobe.recording import Site
from varprobe.theory import predict_silently


class Excitation(nn.Module):
    """Squeeze and excitation: channels are weighed by what their averages say."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(channels, channels // 4, 1)
        self.excite = nn.Conv2d(channels // 4, channels, 1)
        self.gate = nn.Sigmoid()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        average = x.mean((2, 3), keepdim=True)
        return x * self.gate(self.excite(torch.relu(self.squeeze(average))))


class Block(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        self.excitation = Excitation(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.excitation(self.second(torch.relu(self.first(x))))


def build() -> nn.Module:
    pool = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))
    return nn.Sequential(nn.Conv2d(3, 64, 3, padding=1), Block(64), *pool)


def draw() -> torch.Tensor:
    return torch.randn(4, 3, 8, 8)


def test_a_gate_made_of_what_it_multiplies_agrees_with_monte_carlo():
    for signal, error, noise in compare(build, draw, "kaiming_normal", draws=60):
        # 16 squeezed channels: an error of order 1/16 beside 4 standard errors.
        assert abs(error) < 1 / 16 + 4 * noise, (signal, error)


def test_its_rows_say_so():
    prediction = vp.predict(build, draw(), init="kaiming_normal", draws=0)
    row = prediction.find(Site(module="1.excitation"))
    assert row.status == "approximate"
    assert "gate" in row.reason


def test_factors_that_know_each_other_are_left_to_draws():
    class Square(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(64, 64)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = self.linear(x)
            return h * torch.relu(h.flip(1))

    prediction = predict_silently(Square, torch.randn(8, 64), init="lecun_normal", draws=0)
    assert prediction.unsupported
