"""Train many nets of one form at once: their parameters are rows of one matrix.

Small nets cost more to dispatch than to compute. Each layer here is one batched operation, with the
nets along the first axis; a net leaves the bundle when it has learned, or is beyond help.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol

import torch
from digit_nets import Digits, Residual
from torch import nn
from torch.nn import functional as F

BATCH = 64
STEPS = 400
"""Of so many digits each: 14 times through all."""

GOAL = 0.8
"""Accuracy that counts as learned."""

WINDOW = 10
"""Steps over whose batches accuracy is taken: 640 digits give it to 1.6 %."""

Parameters = Mapping[str, torch.Tensor]


class Run(NamedTuple):
    """How one training ended: accuracy in its last window, and the step that reached the goal."""

    accuracy: float
    steps: float


class Optimizer(Protocol):
    """Turns gradients (nets, parameters) into directions to go, for a learning rate of 1."""

    def direct(self, gradient: torch.Tensor) -> torch.Tensor:
        """Return the direction."""

    def keep(self, rows: torch.Tensor) -> None:
        """Forget all nets but these."""


class SGD:
    """Plain gradient descent."""

    def direct(self, gradient: torch.Tensor) -> torch.Tensor:
        """Return the gradient."""
        return gradient

    def keep(self, rows: torch.Tensor) -> None:
        """Do nothing, for want of memory."""


class Adam:
    """Kingma and Ba 2015, algorithm 1, with their constants."""

    def __init__(self) -> None:
        self.steps = 0
        self.first = self.second = torch.zeros(())

    def direct(self, gradient: torch.Tensor) -> torch.Tensor:
        """Return the mean gradient over its root mean square."""
        if not self.steps:
            self.first, self.second = torch.zeros_like(gradient), torch.zeros_like(gradient)
        self.steps += 1
        self.first.lerp_(gradient, 0.1)
        self.second.mul_(0.999).addcmul_(gradient, gradient, value=0.001)
        root = self.second.div(1 - 0.999**self.steps).sqrt_().add_(1e-8)
        return self.first.div(1 - 0.9**self.steps).div_(root)

    def keep(self, rows: torch.Tensor) -> None:
        """Forget all nets but these."""
        self.first, self.second = self.first[rows], self.second[rows]


OPTIMIZERS: Mapping[str, type[Optimizer]] = {"SGD": SGD, "Adam": Adam}


def draw_batches(digits: Digits, steps: int, seed: int = 0) -> Iterator[Digits]:
    """Yield batches of digits, drawn with replacement."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        chosen = torch.randint(len(digits.classes), (BATCH,), generator=generator)
        yield Digits(digits.images[chosen], digits.classes[chosen])


def stack(models: Sequence[nn.Module]) -> torch.Tensor:
    """Return parameters (nets, parameters)."""
    vectors = [nn.utils.parameters_to_vector(model.parameters()) for model in models]
    return torch.stack(vectors).detach()


def unstack(rows: torch.Tensor, form: nn.Module) -> Parameters:
    """Return views (nets, *shape) of the parameters by name."""
    named = dict(form.named_parameters())
    pieces = rows.split([parameter.numel() for parameter in named.values()], dim=1)
    shaped = zip(named.items(), pieces, strict=True)
    return {name: piece.unflatten(1, parameter.shape) for (name, parameter), piece in shaped}


def forward(
    form: nn.Module, parameters: Parameters, x: torch.Tensor, name: str = ""
) -> torch.Tensor:
    """Return the outputs of all nets for inputs (nets, batch, features), in training mode."""
    match form:
        case nn.Sequential():
            for child_name, child in form.named_children():
                x = forward(child, parameters, x, f"{name}{child_name}.")
            return x
        case Residual():
            return x + forward(form.branch, parameters, x, f"{name}branch.")
        case nn.Linear():
            weight, bias = parameters[f"{name}weight"], parameters[f"{name}bias"]
            return torch.baddbmm(bias.unsqueeze(1), x, weight.mT)
        case nn.LayerNorm() | nn.BatchNorm1d():
            weight, bias = parameters[f"{name}weight"], parameters[f"{name}bias"]
            if isinstance(form, nn.LayerNorm):
                x = F.layer_norm(x, x.shape[-1:], eps=form.eps)
            else:
                variance, mean = torch.var_mean(x, dim=1, correction=0, keepdim=True)
                x = (x - mean) * torch.rsqrt(variance + form.eps)
            return torch.addcmul(bias.unsqueeze(1), x, weight.unsqueeze(1))
        case _:
            return form(x)


def train(
    models: Sequence[nn.Module],
    rates: Sequence[float],
    optimizer: Optimizer,
    batches: Iterator[Digits],
) -> list[Run]:
    """Train each model with its learning rate; the models themselves stay as they are."""
    # Signals that vanish end in denormal numbers, which cost a hundred times as much.
    torch.set_flush_denormal(True)
    try:
        return _train(models, rates, optimizer, batches)
    finally:
        torch.set_flush_denormal(False)


def _train(
    models: Sequence[nn.Module],
    rates: Sequence[float],
    optimizer: Optimizer,
    batches: Iterator[Digits],
) -> list[Run]:
    rows, rate = stack(models), torch.tensor(rates).unsqueeze(1)
    left, step = torch.arange(len(models)), 0
    runs = [Run(math.nan, math.nan)] * len(models)
    while len(left) and (window := list(itertools.islice(batches, WINDOW))):
        hits = torch.zeros(len(rows))
        for batch in window:
            rows, hit = take_step(models[0], rows, rate, optimizer, batch)
            hits += hit
        step += len(window)
        accuracy = hits / len(window)
        learned = accuracy >= GOAL
        for index, reached, end in zip(
            left.tolist(), learned.tolist(), accuracy.tolist(), strict=True
        ):
            runs[index] = Run(end, step if reached else math.nan)
        stay = ~learned & rows.isfinite().all(dim=1)
        rows, rate, left = rows[stay], rate[stay], left[stay]
        optimizer.keep(stay)
    return runs


def take_step(
    form: nn.Module, rows: torch.Tensor, rate: torch.Tensor, optimizer: Optimizer, batch: Digits
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the parameters after a step, and the accuracy of each net before it."""
    rows = rows.detach().requires_grad_()
    images = batch.images.expand(len(rows), -1, -1)
    logits = forward(form, unstack(rows, form), images)
    classes = batch.classes.expand(len(rows), -1)
    # Summed over nets, so that the gradient of each is its own.
    loss = F.cross_entropy(logits.flatten(0, 1), classes.flatten(), reduction="sum")
    (gradient,) = torch.autograd.grad(loss / len(batch.classes), rows)
    hits = (logits.argmax(dim=-1) == classes).float().mean(dim=1)
    return rows.detach() - rate * optimizer.direct(gradient), hits
