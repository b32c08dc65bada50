"""Convolutional nets: library defaults and deliberate designs, and what is left without norms."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import torch
from nets import build_preactivation, build_resnet, build_vgg
from torch import nn
from torch.nn import functional as F

from tests.diagnosis.cases import conv_net, draw_weights, he, normal
from tests.verdicts.case import Calls, Case, images


def convolve(inside: int, outside: int, size: int = 3, **options: int) -> nn.Conv2d:
    return nn.Conv2d(inside, outside, size, padding=size // 2, bias=False, **options)


class Bottleneck(nn.Module):
    """ResNet-50's block; its norms can be left out, or begin at 0 at its end."""

    def __init__(self, width: int, *, norm: bool = True, zero_init: bool = False) -> None:
        super().__init__()
        make = nn.BatchNorm2d if norm else nn.Identity
        self.conv1, self.bn1 = convolve(4 * width, width, 1), make(width)
        self.conv2, self.bn2 = convolve(width, width), make(width)
        self.conv3, self.bn3 = convolve(width, 4 * width, 1), make(4 * width)
        for layer in (self.conv1, self.conv2, self.conv3):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
        if zero_init:
            nn.init.zeros_(self.bn3.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.bn1(self.conv1(x)))
        y = torch.relu(self.bn2(self.conv2(y)))
        return torch.relu(x + self.bn3(self.conv3(y)))


def bottlenecks(depth: int, **options: bool) -> nn.Sequential:
    blocks = [Bottleneck(16, **options) for _ in range(depth)]
    norm = nn.BatchNorm2d(64) if options.get("norm", True) else nn.Identity()
    head = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)
    return nn.Sequential(convolve(3, 64), norm, nn.ReLU(), *blocks, *head)


class Branch(nn.Module):
    """x + scale · branch(x) without a norm: Fixup, SkipInit, LayerScale, by what is set to 0."""

    def __init__(self, width: int, depth: int, design: str) -> None:
        super().__init__()
        self.conv1, self.conv2 = (nn.Conv2d(width, width, 3, padding=1) for _ in range(2))
        draw_weights(self, he)
        self.scale = nn.Parameter(torch.ones(1))
        with torch.no_grad():
            if design == "fixup":
                self.conv1.weight.mul_(depth**-0.5)
                self.conv2.weight.zero_()
            elif design == "skip":
                self.scale.zero_()
            elif design == "layer scale":
                self.scale = nn.Parameter(torch.full((width,), 1e-4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv2(torch.relu(self.conv1(torch.relu(x))))
        return x + self.scale.view(-1, 1, 1) * y


def branches(design: str, depth: int = 12) -> nn.Sequential:
    blocks = [Branch(16, depth, design) for _ in range(depth)]
    head = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10)
    return nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), *blocks, *head)


class Inverted(nn.Module):
    """MobileNetV2's block: expand, filter each channel by itself, project."""

    def __init__(self, width: int, *, squeeze: bool = False) -> None:
        super().__init__()
        wide = 4 * width
        self.expand, self.bn1 = convolve(width, wide, 1), nn.BatchNorm2d(wide)
        self.depthwise, self.bn2 = convolve(wide, wide, groups=wide), nn.BatchNorm2d(wide)
        self.gate = (
            nn.Sequential(
                nn.AdaptiveAvgPool2d(1),
                nn.Conv2d(wide, width, 1),
                nn.SiLU(),
                nn.Conv2d(width, wide, 1),
                nn.Sigmoid(),
            )
            if squeeze
            else None
        )
        self.project, self.bn3 = convolve(wide, width, 1), nn.BatchNorm2d(width)
        for layer in (self.expand, self.depthwise, self.project):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.relu6(self.bn1(self.expand(x)))
        y = F.relu6(self.bn2(self.depthwise(y)))
        if self.gate is not None:
            y = y * self.gate(y)
        return x + self.bn3(self.project(y))


class ConvNeXt(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.norm = nn.LayerNorm(width)
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.gamma = nn.Parameter(torch.full((width,), 1e-6))
        for layer in (self.depthwise, self.fc1, self.fc2):
            nn.init.trunc_normal_(layer.weight, std=0.02)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        return x + (self.gamma * self.fc2(F.gelu(self.fc1(y)))).permute(0, 3, 1, 2)


def chain(blocks: Sequence[nn.Module], width: int) -> nn.Sequential:
    head = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10)
    return nn.Sequential(convolve(3, width), nn.BatchNorm2d(width), *blocks, *head)


def dense(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    for layer in model.layers:
        x = torch.cat([x, layer(x)], 1)
    return model.head(x.mean((2, 3)))


def dense_net() -> nn.Module:
    layers = nn.ModuleList(
        nn.Sequential(nn.BatchNorm2d(3 + 8 * i), nn.ReLU(), convolve(3 + 8 * i, 8))
        for i in range(8)
    )
    return Calls(dense, layers=layers, head=nn.Linear(3 + 64, 10))


def step(inside: int, outside: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inside, outside, 3, padding=1), nn.BatchNorm2d(outside), nn.ReLU()
    )


