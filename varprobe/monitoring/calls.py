"""Announce the calls of a model: once for each, and before any hook of its root."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from varprobe.observation.hooks import Hook
from varprobe.observation.refusals import is_compiled

OnCall = Callable[..., None]
"""Called with a module, its positional arguments, and the mapping of keyword arguments."""


def watch_calls(model: nn.Module, root: nn.Module, on_call: OnCall) -> HookedCalls | CompiledCalls:
    """Call ``on_call`` before every call of ``root``, which may be wrapped in ``model``.

    From outside of what is compiled: inside, hooks are skipped or compiled.
    """
    entry = next(module for module in model.modules() if module is root or is_compiled(module))
    if getattr(entry, "_compiled_call_impl", None) is not None:
        return CompiledCalls(entry, on_call)
    return HookedCalls(entry, on_call)


class HookedCalls:
    """Announce the calls of a module by a pre-hook."""

    def __init__(self, module: nn.Module, on_call: OnCall) -> None:
        self.module = module
        self._hook = Hook(on_call, module)
        self._handle = self._register()

    def _register(self) -> torch.utils.hooks.RemovableHandle:
        return self.module.register_forward_pre_hook(self._hook, prepend=True, with_kwargs=True)

    def come_first(self) -> None:
        """Be in front of the pre-hooks that were put there meanwhile."""
        self._handle.remove()
        self._handle = self._register()

    def remove(self) -> None:
        """Announce nothing any more."""
        self._handle.remove()
        self._hook.disarm()


class CompiledCalls:
    """Announce the calls of a module that was compiled in place, by ``module.compile()``.

    They never reach a hook in Python, not even one of the module itself.
    """

    def __init__(self, module: nn.Module, on_call: OnCall) -> None:
        self.module = module
        self._on_call = on_call
        self._call: Any = module._compiled_call_impl
        self.module._compiled_call_impl = self

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Announce the call, and make it."""
        self._on_call(self.module, args, kwargs)
        return self._call(*args, **kwargs)

    def remove(self) -> None:
        """Announce nothing any more."""
        self.module._compiled_call_impl = self._call
