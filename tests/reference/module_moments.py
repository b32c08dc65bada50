"""Moments of a module by brute force: build it many times, run, differentiate, average.

No probe: plain forward hooks keep the outputs of named modules, autograd is asked for the rest.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import nn

import varprobe as vp
from tests.reference.random_networks import pool
from varprobe.initializers import initialize
from varprobe.recording import Site

TINY = 1e-10
"""Share of the largest row below which a gradient is rounding."""

Key = tuple[str, str]
"""Signal, and the name of the module or parameter."""


def sample_module(
    build: Callable[[], nn.Module], x: torch.Tensor, init: str, draws: int
) -> dict[Key, np.ndarray]:
    """Return the second moments of all outputs of leaf modules, their gradients and the weights'.

    Parameters
    ----------
    build : callable
        Returns the module with fresh weights.
    x : Tensor
        Its input.
    init : str
        The initialization.
    draws : int
        How often.
    """
    found = defaultdict(list)
    for draw in range(draws):
        torch.manual_seed(1000 + draw)
        model = initialize(build(), init)
        outputs: dict[str, torch.Tensor] = {}
        for name, module in model.named_modules():
            if not list(module.children()):
                module.register_forward_hook(
                    lambda _, __, output, name=name, kept=outputs: kept.update({name: output})
                )
        result = model(x)
        parameters = dict(model.named_parameters())
        wanted = [*outputs.values(), *parameters.values()]
        gradients = torch.autograd.grad(result, wanted, torch.randn_like(result), allow_unused=True)
        names = [*(("gradient", n) for n in outputs), *(("weight_gradient", n) for n in parameters)]
        for name, output in outputs.items():
            found["activation", name].append(pool(output))
        for key, gradient in zip(names, gradients, strict=True):
            if gradient is not None:
                found[key].append(pool(gradient))
    return {key: np.array(moments) for key, moments in found.items()}


def compare(
    build: Callable[[], nn.Module], draw_inputs: Callable[[], torch.Tensor], init: str, draws: int
) -> Iterator[tuple[str, float, float]]:
    """Yield signal, relative error of the prediction by rules, and Monte-Carlo's standard error."""
    torch.manual_seed(0)
    x = draw_inputs()
    prediction = vp.predict(build, x, init=init, draws=0)
    assert not prediction.unsupported, prediction.unsupported
    measured = sample_module(build, x, init, draws)
    largest: dict[str, float] = defaultdict(float)
    for (signal, _), moments in measured.items():
        largest[signal] = max(largest[signal], moments.mean())
    for (signal, name), moments in measured.items():
        module, _, output = name.rpartition(".") if signal == "weight_gradient" else (name, "", "")
        row = prediction.find(Site(module=module, output=output, signal=signal))
        if row is None or moments.mean() <= TINY * largest[signal]:
            continue
        assert row.status in ("exact", "approximate"), row
        noise = moments.std(ddof=1) / math.sqrt(draws) / moments.mean()
        yield signal, row.second_moment / moments.mean() - 1, noise
