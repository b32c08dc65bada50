"""Catch on the CPU what would make the host wait for an accelerator."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch
from torch.utils._python_dispatch import TorchDispatchMode

OPERATIONS = (
    "aten::_local_scalar_dense",  # item, bool, float, int, index
    "aten::bincount",
    "aten::equal",
    "aten::masked_select",
    "aten::nonzero",
    "aten::repeat_interleave",
    "aten::_unique",
    "aten::unique",
)
"""Whose result, or the size of it, depends on the values."""

METHODS = ("cpu", "numpy", "tolist", "__array__", "__dlpack__")
"""Which leave a device without an operation that a mode could see on the CPU."""


class HostWaited(AssertionError):
    """Tells what the host would have waited for."""


class _NoQuestions(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name
        masks = [x for x in args[1:2] if isinstance(x, list | tuple)] if "index" in name else []
        if name.startswith(OPERATIONS) or any(
            isinstance(mask, torch.Tensor) and mask.dtype is torch.bool
            for part in masks
            for mask in part
        ):
            raise HostWaited(name)
        return func(*args, **(kwargs or {}))


@contextmanager
def no_waiting() -> Iterator[None]:
    """Raise `HostWaited` at whatever would wait, also where the statistics switch modes off."""
    with ExitStack() as stack:
        off = "varprobe.statistics.quiet._disable_current_modes"
        stack.enter_context(mock.patch(off, ExitStack))
        for name in METHODS:
            stack.enter_context(mock.patch.object(torch.Tensor, name, _refuse(name)))
        stack.enter_context(_NoQuestions())
        yield


def _refuse(name: str) -> Any:
    def refuse(*args: object, **kwargs: object) -> None:
        raise HostWaited(name)

    return refuse
