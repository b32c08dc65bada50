"""The networks of the benchmarks: of what a probe costs, and of how right theory is.

Each is written as its users write it, with the initialization that is usual for it.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional as F


def build_mlp(activation: type[nn.Module], layers: int, width: int) -> nn.Module:
    """Return Linear and activation in turn."""
    pairs = ((nn.Linear(width, width), activation()) for _ in range(layers))
    return nn.Sequential(*(layer for pair in pairs for layer in pair))


def build_linears(layers: int, width: int) -> nn.Module:
    """Return nothing but Linear: the least to do beside each tensor that is watched."""
    return nn.Sequential(*(nn.Linear(width, width) for _ in range(layers)))


def build_convolutions(layers: int, width: int) -> nn.Module:
    """Return 3×3 convolution and ReLU in turn."""
    sizes = [3] + [width] * layers
    pairs = ((nn.Conv2d(*size, 3, padding=1), nn.ReLU()) for size in pairwise(sizes))
    return nn.Sequential(*(layer for pair in pairs for layer in pair))


class ResidualBlock(nn.Module):
    """ResNet-18's: two 3×3 convolutions around a shortcut, what can be in place in place."""

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inside, outside, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(outside)
        self.conv2 = nn.Conv2d(outside, outside, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outside)
        self.relu = nn.ReLU(inplace=True)
        self.shortcut = nn.Sequential()
        if stride > 1:
            self.shortcut.append(nn.Conv2d(inside, outside, 1, stride, bias=False))
            self.shortcut.append(nn.BatchNorm2d(outside))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the sum of branch and shortcut, rectified."""
        branch = self.norm2(self.conv2(self.relu(self.norm1(self.conv1(x)))))
        branch += self.shortcut(x)
        return self.relu(branch)


def build_resnet(width: int) -> nn.Module:
    """Return ResNet-18, with ``width`` channels in its first stage."""
    stem = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False), nn.BatchNorm2d(width)
    layers: list[nn.Module] = [*stem, nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, padding=1)]
    inside = width
    for stage in range(4):
        outside = width * 2**stage
        layers.append(ResidualBlock(inside, outside, stride=1 if stage == 0 else 2))
        layers.append(ResidualBlock(outside, outside, stride=1))
        inside = outside
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inside, 10))


class TransformerBlock(nn.Module):
    """GPT-2's: causal attention and an MLP, each behind a LayerNorm, on a residual stream."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width)
        self.attend = nn.Linear(width, 3 * width)
        self.project = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.expand = nn.Linear(width, 4 * width)
        self.gelu = nn.GELU()
        self.contract = nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the stream (batch, position, width) after both branches."""
        parts = self.attend(self.norm1(x)).chunk(3, dim=-1)
        query, key, value = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)
        attended = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.project(attended.transpose(1, 2).flatten(2))
        return x + self.contract(self.gelu(self.expand(self.norm2(x))))


class GPT(nn.Module):
    """A decoder-only transformer with learned positions."""

    def __init__(self, layers: int, width: int, heads: int, context: int, vocabulary: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)
        self.positions = nn.Embedding(context, width)
        self.blocks = nn.Sequential(*(TransformerBlock(width, heads) for _ in range(layers)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return logits (batch, position, vocabulary)."""
        x = self.tokens(tokens) + self.positions(
            torch.arange(tokens.shape[1], device=tokens.device)
        )
        return self.head(self.norm(self.blocks(x)))


def build_vgg(width: int, *, norm: bool) -> nn.Module:
    """Return three stages of two 3×3 convolutions, max pooling between them, and a head."""
    layers: list[nn.Module] = []
    inside = 3
    for stage in range(3):
        for _ in range(2):
            outside = width * 2**stage
            layers.append(nn.Conv2d(inside, outside, 3, padding=1))
            layers += [nn.BatchNorm2d(outside)] if norm else []
            layers.append(nn.ReLU(inplace=True))
            inside = outside
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inside, 10))


