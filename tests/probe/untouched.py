"""Everything of a run that a probe must leave bitwise alone, as one comparable value."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from varprobe.modules import walk_tensors


def to_bytes(tensor: torch.Tensor | None) -> tuple[object, ...] | None:
    """Return a tensor's exact content; NaN compares equal to itself."""
    if tensor is None:
        return None
    plain = tensor.detach().resolve_conj()
    content = np.asarray(plain.flatten().contiguous().view(torch.uint8)).tobytes()
    return str(tensor.dtype), tuple(tensor.shape), content


def describe_model(model: nn.Module) -> dict[str, object]:
    """Return parameters, buffers, gradients, flags, modes and hooks of a model."""
    state: dict[str, object] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        state[f"parameter {name}"] = to_bytes(parameter), id(parameter), parameter.data_ptr()
        state[f"gradient {name}"] = to_bytes(parameter.grad)
        state[f"requires_grad {name}"] = parameter.requires_grad
        state[f"hooks of {name}"] = len(parameter._backward_hooks or ())
    for name, buffer in model.named_buffers(remove_duplicate=False):
        state[f"buffer {name}"] = to_bytes(buffer), id(buffer), buffer.data_ptr()
    for name, module in model.named_modules():
        state[f"training {name}"] = module.training
        state[f"hooks {name}"] = len(module._forward_hooks), len(module._forward_pre_hooks)
        state[f"backward hooks {name}"] = len(module._backward_hooks)
        state[f"attributes {name}"] = sorted(module.__dict__)
    return state


def describe_values(model: nn.Module) -> dict[str, object]:
    """Return the numbers of a model: what two models that were built alike share."""
    addresses = ("parameter", "buffer")
    return {
        key: value[0] if key.startswith(addresses) else value  # type: ignore[index]
        for key, value in describe_model(model).items()
    }


def describe_run(model: nn.Module, drive: Callable[[], object]) -> dict[str, object]:
    """Run, and return the outputs, the model after it, and the state of the generator."""
    outputs = [to_bytes(tensor) for _, tensor in walk_tensors(drive())]
    generator = to_bytes(torch.get_rng_state())
    return {"outputs": outputs, "generator": generator, **describe_values(model)}
