"""Make draws repeatable without a trace in the global random state."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain

import torch
from torch import nn


@contextmanager
def seeded(model: nn.Module, seed: int | None) -> Iterator[None]:
    """Seed the generators of the devices of ``model`` inside, restore them after.

    With ``seed`` None the global generators go on as they are. All generators are global ones
    because a module's own ``reset_parameters`` knows no other.
    """
    if seed is None:
        yield
        return
    kinds = {tensor.device.type for tensor in chain(model.parameters(), model.buffers())}
    accelerators = kinds - {"cpu", "meta"}
    if not accelerators:
        # torch.manual_seed would reach for the accelerators, and so start or reseed them.
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            yield
        return
    (kind,) = accelerators
    count = torch.get_device_module(kind).device_count()
    with torch.random.fork_rng(devices=range(count), device_type=kind):
        torch.manual_seed(seed)
        yield
