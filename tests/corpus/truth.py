"""What the modules of a model return and receive, seen by one hook that knows nothing of the probe.

torch calls a global forward hook after each module, before the hooks of the module itself. Its
tensor hooks on the outputs are naive: where an output that is a view is changed in place they never
fire, so the gradients here are some of those that arrive, each of them right.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_hook

from varprobe.modules import name_modules, walk_tensors
from varprobe.recording import Site

PART = 2**20
"""Elements that are copied to double precision at a time."""


def compute_second_moment(tensor: torch.Tensor) -> float:
    """Return the mean square of the finite elements in double precision; NaN if there are none."""
    plain = tensor.detach().resolve_conj()
    flat = torch.view_as_real(plain).flatten() if plain.is_complex() else plain.flatten()
    count = plain.numel()
    total = _sum_squares(flat)
    if not math.isfinite(total):
        finite = plain.flatten()[plain.flatten().isfinite()]
        return compute_second_moment(finite) if finite.numel() else math.nan
    return total / count


def _sum_squares(flat: torch.Tensor) -> float:
    parts = (part.double() for part in flat.split(PART))
    return math.fsum(float(torch.dot(part, part)) for part in parts)


@contextmanager
def observe_all(model: nn.Module) -> Iterator[dict[Site, float]]:
    """Collect the second moments of every output of every call, and of the gradients that arrive.

    Modules that run again for a checkpoint are not counted.
    """
    names = {module: known.name for module, known in name_modules(model).items()}
    calls: Counter[str] = Counter()
    found: dict[Site, float] = {}

    def see(module: nn.Module, args: Any, output: Any) -> None:
        if module not in names or torch._C._current_graph_task_id() != -1:
            return
        name = names[module]
        call, calls[name] = calls[name], calls[name] + 1
        for path, tensor in walk_tensors(output):
            if tensor.is_nested or not tensor.numel():
                continue
            found[Site(module=name, call=call, output=path)] = compute_second_moment(tensor)
            if tensor.requires_grad and not tensor.is_leaf:
                site = Site(module=name, call=call, output=path, signal="gradient")
                tensor.register_hook(lambda gradient, site=site: receive(site, gradient))

    def receive(site: Site, gradient: torch.Tensor) -> None:
        found[site] = compute_second_moment(gradient)

    handle = register_module_forward_hook(see)
    try:
        yield found
    finally:
        handle.remove()


def read_weight_gradients(model: nn.Module) -> dict[Site, float]:
    """Return the second moments of ``.grad``; a shared parameter belongs to its first owner."""
    owned = {
        parameter: Site(module=known.name, output=name, signal="weight_gradient")
        for module, known in reversed(name_modules(model).items())
        for name, parameter in module.named_parameters(recurse=False)
    }
    return {
        site: compute_second_moment(parameter.grad)
        for parameter, site in owned.items()
        if parameter.grad is not None
    }
