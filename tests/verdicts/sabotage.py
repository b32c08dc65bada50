"""One layer of a right model broken in one way: is it the one that is named?"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from nets import build_resnet, build_vgg
from torch import nn

import varprobe as vp
from tests.diagnosis.cases import draw_weights, he
from tests.verdicts.case import Case, images, rows, tokens
from tests.verdicts.sequences import gpt


def pyramid() -> nn.Module:
    """Return linear layers of different widths under He's law."""
    widths = [64, 128, 128, 96, 96, 64, 64, 48, 48, 32]
    layers = [
        layer for a, b in itertools.pairwise(widths) for layer in (nn.Linear(a, b), nn.ReLU())
    ]
    return draw_weights(nn.Sequential(*layers, nn.Linear(32, 10)), he)


MODELS: Mapping[str, Case] = {
    "MLP": Case(pyramid, rows()),
    "CNN": Case(lambda: draw_weights(build_vgg(16, norm=False), he), images()),
    "ResNet": Case(lambda: build_resnet(16), images(32)),
    "transformer": Case(gpt, tokens()),
}


def transpose_fans(weight: torch.Tensor) -> None:
    """Give a weight the variance that it would have with its fans exchanged."""
    fan_in, fan_out = nn.init._calculate_fan_in_and_fan_out(weight)
    weight.mul_(math.sqrt(fan_in / fan_out))


DEEDS: Mapping[str, Callable[[torch.Tensor], object]] = {
    "× 0.1": lambda weight: weight.mul_(0.1),
    "× 0.3": lambda weight: weight.mul_(0.3),
    "× 3": lambda weight: weight.mul_(3.0),
    "× 10": lambda weight: weight.mul_(10.0),
    "fans exchanged": transpose_fans,
    "zero": lambda weight: weight.zero_(),
    "constant": lambda weight: weight.fill_(float(weight.std())),
}


class Sabotage(NamedTuple):
    """What was done to which layer, and which layers the verdict names for their weights."""

    layer: str
    named: tuple[str, ...]
    healthy: bool

    @property
    def is_named(self) -> bool:
        return self.named == (self.layer,)


def commit(case: Case, deed: str, seed: int) -> Sabotage:
    """Break one layer, drawn at random, and ask for the verdict."""
    model, inputs = case.make(seed)
    layers = [name for name, layer in model.named_modules() if _can_break(layer, deed)]
    choice = torch.randint(len(layers), (), generator=torch.Generator().manual_seed(seed))
    name = layers[int(choice)]
    with torch.no_grad():
        DEEDS[deed](model.get_submodule(name).weight)
    diagnosis = vp.diagnose(vp.analyze(vp.profile(model, inputs)))
    blamed = [f.module for f in diagnosis.findings if f.code.startswith("VP3")]
    return Sabotage(name, tuple(dict.fromkeys(blamed)), diagnosis.healthy)


def _can_break(layer: nn.Module, deed: str) -> bool:
    if not isinstance(layer, nn.Linear | nn.Conv2d):
        return False
    fan_in, fan_out = nn.init._calculate_fan_in_and_fan_out(layer.weight)
    return deed != "fans exchanged" or fan_in != fan_out
