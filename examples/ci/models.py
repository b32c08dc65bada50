"""The model of a project: what its gate looks at."""

from torch import nn

import varprobe as vp

WIDTH = 64
DEPTH = 10


def build() -> nn.Module:
    """Return the model as training starts from it."""
    layers = [layer for _ in range(DEPTH) for layer in (nn.Linear(WIDTH, WIDTH), nn.ReLU())]
    return vp.initialize(nn.Sequential(*layers), "kaiming_normal")
