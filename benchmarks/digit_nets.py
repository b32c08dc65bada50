"""Small nets for scikit-learn's digits: a grid over gain, depth, width, activation and block.

A gain is torch's: weights are drawn from N(0, gain² / fan_in), the head's as well, and biases are
zero. On a square layer 1 is Xavier's gain, and √2 is He's.
"""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import nn

import varprobe as vp

PIXELS, CLASSES = 64, 10

ACTIVATIONS: Mapping[str, type[nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh, "gelu": nn.GELU}


class Residual(nn.Module):
    """A branch beside a shortcut."""

    def __init__(self, *branch: nn.Module) -> None:
        super().__init__()
        self.branch = nn.Sequential(*branch)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the sum of both."""
        return x + self.branch(x)


# What stands between the first layer and the head, of a width and an activation. Each has one
# weighted layer, so that nets of one depth can be compared.
BLOCKS: Mapping[str, Callable[[int, nn.Module], nn.Module]] = {
    "plain": lambda width, act: nn.Sequential(act, nn.Linear(width, width)),
    "layer norm": lambda width, act: nn.Sequential(
        nn.LayerNorm(width), act, nn.Linear(width, width)
    ),
    "batch norm": lambda width, act: nn.Sequential(
        nn.BatchNorm1d(width), act, nn.Linear(width, width)
    ),
    "residual": lambda width, act: Residual(act, nn.Linear(width, width)),
    "pre-norm residual": lambda width, act: Residual(
        nn.LayerNorm(width), act, nn.Linear(width, width)
    ),
}


@dataclass(frozen=True)
class Net:
    """One point of the grid; ``depth`` counts weighted layers without the head."""

    block: str
    activation: str
    width: int
    depth: int
    gain: float

    @property
    def seed(self) -> int:
        """Of its weights: another for each net, and the same in any grid."""
        return zlib.crc32(repr(self).encode())

    def build(self) -> nn.Module:
        """Return the net with its weights, always the same."""
        activation = ACTIVATIONS[self.activation]
        inner = (BLOCKS[self.block](self.width, activation()) for _ in range(self.depth - 1))
        first, head = nn.Linear(PIXELS, self.width), nn.Linear(self.width, CLASSES)
        model = nn.Sequential(first, *inner, activation(), head)
        return vp.initialize(model, "kaiming_normal", gain=self.gain, seed=self.seed)


def cross(
    blocks: Sequence[str],
    activations: Sequence[str],
    widths: Sequence[int],
    depths: Sequence[int],
    gains: Sequence[float],
) -> list[Net]:
    """Return the net at each point of a grid."""
    return [Net(*point) for point in itertools.product(blocks, activations, widths, depths, gains)]


DEPTHS = (2, 5, 10, 20, 30, 50)
FINE_GAINS = tuple(2.0 ** (k / 4) for k in range(-4, 7))
"""From 0.5 to 2.8, around Xavier's 1 and He's √2."""

COARSE_GAINS = FINE_GAINS[::2]

GRID = (
    *cross(["plain"], ["relu", "tanh"], [32], DEPTHS, FINE_GAINS),
    *cross(["plain"], ["gelu"], [32], DEPTHS, COARSE_GAINS),
    *cross(["plain"], ["relu"], [64], DEPTHS, COARSE_GAINS),
    # A norm takes most of the gain away again: fewer of them will do.
    *cross(
        ["layer norm", "batch norm", "residual", "pre-norm residual"],
        ["relu"],
        [32],
        DEPTHS,
        FINE_GAINS[2::4],
    ),
)

QUICK_GRID = cross(
    list(BLOCKS), ["relu", "tanh"], [32], [2, 10, 20], [0.5, 1.0, 2.0**0.5, 2.0**1.5]
)

HELD_OUT_GRID = (
    *cross(
        ["plain"], ["relu", "tanh", "gelu"], [48, 96], [3, 7, 15, 40], [0.6, 0.85, 1.2, 1.7, 2.4]
    ),
    *cross(
        ["layer norm", "batch norm", "residual", "pre-norm residual"],
        ["relu", "tanh"],
        [48],
        [7, 15, 40],
        [1.0, 1.7],
    ),
)
"""Widths, depths and gains between those of the grid, chosen when the checks' limits stood."""


class Digits(NamedTuple):
    """Images (number, 64), of mean 0 and variance 1 over all, and classes (number,)."""

    images: torch.Tensor
    classes: torch.Tensor


def load_digits() -> Digits:
    """Return all 1,797 digits.

    Raises
    ------
    SystemExit
        If scikit-learn, which has them, is not installed.
    """
    try:
        from sklearn import datasets
    except ImportError:
        message = "The digits are scikit-learn's, which is not here: pip install scikit-learn"
        raise SystemExit(message) from None
    images, classes = datasets.load_digits(return_X_y=True)
    pixels = torch.as_tensor(images, dtype=torch.float32)
    return Digits((pixels - pixels.mean()) / pixels.std(), torch.as_tensor(classes))