def u_net(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    kept = []
    for down in model.down:
        x = down(x)
        kept.append(x)
        x = F.max_pool2d(x, 2)
    x = model.middle(x)
    for up, skip in zip(model.up, reversed(kept), strict=True):
        x = up(torch.cat([F.interpolate(x, scale_factor=2), skip], 1))
    return model.out(x)


def build_u_net() -> nn.Module:
    widths = [3, 16, 32, 64]
    return Calls(
        u_net,
        down=nn.ModuleList(step(a, b) for a, b in itertools.pairwise(widths)),
        middle=step(64, 64),
        up=nn.ModuleList([step(128, 32), step(64, 16), step(32, 16)]),
        out=nn.Conv2d(16, 2, 1),
    )


def generator(*, norm: bool, layers: int = 4) -> nn.Sequential:
    parts: list[nn.Module] = []
    for index in range(layers):
        parts.append(nn.ConvTranspose2d(64 if index == 0 else 32, 32, 4, 2, 1, bias=False))
        parts += [nn.BatchNorm2d(32)] if norm else []
        parts.append(nn.ReLU())
    model = nn.Sequential(*parts, nn.Conv2d(32, 3, 3, padding=1), nn.Tanh())
    for layer in model:
        if isinstance(layer, nn.ConvTranspose2d | nn.Conv2d):
            nn.init.normal_(layer.weight, std=0.02)
    return model


class Detector(nn.Module):
    """A trunk, a level for each of its sizes, and a head that the levels share (RetinaNet)."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.ModuleList(step(3 if i == 0 else 16, 16) for i in range(4))
        self.levels = nn.ModuleList(nn.Conv2d(16, 16, 1) for _ in range(4))
        self.head = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 9, 1))
        draw_weights(self.head, normal(0.01))
        nn.init.constant_(self.head[-1].bias, -math.log(99))

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        found = []
        for trunk, level in zip(self.trunk, self.levels, strict=True):
            x = F.max_pool2d(trunk(x), 2)
            found.append(torch.sigmoid(self.head(level(x))))
        return found


def evaluated(build: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    return lambda: build().eval()


def vgg_without_norm(draw: Callable[[torch.Tensor], object] | None) -> nn.Module:
    model = conv_net(13)
    return model if draw is None else draw_weights(model, draw)


FAULTY = {
    "vgg 13 default": Case(lambda: vgg_without_norm(None), images()),
    "vgg 13 N(0, .01)": Case(lambda: vgg_without_norm(normal(0.01)), images()),
    "vgg 13 constant": Case(
        lambda: vgg_without_norm(lambda w: nn.init.constant_(w, 1 / 9)), images()
    ),
    "resnet without norm": Case(lambda: bottlenecks(40, norm=False), images()),
    "untrained norms in eval mode": Case(
        evaluated(lambda: nn.Sequential(*[step(3 if i == 0 else 16, 16) for i in range(16)])),
        images(8),
    ),
    "generator without norm": Case(lambda: generator(norm=False, layers=5), images(2, channels=64)),
    "one filter for all": Case(
        lambda: vgg_without_norm(lambda w: w.copy_(torch.randn_like(w[:1]).expand_as(w) / 12)),
        images(),
    ),
}

HEALTHY = {
    "resnet 18": Case(lambda: build_resnet(16), images(32)),
    "resnet 50": Case(lambda: bottlenecks(16), images()),
    "resnet 50, zero-init": Case(lambda: bottlenecks(16, zero_init=True), images()),
    "pre-activation": Case(lambda: build_preactivation((12,), 16, norm=True), images()),
    "vgg with norm, default": Case(lambda: build_vgg(16, norm=True), images()),
    "vgg 13 he": Case(lambda: vgg_without_norm(he), images()),
    "fixup": Case(lambda: branches("fixup"), images()),
    "skip init": Case(lambda: branches("skip"), images()),
    "layer scale": Case(lambda: branches("layer scale"), images()),
    "mobilenet": Case(lambda: chain([Inverted(16) for _ in range(6)], 16), images()),
    "efficientnet": Case(
        lambda: chain([Inverted(16, squeeze=True) for _ in range(6)], 16), images()
    ),
    "convnext": Case(lambda: chain([ConvNeXt(32) for _ in range(6)], 32), images()),
    "densenet": Case(dense_net, images()),
    "u-net": Case(build_u_net, images()),
    "dcgan generator": Case(lambda: generator(norm=True), images(2, channels=64)),
    "detector with a prior": Case(Detector, images(32)),
}
