"""Find the modules that compute something between their parts, where no module hook can see it.

Residual additions and functional calls have no record of their own. They show in what a part
receives: a tensor that no module returned, or one that was changed since.
"""

from __future__ import annotations

import weakref
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from typing import Any

import torch
from torch import nn

from varprobe.modules import collect_tensors, hold_tensors
from varprobe.recording import Unobserved


class Dataflow:
    """Follow floating-point tensors from module to module through one forward of the root."""

    def __init__(self, model: nn.Module, inputs: Iterable[object]) -> None:
        self._known: dict[int, tuple[weakref.ref[torch.Tensor], int]] = {}
        self._receivers: defaultdict[int, set[str]] = defaultdict(set)
        self._makers: set[str] = set()
        for module in model.modules():
            self.learn(hold_tensors(module))
        for part in inputs:
            self.learn(collect_tensors(part))

    def follow(self, name: str, module: nn.Module, args: tuple[Any, ...], output: object) -> None:
        """Book one call of a module."""
        outputs = collect_tensors(output)
        # What the module changed in place it also returns.
        changed = {id(tensor) for tensor in outputs}
        for tensor in collect_tensors(args):
            if not self._knows(tensor, at_any_version=id(tensor) in changed):
                # Parts that were given the same tensor, and have been called before this hook,
                # did not receive it from an operation of this module.
                receivers = self._receivers[id(tensor)]
                receivers -= {part for part in receivers if _is_part(part, name)}
                receivers.add(name)
        has_parts = any(child != "parametrizations" for child in module._modules)
        if has_parts and not all(self._knows(tensor) for tensor in outputs):
            self._makers.add(name)
        self.learn(outputs)

    def list_unobserved(self, called: Collection[str]) -> Iterator[Unobserved]:
        """Yield the modules with operations of their own; ``called`` are those that ran."""
        received = set().union(*self._receivers.values()) - {""}
        for name in sorted(self._makers | {_find_caller(part, called) for part in received}):
            yield Unobserved(
                module=name,
                reason="operations of its own (functions, additions, views) have no record",
            )

    def learn(self, tensors: Iterable[torch.Tensor]) -> None:
        """Book tensors that need no explanation, as they are now."""
        for tensor in tensors:
            self._known[id(tensor)] = weakref.ref(tensor), read_version(tensor)

    def _knows(self, tensor: torch.Tensor, *, at_any_version: bool = False) -> bool:
        if not tensor.is_floating_point():
            return True
        known, version = self._known.get(id(tensor), (None, 0))
        if known is None or known() is not tensor:
            return False
        return at_any_version or version == read_version(tensor)


def read_version(tensor: torch.Tensor) -> int:
    """Return how often a tensor was changed in place; 0 where nobody counts."""
    try:
        return tensor._version
    except RuntimeError:  # tensors of inference mode have none
        return 0


def _is_part(name: str, of: str) -> bool:
    return name != of and (not of or name.startswith(f"{of}."))


def _find_caller(name: str, called: Collection[str]) -> str:
    # A ModuleList lies between a part and the module that calls it.
    while name:
        name = name.rpartition(".")[0]
        if name in called:
            break
    return name
