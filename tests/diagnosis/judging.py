"""One check by itself, without a prediction: the checks that need none are quick so."""

from __future__ import annotations

import torch
from torch import nn

import varprobe as vp


def judge(model: nn.Module, inputs: object, code: str, **options: object) -> list[vp.Finding]:
    """Return what one check finds in a model as it is."""
    analysis = vp.analyze(vp.profile(model, inputs, **options))
    return [f for f in vp.diagnose(analysis, select=[code]).findings if f.code == code]


def stack(*layers: nn.Module) -> nn.Sequential:
    """Return the layers in a row, with a head of ten classes behind them."""
    return nn.Sequential(*layers, nn.LazyLinear(10))


def rows(count: int = 32, width: int = 64) -> torch.Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(0))
