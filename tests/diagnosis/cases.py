"""Models that a verdict must flag, and models that it must not.

Each case builds a model from the current random state, and comes with its inputs and its loss. The
list restates the faults and the healthy designs on which published checkers were compared: plain
stacks under wrong scales, constants, dead units and unscaled residual growth, against the same
stacks done right and deliberate designs that look like faults (small heads, zero-initialized
branches, scaled losses, norm resets).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn

Draw = Callable[[torch.Tensor], object]


class Case(NamedTuple):
    build: Callable[[], nn.Module]
    inputs: tuple[int, ...]
    loss: Callable[[torch.Tensor], torch.Tensor] | None = None


def he(weight: torch.Tensor) -> None:
    nn.init.kaiming_normal_(weight, nonlinearity="relu")


def he_times(factor: float) -> Draw:
    def draw(weight: torch.Tensor) -> None:
        he(weight)
        weight.mul_(factor)

    return draw


def normal(std: float) -> Draw:
    return lambda weight: nn.init.normal_(weight, std=std)


def lecun(weight: torch.Tensor) -> None:
    nn.init.kaiming_normal_(weight, nonlinearity="linear")


def draw_weights(model: nn.Module, draw: Draw, bias: float = 0.0) -> nn.Module:
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                draw(module.weight)
                nn.init.constant_(module.bias, bias)
    return model


def mlp(depth: int, activation: type[nn.Module], width: int = 128) -> nn.Sequential:
    layers: list[nn.Module] = []
    for _ in range(depth):
        layers += [nn.Linear(width, width), activation()]
    return nn.Sequential(*layers, nn.Linear(width, 10))


def conv_net(depth: int, channels: int = 32) -> nn.Sequential:
    layers: list[nn.Module] = []
    for index in range(depth):
        layers += [nn.Conv2d(channels if index else 3, channels, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10))


def with_small_head(model: nn.Sequential) -> nn.Sequential:
    nn.init.normal_(model[-1].weight, std=1e-4)
    return model


class Residual(nn.Module):
    """x + scale · branch(x), the branch a He-drawn linear layer behind a ReLU."""

    def __init__(self, width: int, scale: float) -> None:
        super().__init__()
        self.linear = draw_weights(nn.Linear(width, width), he)
        self.scale = scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.scale * self.linear(torch.relu(x))


def residual_mlp(depth: int, scale: float, width: int = 128) -> nn.Sequential:
    blocks = [Residual(width, scale) for _ in range(depth)]
    return nn.Sequential(nn.Linear(width, width), *blocks, nn.Linear(width, 10))


class BasicBlock(nn.Module):
    def __init__(self, channels: int, *, zero_init: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        if zero_init:
            nn.init.zeros_(self.bn2.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(x + self.bn2(self.conv2(y)))


def resnet8(*, zero_init: bool, channels: int = 16) -> nn.Sequential:
    blocks = [BasicBlock(channels, zero_init=zero_init) for _ in range(3)]
    stem = [nn.Conv2d(3, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels), nn.ReLU()]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10)]
    return nn.Sequential(*stem, *blocks, *head)


def layer_norm_mlp(depth: int, width: int = 128) -> nn.Sequential:
    layers: list[nn.Module] = []
    for _ in range(depth):
        layers += [nn.Linear(width, width), nn.LayerNorm(width), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(width, 10))


def encoder(width: int = 64) -> nn.Module:
    layer = nn.TransformerEncoderLayer(
        width, 4, dim_feedforward=4 * width, dropout=0.0, batch_first=True, norm_first=True
    )
    return nn.TransformerEncoder(layer, 6, enable_nested_tensor=False)


class Sequence(nn.Module):
    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.lstm = nn.LSTM(width, width, num_layers=2, batch_first=True)
        self.head = nn.Linear(width, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.lstm(x)[0][:, -1])


def he_30() -> nn.Module:
    return draw_weights(mlp(30, nn.ReLU), he)


ROWS = (32, 128)
IMAGES = (8, 3, 16, 16)

FAULTY = {
    "relu_30_normal_001": Case(lambda: draw_weights(mlp(30, nn.ReLU), normal(0.01)), ROWS),
    "relu_30_default": Case(lambda: mlp(30, nn.ReLU), ROWS),
    "relu_30_xavier": Case(lambda: draw_weights(mlp(30, nn.ReLU), nn.init.xavier_normal_), ROWS),
    "relu_30_he_times_1.5": Case(lambda: draw_weights(mlp(30, nn.ReLU), he_times(1.5)), ROWS),
    "relu_30_normal_1": Case(lambda: draw_weights(mlp(30, nn.ReLU), normal(1.0)), ROWS),
    "tanh_30_normal_1": Case(lambda: draw_weights(mlp(30, nn.Tanh), normal(1.0)), ROWS),
    "tanh_30_normal_001": Case(lambda: draw_weights(mlp(30, nn.Tanh), normal(0.01)), ROWS),
    "sigmoid_20_xavier": Case(
        lambda: draw_weights(mlp(20, nn.Sigmoid), nn.init.xavier_normal_), ROWS
    ),
    "relu_30_constant": Case(
        lambda: draw_weights(mlp(30, nn.ReLU), lambda w: nn.init.constant_(w, 0.01)), ROWS
    ),
    "relu_30_zeros": Case(lambda: draw_weights(mlp(30, nn.ReLU), nn.init.zeros_), ROWS),
    "conv_20_default": Case(lambda: conv_net(20), IMAGES),
    "residual_40_unscaled": Case(lambda: residual_mlp(40, 1.0), ROWS),
    "relu_30_he_bias_-3": Case(lambda: draw_weights(mlp(30, nn.ReLU), he, bias=-3.0), ROWS),
}

HEALTHY = {
    "he_30": Case(he_30, ROWS),
    "he_30_small_head": Case(lambda: with_small_head(he_30()), ROWS),
    "he_30_loss_times_1e-6": Case(he_30, ROWS, lambda y: 1e-6 * y.square().mean()),
    "he_30_loss_times_1e5": Case(he_30, ROWS, lambda y: 1e5 * y.square().mean()),
    "tanh_10_xavier": Case(lambda: draw_weights(mlp(10, nn.Tanh), nn.init.xavier_normal_), ROWS),
    "selu_30_lecun": Case(lambda: draw_weights(mlp(30, nn.SELU), lecun), ROWS),
    "relu_3_default": Case(lambda: mlp(3, nn.ReLU), ROWS),
    "resnet_8": Case(lambda: resnet8(zero_init=False), IMAGES),
    "resnet_8_zero_init": Case(lambda: resnet8(zero_init=True), IMAGES),
    "layer_norm_20": Case(lambda: layer_norm_mlp(20), ROWS),
    "residual_40_scaled": Case(lambda: residual_mlp(40, 1 / math.sqrt(40)), ROWS),
    "pre_norm_encoder": Case(encoder, (8, 16, 64)),
    "lstm": Case(Sequence, (8, 16, 64)),
}


def make(case: Case, seed: int) -> tuple[nn.Module, torch.Tensor]:
    """Build the model and its inputs from a seed, leaving the global random state alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return case.build(), torch.randn(case.inputs)