class PreActivationBlock(nn.Module):
    """Norm, ReLU, 3×3 convolution, twice, around a shortcut (He et al. 2016)."""

    def __init__(self, inside: int, width: int, *, stride: int, norm: bool) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(inside) if norm else nn.Identity()
        self.conv1 = nn.Conv2d(inside, width, 3, stride, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width) if norm else nn.Identity()
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        changed = stride > 1 or inside != width
        self.shortcut = nn.Conv2d(inside, width, 1, stride, bias=False) if changed else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the stream after the branch; where it changes width, the shortcut is activated."""
        h = torch.relu(self.norm1(x))
        branch = self.conv2(torch.relu(self.norm2(self.conv1(h))))
        return branch + (x if self.shortcut is None else self.shortcut(h))


def build_preactivation(depths: tuple[int, ...], width: int, *, norm: bool) -> nn.Module:
    """Return a stem, ``depths`` blocks in stages of twice the width each, and a head."""
    layers: list[nn.Module] = [nn.Conv2d(3, width, 3, padding=1, bias=False)]
    inside = width
    for stage, depth in enumerate(depths):
        outside = width * 2**stage
        for block in range(depth):
            stride = 2 if stage and not block else 1
            layers.append(PreActivationBlock(inside, outside, stride=stride, norm=norm))
            inside = outside
    layers.append(nn.BatchNorm2d(inside) if norm else nn.Identity())
    tail = nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inside, 10)
    return nn.Sequential(*layers, *tail)


class PostActivationBlock(nn.Module):
    """ResNet's block, basic or with a bottleneck: a ReLU on the sum of branch and shortcut."""

    def __init__(
        self, inside: int, width: int, *, stride: int, bottleneck: bool, norm: bool
    ) -> None:
        super().__init__()
        outside = 4 * width if bottleneck else width
        kernels = (1, 3, 1) if bottleneck else (3, 3)
        sizes = (inside, *[width] * (len(kernels) - 1), outside)
        strides = (1, stride, 1) if bottleneck else (stride, 1)
        layers: list[nn.Module] = []
        for before, after, kernel, step in zip(sizes, sizes[1:], kernels, strides, strict=False):
            layers += [*_convolve(before, after, kernel, step, norm=norm), nn.ReLU()]
        self.branch = nn.Sequential(*layers[:-1])
        changed = stride > 1 or inside != outside
        self.shortcut = nn.Sequential(
            *(_convolve(inside, outside, 1, stride, norm=norm) if changed else [])
        )
        self.relu = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the sum of branch and shortcut, rectified."""
        return self.relu(self.branch(x) + self.shortcut(x))


def _convolve(
    inside: int, outside: int, kernel: int, stride: int, *, norm: bool
) -> list[nn.Module]:
    layer = nn.Conv2d(inside, outside, kernel, stride, padding=kernel // 2, bias=False)
    return [layer, nn.BatchNorm2d(outside)] if norm else [layer]


def build_post_activation(
    depths: tuple[int, ...], width: int, *, bottleneck: bool, norm: bool
) -> nn.Module:
    """Return a ResNet with ``depths`` blocks in its stages."""
    layers = [*_convolve(3, width, 7, 2, norm=norm), nn.ReLU(), nn.MaxPool2d(3, 2, padding=1)]
    inside = width
    for stage, depth in enumerate(depths):
        middle = width * 2**stage
        for block in range(depth):
            stride = 2 if stage and not block else 1
            layers.append(
                PostActivationBlock(inside, middle, stride=stride, bottleneck=bottleneck, norm=norm)
            )
            inside = 4 * middle if bottleneck else middle
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inside, 10))


class LlamaBlock(nn.Module):
    """Attention with rotary positions and shared keys, and a gated MLP, each behind an RMSNorm."""

    def __init__(self, width: int, heads: int, groups: int) -> None:
        super().__init__()
        self.heads, self.groups, self.size = heads, groups, width // heads
        self.norm1, self.norm2 = nn.RMSNorm(width), nn.RMSNorm(width)
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, groups * self.size, bias=False)
        self.value = nn.Linear(width, groups * self.size, bias=False)
        self.project = nn.Linear(width, width, bias=False)
        self.gate = nn.Linear(width, 3 * width, bias=False)
        self.expand = nn.Linear(width, 3 * width, bias=False)
        self.contract = nn.Linear(3 * width, width, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the stream (batch, position, width) after both branches."""
        h = self.norm1(x)
        query, key = self._split(self.query(h), self.heads), self._split(self.key(h), self.groups)
        value = self._split(self.value(h), self.groups)
        attended = F.scaled_dot_product_attention(
            self._rotate(query), self._rotate(key), value, is_causal=True, enable_gqa=True
        )
        x = x + self.project(attended.transpose(1, 2).flatten(2))
        h = self.norm2(x)
        return x + self.contract(F.silu(self.gate(h)) * self.expand(h))

    def _split(self, x: torch.Tensor, heads: int) -> torch.Tensor:
        return x.unflatten(-1, (heads, self.size)).transpose(1, 2)

    def _rotate(self, x: torch.Tensor) -> torch.Tensor:
        half = self.size // 2
        frequency = 10_000.0 ** (-torch.arange(half) / half)
        angle = torch.arange(x.shape[2])[:, None] * frequency
        first, second = x[..., :half], x[..., half:]
        cosine, sine = angle.cos(), angle.sin()
        return torch.cat([first * cosine - second * sine, second * cosine + first * sine], dim=-1)


