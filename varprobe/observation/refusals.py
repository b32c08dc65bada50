"""The models whose hooks torch would never call, and what to do with them instead."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager

import torch
from torch import nn

from varprobe.errors import UnsupportedModelError


def choose_stance(
    names: Mapping[nn.Module, str], compiled: str
) -> AbstractContextManager[object] | None:
    """Refuse the models whose hooks torch would not call; return the cure for compiled ones."""
    scripted = [n for module, n in names.items() if isinstance(module, torch.jit.ScriptModule)]
    if scripted:
        raise UnsupportedModelError(
            f"{_spell(scripted)} is a TorchScript module: its inner calls run outside of Python "
            "and cannot be observed. Probe the eager model it was made from."
        )
    for module, name in names.items():
        if isinstance(module, nn.DataParallel) and len(module.device_ids) > 1:
            raise UnsupportedModelError(
                f"{_spell([name])} is DataParallel on {len(module.device_ids)} devices: it copies "
                "the model for every forward, and the copies have no hooks. Probe "
                "model.module on one device, or use DistributedDataParallel."
            )
    if not any(_is_compiled(module) for module in names):
        return None
    if compiled == "error":
        compiled_names = [name for module, name in names.items() if _is_compiled(module)]
        raise UnsupportedModelError(
            f"{_spell(compiled_names)} is compiled by torch.compile, which skips hooks that come "
            'later in silence. Pass compiled="eager" to run it in eager mode while it is probed '
            "(the numbers are eager numbers, nothing is compiled again), or probe the model that "
            "you compiled."
        )
    stance: AbstractContextManager[object] = torch.compiler.set_stance("force_eager")
    return stance


def _is_compiled(module: nn.Module) -> bool:
    return (
        getattr(module, "_compiled_call_impl", None) is not None
        or type(module).__name__ == "OptimizedModule"
    )


def _spell(names: Sequence[str]) -> str:
    return repr(names[0]) if names[0] else "The model"
