"""A scenario: a model, what its user does with it, and the same computed out of place, by hand.

The twin uses no hook: it names each value as it goes, and asks `torch.autograd.grad` for the
gradient of every named value.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import nn

Key = tuple[str, int, str]
"""Module, call, path in its output."""


class Twin:
    """What a perfect probe would record."""

    def __init__(self) -> None:
        self.activations: defaultdict[Key, list[torch.Tensor]] = defaultdict(list)
        self.gradients: defaultdict[tuple[Key, int], list[torch.Tensor]] = defaultdict(list)
        self._forwards: list[dict[Key, torch.Tensor]] = [{}]
        self._passes: list[int] = [0]

    def __call__(
        self, module: str, value: torch.Tensor, *, call: int = 0, output: str = ""
    ) -> torch.Tensor:
        """Name a value that a module returns, and return it."""
        key = module, call, output
        self.activations[key].append(value.detach().clone())
        self._forwards[-1][key] = value
        return value

    def begin_forward(self) -> None:
        """Begin another forward of the root."""
        self._forwards.append({})
        self._passes.append(0)

    def backward(self, loss: torch.Tensor) -> None:
        """Take the gradients of one backward pass."""
        for index, values in enumerate(self._forwards):
            named = {key: value for key, value in values.items() if value.requires_grad}
            if not named:
                continue
            found = torch.autograd.grad(
                loss, list(named.values()), retain_graph=True, allow_unused=True
            )
            arrived = {key: g for key, g in zip(named, found, strict=True) if g is not None}
            for key, gradient in arrived.items():
                self.gradients[key, self._passes[index]].append(gradient.detach().clone())
            self._passes[index] += bool(arrived)


@dataclass
class Scenario:
    """One situation.

    Parameters
    ----------
    model : torch.nn.Module
        The model that is probed.
    drive : callable
        Runs the model as its user would; returns the tensors that must not change.
    twin : callable
        Computes the same out of place, naming values to the `Twin` that it is given.
    unobserved : tuple of str
        Regular expressions, each of which a line of ``unobserved`` must match.
    """

    model: nn.Module
    drive: Callable[[], object]
    twin: Callable[[Twin], object]
    unobserved: tuple[str, ...] = field(default=())


SCENARIOS: dict[str, Callable[[], Scenario]] = {}


def scenario(build: Callable[[], Scenario]) -> Callable[[], Scenario]:
    """File a builder of a scenario under its name."""
    SCENARIOS[build.__name__] = build
    return build


def score(output: torch.Tensor) -> torch.Tensor:
    """Return a loss whose gradient differs from element to element."""
    return output.square().sum() + output.sum()


def mlp(*, inplace: bool = False) -> nn.Sequential:
    """Return the plain model of many scenarios."""
    return nn.Sequential(nn.Linear(6, 6), nn.ReLU(inplace=inplace), nn.Linear(6, 4))


def see_mlp(model: nn.Sequential, x: torch.Tensor, see: Twin, prefix: str = "") -> torch.Tensor:
    """Name the values of `mlp` as part ``prefix`` of a model."""
    h = see(f"{prefix}0", model[0](x))
    h = see(f"{prefix}1", torch.relu(h))
    return see(f"{prefix}2", model[2](h))
