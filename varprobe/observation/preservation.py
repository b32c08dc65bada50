"""Run somebody's model and leave no trace of it, whatever happens inside.

What is set aside: parameters, buffers, gradients, train/eval mode, and the random states. The
storages are swapped rather than written back, so that a graph which the user still holds over
these tensors stays valid.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_map

from varprobe.errors import UnsupportedModelError
from varprobe.modules import is_lazy, name_modules


@contextmanager
def preserved(model: nn.Module, *, weights: bool) -> Iterator[None]:
    """Restore the model and the random states when the block is left.

    Parameters
    ----------
    model : torch.nn.Module
        The model that will run inside.
    weights : bool
        Also set the parameters aside, at the cost of a copy: they will be drawn again inside.

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
        stack.enter_context(_random_states(model))
        for module in model.modules():
            stack.callback(_restorer(module, weights=weights))
        yield


def _restorer(module: nn.Module, *, weights: bool) -> Any:
    mode = module.training
    parameters = dict(module._parameters)
    buffers = dict(module._buffers)
    gradients = [(p, p.grad, p.requires_grad) for p in parameters.values() if p is not None]
    storages = [
        (tensor, tensor.data)
        for tensor in [*(parameters.values() if weights else ()), *buffers.values()]
        if tensor is not None
    ]
    for tensor, data in storages:
        tensor.data = data.clone()
    for parameter, _, _ in gradients:
        parameter.grad = None

    def restore() -> None:
        module._parameters.update(parameters)
        module._buffers.update(buffers)
        for tensor, data in storages:
            tensor.data = data
        for parameter, gradient, required in gradients:
            parameter.requires_grad_(required)
            parameter.grad = gradient
        module.training = mode

    return restore


@contextmanager
def _random_states(model: nn.Module) -> Iterator[None]:
    kinds = {t.device.type for t in [*model.parameters(), *model.buffers()]} - {"cpu", "meta"}
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=[]))
        for kind in kinds:
            devices = range(torch.get_device_module(kind).device_count())
            stack.enter_context(torch.random.fork_rng(devices=devices, device_type=kind))
        yield


def copy_inputs(inputs: Any) -> Any:
    """Return the inputs with every tensor copied: the model may write into them and their grads."""

    def copy(value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        with torch.no_grad():
            return value.detach().clone().requires_grad_(value.requires_grad)

    return tree_map(copy, inputs)
