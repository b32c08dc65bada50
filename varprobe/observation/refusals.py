"""The models whose hooks torch would never call, and what to do with them instead."""

from __future__ import annotations

import threading
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType

import torch
from torch import nn

from varprobe.errors import UnsupportedModelError


def choose_stance(model: nn.Module, compiled: str) -> AbstractContextManager[object]:
    """Refuse the models whose hooks torch would not call; return the cure for compiled ones."""
    modules = list(model.named_modules())
    scripted = [name for name, module in modules if isinstance(module, torch.jit.ScriptModule)]
    if scripted:
        raise UnsupportedModelError(
            f"{_spell(scripted)} is a TorchScript module: its inner calls run outside of Python "
            "and cannot be observed. Probe the eager model it was made from."
        )
    spread = [
        name
        for name, module in modules
        if isinstance(module, nn.DataParallel) and len(module.device_ids) > 1
    ]
    if spread:
        raise UnsupportedModelError(
            f"{_spell(spread)} is DataParallel on several devices: it copies the model for every "
            "forward, and the copies have no hooks. Probe model.module on one device, or use "
            "DistributedDataParallel."
        )
    names = [name for name, module in modules if is_compiled(module)]
    if not names:
        return nullcontext()
    if compiled == "error":
        raise UnsupportedModelError(
            f"{_spell(names)} is compiled by torch.compile, which skips hooks that come later in "
            'silence. Pass compiled="eager" to run it in eager mode while it is probed (the '
            "numbers are eager numbers, nothing is compiled again), or probe the model that you "
            "compiled."
        )
    return _FORCED_EAGER


def is_compiled(module: nn.Module) -> bool:
    """Tell whether a module is one that torch.compile made, or compiled in place."""
    return (
        getattr(module, "_compiled_call_impl", None) is not None
        or type(module).__name__ == "OptimizedModule"
    )


def _spell(names: list[str]) -> str:
    return repr(names[0]) if names[0] else "The model"


class _ForcedEager:
    """Keep torch.compile's stance at eager as long as any probe needs it.

    The stance is one for the process, and torch restores the one it found: two probes that overlap
    without being nested would leave it at eager for good.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._stance: AbstractContextManager[object] = nullcontext()

    def __enter__(self) -> None:
        with self._lock:
            if self._users == 0:
                # It takes effect when it is made.
                self._stance = torch.compiler.set_stance("force_eager")
            self._users += 1

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._lock:
            self._users -= 1
            if self._users == 0:
                self._stance.__exit__(kind, error, trace)


_FORCED_EAGER = _ForcedEager()
