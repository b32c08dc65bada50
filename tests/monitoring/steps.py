"""A step of training, and what a recording says of it."""

from __future__ import annotations

import torch
from torch import nn

from tests.probe.scenario import score
from varprobe import Recording

ALL = ("activation", "gradient", "weight", "weight_gradient")


def train_step(model: nn.Module, x: torch.Tensor | None = None) -> None:
    score(model(torch.randn(5, 6) if x is None else x)).backward()


def steps(recording: Recording) -> list[int]:
    return sorted({record.step for record in recording})


def numbers(recording: Recording, step: int = 0) -> list[object]:
    """Return all that a step recorded, as if it were step 0."""
    return [
        (r.site, r.kind, r.depth, r.shape, r.moments, r.exponents, r.backward)
        for r in recording
        if r.step == step
    ]


def count_hooks(model: nn.Module) -> int:
    modules = list(model.modules())
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in modules)
