"""What a case is, and how it is made and judged."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import nn

import varprobe as vp
from tests.diagnosis.cases import Case as Shaped

Builder = Callable[[], nn.Module]


class Case(NamedTuple):
    """A model and what it is called with, both drawn from the random state at hand."""

    build: Builder
    inputs: Callable[[], Any]
    loss: Callable[[Any], torch.Tensor] | None = None

    def make(self, seed: int) -> tuple[nn.Module, Any]:
        """Build the model and its inputs from a seed, leaving the global random state alone."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self.build(), self.inputs()

    def judge(self, seed: int, *, predict: bool = True) -> vp.Diagnosis:
        """Return the verdict of `varprobe.check`, or that of the checks that need no prediction."""
        model, inputs = self.make(seed)
        if predict:
            return vp.check(model, inputs, loss=self.loss, seed=seed)
        return vp.diagnose(vp.analyze(vp.profile(model, inputs, loss=self.loss, seed=seed)))


def restate(case: Shaped) -> Case:
    """Return a case whose inputs are given by their shape."""
    return Case(case.build, partial(torch.randn, case.inputs), case.loss)


def rows(width: int = 64, count: int = 32) -> Callable[[], torch.Tensor]:
    return partial(torch.randn, count, width)


def images(size: int = 16, count: int = 8, channels: int = 3) -> Callable[[], torch.Tensor]:
    return partial(torch.randn, count, channels, size, size)


def tokens(length: int = 16, count: int = 4, vocabulary: int = 100) -> Callable[[], torch.Tensor]:
    return partial(torch.randint, 0, vocabulary, (count, length))


def sequences(width: int = 64, length: int = 16, count: int = 8) -> Callable[[], torch.Tensor]:
    return partial(torch.randn, count, length, width)


class Calls(nn.Module):
    """Parts under names of their own, joined by a function: ``forward`` is ``call(self, x)``."""

    def __init__(self, call: Callable[..., torch.Tensor], **parts: nn.Module) -> None:
        super().__init__()
        self.call = call
        for name, part in parts.items():
            self.add_module(name, part)

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        return self.call(self, *inputs)


def stack(depth: int, activation: Callable[[], nn.Module], width: int = 64) -> nn.Sequential:
    """Return linear layers with an activation behind each, and a head of ten classes."""
    layers = [layer for _ in range(depth) for layer in (nn.Linear(width, width), activation())]
    return nn.Sequential(*layers, nn.Linear(width, 10))
