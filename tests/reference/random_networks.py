"""Moments of stacks of layers by brute force: draw the weights, run, differentiate, average.

No hooks and no probe: the layers of a Sequential are called one by one, autograd is asked for the
gradient of each value.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from varprobe.initializers import initialize

Key = tuple[str, str]
"""Signal, and the layer's name or the parameter's dotted name."""


def sample_second_moments(
    build: Callable[[], nn.Sequential], x: torch.Tensor, init: str, draws: int
) -> dict[Key, np.ndarray]:
    """Return the second moment of every activation and gradient in each draw."""
    found = defaultdict(list)
    for draw in range(draws):
        torch.manual_seed(1000 + draw)
        model = initialize(build(), init)
        values = [x]
        for layer in model:
            values.append(layer(values[-1]))
        outputs = values[1:]
        parameters = dict(model.named_parameters())
        gradients = torch.autograd.grad(
            outputs[-1], [*outputs, *parameters.values()], torch.randn_like(outputs[-1])
        )
        for index, value in enumerate(outputs):
            found["activation", str(index)].append(pool(value))
            found["gradient", str(index)].append(pool(gradients[index]))
        for name, gradient in zip(parameters, gradients[len(outputs) :], strict=True):
            found["weight_gradient", name].append(pool(gradient))
    return {key: np.array(moments) for key, moments in found.items()}


def pool(tensor: torch.Tensor) -> float:
    """Return the mean of squares in float64."""
    return float(tensor.detach().double().square().mean())
