"""Stacks of linear layers: wrong scales, wrong activations, wrong inputs, and the same done right.

Faults from the lists of TheDeepChecker (zero, constant, unit-variance and unbalanced weights,
biases far from 0, inputs that are not standardized, frozen or dead layers, saturation), AUTOTRAINER
(vanishing and exploding gradients, dying ReLU) and DeepFD (a wrong activation or initialization).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F

from tests.diagnosis.cases import (
    draw_weights,
    he,
    he_times,
    lecun,
    normal,
    residual_mlp,
    with_small_head,
)
from tests.verdicts.case import Builder, Calls, Case, rows, stack


class Square(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * x


class HiddenSoftmax(nn.Softmax):
    def __init__(self) -> None:
        super().__init__(dim=-1)


def he_stack(depth: int = 12) -> nn.Sequential:
    return draw_weights(stack(depth, nn.ReLU), he)


def edited(build: Builder, index: int, edit: Callable[[nn.Linear], object]) -> Builder:
    """Return a builder that changes one layer of a stack."""

    def make() -> nn.Module:
        model = build()
        with torch.no_grad():
            edit(model[index])
        return model

    return make


def shifted(mean: float) -> Callable[[torch.Tensor], object]:
    return lambda weight: nn.init.normal_(weight, mean, math.sqrt(2 / weight.shape[1]))


def copy_half(layer: nn.Linear) -> None:
    layer.weight[::2] = layer.weight[1::2]


def repeat_one_row(weight: torch.Tensor) -> None:
    he(weight)
    weight.copy_(weight[:1].expand_as(weight).clone())


def cut(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return model.head(model.body(x).detach())


def run_without_graph(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        x = model.body(x)
    return model.head(x)


class DetachedLinear(nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self.weight.detach(), self.bias.detach())


def use_detached_weights(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    x = torch.relu(model.first(x))
    return model.head(torch.relu(F.linear(x, model.body.weight.detach())))


def divide_by_spread(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    x = model.body(x)
    return model.head(x / (x - x).std(dim=1, keepdim=True))


def parts(call: Callable[..., torch.Tensor]) -> Builder:
    return lambda: Calls(
        call,
        first=nn.Linear(64, 64),
        body=nn.Linear(64, 64),
        head=nn.Linear(64, 10),
    )


def leaky_forty() -> nn.Module:
    return stack(40, lambda: nn.LeakyReLU(0.2))


def pixels() -> torch.Tensor:
    return torch.randint(0, 256, (32, 64)).float()


FAULTY = {
    "unit variance, tanh": Case(lambda: draw_weights(stack(8, nn.Tanh), normal(1.0)), rows()),
    "unbalanced weights": Case(lambda: draw_weights(stack(12, nn.ReLU), shifted(-0.3)), rows()),
    "one row for all units": Case(lambda: draw_weights(stack(8, nn.ReLU), repeat_one_row), rows()),
    "twins in one layer": Case(edited(he_stack, 8, copy_half), rows()),
    "one layer constant": Case(edited(he_stack, 8, lambda layer: layer.weight.fill_(0.05)), rows()),
    "one layer zero": Case(edited(he_stack, 8, lambda layer: layer.weight.zero_()), rows()),
    "one layer × 10": Case(edited(he_stack, 8, lambda layer: layer.weight.mul_(10)), rows()),
    "one layer × 0.1": Case(edited(he_stack, 8, lambda layer: layer.weight.mul_(0.1)), rows()),
    "one layer N(0, 1)": Case(edited(he_stack, 8, lambda layer: layer.weight.normal_()), rows()),
    "one bias -10": Case(edited(he_stack, 8, lambda layer: layer.bias.fill_(-10)), rows()),
    "biases of tanh 5": Case(
        lambda: draw_weights(stack(8, nn.Tanh), nn.init.xavier_normal_, bias=5.0), rows()
    ),
    "pixels into tanh": Case(
        lambda: draw_weights(stack(4, nn.Tanh), nn.init.xavier_normal_), pixels
    ),
    "pixels into sigmoid": Case(lambda: stack(4, nn.Sigmoid), pixels),
    "sigmoid 8 default": Case(lambda: stack(8, nn.Sigmoid), rows()),
    "softmax between layers": Case(lambda: stack(6, HiddenSoftmax), rows()),
    "tanh 20 default": Case(lambda: stack(20, nn.Tanh), rows()),
    "elu 30 default": Case(lambda: stack(30, nn.ELU), rows()),
    "leaky 40 default": Case(leaky_forty, rows()),
    "gelu 30 xavier": Case(
        lambda: draw_weights(stack(30, nn.GELU), nn.init.xavier_normal_), rows()
    ),
    "silu 20 default": Case(lambda: stack(20, nn.SiLU), rows()),
    "softplus 30 xavier": Case(
        lambda: draw_weights(stack(30, nn.Softplus), nn.init.xavier_normal_), rows()
    ),
    "batch norm 60, no way around": Case(
        lambda: stack(60, lambda: nn.Sequential(nn.BatchNorm1d(64), nn.ReLU())), rows()
    ),
    "square 6": Case(lambda: draw_weights(stack(6, Square), he_times(1.5)), rows()),
    "relu 20 he backwards in depth": Case(
        lambda: draw_weights(stack(20, nn.ReLU), he_times(0.5)), rows()
    ),
    "residual × 3": Case(lambda: residual_mlp(20, 3.0, 64), rows()),
    "cut between body and head": Case(parts(cut), rows()),
    "body under no_grad": Case(parts(run_without_graph), rows()),
    "a layer detaches its weights": Case(
        lambda: nn.Sequential(nn.Linear(64, 64), nn.ReLU(), DetachedLinear(64, 10)), rows()
    ),
    "weights used detached": Case(parts(use_detached_weights), rows()),
    "division by zero": Case(parts(divide_by_spread), rows()),
    "a NaN in a weight": Case(
        edited(he_stack, 4, lambda layer: layer.weight[0, 0].fill_(math.nan)), rows()
    ),
    "float16 overflow": Case(
        lambda: draw_weights(stack(8, nn.ReLU), he_times(8.0)).half(),
        lambda: torch.randn(32, 64).half(),
    ),
}


def kaiming_for(gain: float) -> Callable[[torch.Tensor], object]:
    return lambda weight: nn.init.normal_(weight, std=gain / math.sqrt(weight.shape[1]))


def looks_linear() -> nn.Module:
    """Return a stack that begins as a linear one (Balduzzi et al. 2017): mirrored blocks."""
    model = he_stack()
    with torch.no_grad():
        for layer in model[:-1:2]:
            block = nn.init.orthogonal_(torch.empty(32, 32))
            layer.weight.copy_(
                torch.cat([torch.cat([block, -block], 1), torch.cat([-block, block], 1)])
            )
    return model


class Sine(nn.Module):
    def __init__(self, first: bool) -> None:
        super().__init__()
        self.linear = nn.Linear(2 if first else 64, 64)
        bound = 1 / 2 if first else math.sqrt(6 / 64) / 30
        nn.init.uniform_(self.linear.weight, -bound, bound)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sin(30 * self.linear(x))


def highway(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    for gate, transform in zip(model.gates, model.transforms, strict=True):
        carried = gate(x)
        x = carried * torch.relu(transform(x)) + (1 - carried) * x
    return model.head(x)


def closed_gate() -> nn.Module:
    gate = nn.Sequential(nn.Linear(64, 64), nn.Sigmoid())
    nn.init.constant_(gate[0].bias, -2.0)
    return gate


def frozen_body() -> nn.Module:
    model = he_stack()
    model[:12].requires_grad_(False)
    return model


def act_and_value(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return torch.cat([model.actor(x), model.critic(x)], dim=1)


def agent() -> nn.Module:
    """Return policy and value nets as PPO draws them: orthogonal, their heads by 0.01 and by 1."""

    def layers(outputs: int, gain: float) -> nn.Module:
        net = nn.Sequential(
            nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, outputs)
        )
        for layer, scale in zip(net[::2], (math.sqrt(2), math.sqrt(2), gain), strict=True):
            nn.init.orthogonal_(layer.weight, scale)
            nn.init.zeros_(layer.bias)
        return net

    return Calls(act_and_value, actor=layers(6, 0.01), critic=layers(1, 1.0))


def square_loss(scale: float) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda y: scale * y.square().mean()


HEALTHY = {
    "he 60, width 256": Case(lambda: draw_weights(stack(60, nn.ReLU, 256), he), rows(256)),
    "he, inputs × 1e-6": Case(lambda: he_stack(), lambda: 1e-6 * torch.randn(32, 64)),
    "he, inputs × 1e6": Case(lambda: he_stack(), lambda: 1e6 * torch.randn(32, 64)),
    "he, loss × 1e6": Case(lambda: he_stack(), rows(), square_loss(1e6)),
    "he, loss × 1e-12": Case(lambda: he_stack(), rows(), square_loss(1e-12)),
    "he in bfloat16": Case(lambda: he_stack().bfloat16(), lambda: torch.randn(32, 64).bfloat16()),
    "he in float64": Case(lambda: he_stack().double(), lambda: torch.randn(32, 64).double()),
    "he on pixels": Case(he_stack, pixels),
    "leaky 30 he": Case(
        lambda: draw_weights(
            stack(30, lambda: nn.LeakyReLU(0.2)), kaiming_for(math.sqrt(2 / 1.04))
        ),
        rows(),
    ),
    "gelu 20 with its gain": Case(
        lambda: draw_weights(stack(20, nn.GELU), kaiming_for(1.5335)), rows()
    ),
    "tanh 30 orthogonal": Case(
        lambda: draw_weights(stack(30, nn.Tanh), nn.init.orthogonal_), rows()
    ),
    "linear 50 orthogonal": Case(
        lambda: draw_weights(stack(50, nn.Identity), nn.init.orthogonal_), rows()
    ),
    "selu 20 lecun": Case(lambda: draw_weights(stack(20, nn.SELU), lecun), rows()),
    "tanh 5 default": Case(lambda: stack(5, nn.Tanh), rows()),
    "gelu 3 default": Case(lambda: stack(3, nn.GELU), rows()),
    "looks linear": Case(looks_linear, rows()),
    "siren": Case(
        lambda: nn.Sequential(Sine(True), *[Sine(False) for _ in range(3)], nn.Linear(64, 3)),
        lambda: 2 * torch.rand(256, 2) - 1,
    ),
    "highway 10": Case(
        lambda: Calls(
            highway,
            gates=nn.ModuleList(closed_gate() for _ in range(10)),
            transforms=nn.ModuleList(draw_weights(nn.Linear(64, 64), he) for _ in range(10)),
            head=nn.Linear(64, 10),
        ),
        rows(),
    ),
    "small policy head": Case(
        lambda: with_small_head(draw_weights(stack(2, nn.Tanh), nn.init.orthogonal_)), rows()
    ),
    "policy and value": Case(agent, rows()),
    "zero head": Case(edited(he_stack, -1, lambda layer: layer.weight.zero_()), rows()),
    "frozen body": Case(frozen_body, rows()),
    "dropout": Case(
        lambda: draw_weights(stack(8, lambda: nn.Sequential(nn.ReLU(), nn.Dropout(0.5))), he),
        rows(),
    ),
    "one unit wide": Case(lambda: nn.Linear(64, 1), rows()),
}
