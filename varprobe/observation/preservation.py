"""Run somebody's model and leave no trace of it, whatever happens inside.

What is set aside: parameters, buffers, gradients, attributes (train/eval mode is one), the states
of the random generators, and torch's defaults.
"""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.autograd.grad_mode import _unsafe_preserve_version_counter
from torch.utils._pytree import tree_map

from varprobe.errors import UnsupportedModelError
from varprobe.modules import is_lazy, name_modules
from varprobe.statistics.tensors import is_plain

_CHANGED_IN_PLACE = (dict, OrderedDict, set)
"""Classes of attributes that a module changes rather than replaces: its registries of parameters,
buffers, children and hooks (some models install hooks on their first forward), and caches."""


@contextmanager
def preserved(model: nn.Module) -> Iterator[None]:
    """Restore the model and the random states when the block is left.

    Parameters and buffers get other storages inside, at the cost of a copy, and their own ones
    back: nothing is ever written to those, so that a graph which the user still holds over these
    tensors stays valid.

    Raises
    ------
    UnsupportedModelError
        If a lazy module has no shapes yet: its first forward changes it for good.
    """
    for module, known in name_modules(model).items():
        if any(is_lazy(tensor) for tensor in module.parameters(recurse=False)):
            raise UnsupportedModelError(
                f"{known.name or 'The model'} ({type(module).__name__}) has no shapes yet; its "
                "first forward would change it for good. Run one forward of your own first."
            )
    with ExitStack() as stack:
        stack.enter_context(preserved_random_states())
        stack.enter_context(preserved_attributes(model))
        copies: dict[int, torch.UntypedStorage] = {}
        # Each once: modules share parameters, and a copy must not be taken for the original.
        for tensor in {id(t): t for t in [*model.parameters(), *model.buffers()]}.values():
            if not tensor.is_inference():
                # Its data will be what it was; autograd must not think that it was changed.
                stack.enter_context(_unsafe_preserve_version_counter(tensor))
            stack.callback(_set_tensor_aside(tensor, copies))
        yield


@contextmanager
def preserved_attributes(model: nn.Module) -> Iterator[None]:
    """Restore the attributes of all modules: mode, registries, hooks, counters, caches."""
    restorers = [_set_attributes_aside(module) for module in model.modules()]
    try:
        yield
    finally:
        for restore in restorers:
            restore()


def _set_attributes_aside(module: nn.Module) -> Callable[[], None]:
    attributes = dict(module.__dict__)
    contents = [(v, v.copy()) for v in attributes.values() if type(v) in _CHANGED_IN_PLACE]

    def restore() -> None:
        for value, content in contents:
            value.clear()
            value.update(content)
        module.__dict__.clear()
        module.__dict__.update(attributes)

    return restore


def _set_tensor_aside(
    tensor: torch.Tensor, copies: dict[int, torch.UntypedStorage]
) -> Callable[[], None]:
    data, leaf, required = tensor.data, tensor.is_leaf, tensor.requires_grad
    gradient = tensor.grad if leaf else None
    tensor.data = _copy_with_storage(data, copies)
    if leaf:
        tensor.grad = None

    def restore() -> None:
        if leaf and tensor.grad_fn is not None:
            # A buffer that the forward added something differentiable to.
            tensor.detach_()
        tensor.data = data
        if leaf:
            tensor.requires_grad_(required)
            tensor.grad = gradient

    return restore


def _copy_with_storage(data: torch.Tensor, copies: dict[int, torch.UntypedStorage]) -> torch.Tensor:
    """Return a copy that shares memory with the copies of those that shared it with ``data``."""
    if not is_plain(data) or not data.numel():
        return data.clone()
    storage = data.untyped_storage()
    if storage.data_ptr() not in copies:
        copies[storage.data_ptr()] = storage.clone()  # type: ignore[no-untyped-call]
    copy = torch.empty(0, dtype=data.dtype, device=data.device)
    return copy.set_(copies[storage.data_ptr()], data.storage_offset(), data.size(), data.stride())


@contextmanager
def preserved_random_states() -> Iterator[None]:
    """Restore the generators of torch on all devices in use, of numpy and of Python."""
    of_python, of_numpy = random.getstate(), np.random.get_state()
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=[]))
        for kind in _list_accelerators():
            devices = range(torch.get_device_module(kind).device_count())
            stack.enter_context(torch.random.fork_rng(devices=devices, device_type=kind))
        stack.callback(random.setstate, of_python)
        stack.callback(np.random.set_state, of_numpy)
        yield


@contextmanager
def preserved_defaults() -> Iterator[None]:
    """Restore default dtype, default device and gradient mode."""
    dtype, device = torch.get_default_dtype(), _find_default_device()
    with torch.set_grad_enabled(torch.is_grad_enabled()):
        try:
            yield
        finally:
            torch.set_default_dtype(dtype)
            if _find_default_device() != device:
                torch.set_default_device(device)


def _find_default_device() -> torch.device | None:
    # Not torch.get_default_device(), which speaks of the innermost `with torch.device(...)`.
    context = getattr(torch._GLOBAL_DEVICE_CONTEXT, "device_context", None)
    return None if context is None else context.device


def seed_generators(seed: int) -> None:
    """Seed what `preserved_random_states` restores."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    # torch.manual_seed would leave a seed behind for accelerators that were not started.
    torch.default_generator.manual_seed(seed)
    for kind in _list_accelerators():
        torch.get_device_module(kind).manual_seed_all(seed)


def _list_accelerators() -> list[str]:
    return [kind for kind in ("cuda", "xpu") if torch.get_device_module(kind).is_initialized()]


def copy_inputs(inputs: Any) -> Any:
    """Return the inputs with every tensor copied: the model may write into them and their grads.

    Tensors in tuples, lists, mappings and whatever else torch.utils._pytree knows are copied.
    """

    def copy(value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        with torch.no_grad():
            return value.detach().clone().requires_grad_(value.requires_grad)

    return tree_map(copy, inputs)