class Llama(nn.Module):
    """A decoder as Llama's, every weight N(0, 0.02²)."""

    def __init__(self, layers: int, width: int, vocabulary: int = 1000) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)
        self.blocks = nn.Sequential(*(LlamaBlock(width, 8, 2) for _ in range(layers)))
        self.norm = nn.RMSNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=False)
        draw_normal(self, 0.02)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return logits (batch, position, vocabulary)."""
        return self.head(self.norm(self.blocks(self.tokens(tokens))))


class VisionTransformer(nn.Module):
    """ViT: patches behind a class token of zeros, learned positions, pre-norm blocks."""

    def __init__(self, layers: int, width: int, patch: int = 4, size: int = 32) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, patch, stride=patch)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.positions = nn.Parameter(0.02 * torch.randn(1, (size // patch) ** 2 + 1, width))
        self.blocks = nn.Sequential(*(make_encoder_layer(width, first=True) for _ in range(layers)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 100)
        draw_normal(self, 0.02)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return logits (batch, classes)."""
        x = self.patches(images).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], dim=1) + self.positions
        return self.head(self.norm(self.blocks(x))[:, 0])


def make_encoder_layer(width: int, *, first: bool) -> nn.Module:
    """Return torch's encoder layer without dropout, its norm before or behind the branches."""
    return nn.TransformerEncoderLayer(
        width, 8, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=first
    )


def build_encoder(layers: int, width: int) -> nn.Module:
    """Return encoder layers with the norm behind, as in the first transformer."""
    return nn.Sequential(*(make_encoder_layer(width, first=False) for _ in range(layers)))


class Recurrent(nn.Module):
    """A recurrent layer over time, and a head on its last step."""

    def __init__(self, kind: type[nn.Module], width: int) -> None:
        super().__init__()
        self.layer = kind(width, width, batch_first=True)
        self.head = nn.Linear(width, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits (batch, classes)."""
        return self.head(self.layer(x)[0][:, -1])


def draw_normal(model: nn.Module, std: float) -> None:
    """Draw every matrix from N(0, std²) and set biases to zero; projections get std / sqrt(2 L)."""
    blocks = sum(isinstance(m, LlamaBlock | nn.TransformerEncoderLayer) for m in model.modules())
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            nn.init.zeros_(parameter)
        elif parameter.dim() == 2 and "norm" not in name:
            ends_branch = name.endswith(("project.weight", "contract.weight", "linear2.weight"))
            nn.init.normal_(parameter, std=std / math.sqrt(2 * blocks) if ends_branch else std)
