"""A context in which measuring is invisible to autograd, autocast and every active mode."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext

import torch
from torch.autograd import forward_ad
from torch.utils._python_dispatch import _disable_current_modes

from varprobe.statistics.tensors import is_plain

_TRANSFORMS = torch._C.DispatchKeySet(torch._C.DispatchKey.FuncTorchDynamicLayerFrontMode).add(
    torch._C.DispatchKey.FuncTorchDynamicLayerBackMode
)


def quiet(tensor: torch.Tensor) -> AbstractContextManager[object]:
    """Return the context in which to measure ``tensor``.

    Arithmetic on a detached plain tensor records no graph by itself, so that in an ordinary
    training step there is nothing to switch off; the full context costs ten times what a small
    tensor's statistics cost.
    """
    if not is_anything_active() and is_plain(tensor):
        return nullcontext()
    return everything_off(tensor)


def is_anything_active() -> bool:
    """Tell whether some mode could see, change or record what is computed from a tensor."""
    return (
        torch.is_inference_mode_enabled()
        or torch._C._is_any_autocast_enabled()
        or torch._C._len_torch_dispatch_stack() > 0
        or _is_torch_function_active()
        or torch._C._functorch.peek_interpreter_stack() is not None
        or forward_ad._current_level >= 0
    )


def _is_torch_function_active() -> bool:
    is_disabled = torch._C._is_torch_function_all_disabled()
    return torch._C._len_torch_function_stack() > 0 and not is_disabled


@contextmanager
def everything_off(tensor: torch.Tensor) -> Iterator[None]:
    """Switch off whatever `is_anything_active` asks for."""
    with ExitStack() as stack:
        stack.enter_context(torch._C.DisableTorchFunction())
        device_type = tensor.device.type
        # Accumulators created under inference mode could never be updated outside of it.
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.no_grad())
        # A dual tensor drags its tangent along, also through detach.
        stack.enter_context(forward_ad._set_fwd_grad_enabled(False))
        if device_type != "meta":
            stack.enter_context(torch.autocast(device_type, enabled=False))
        stack.enter_context(_disable_current_modes())
        # Inside of torch.func every result would be a wrapper without memory of its own.
        stack.enter_context(torch._C._ExcludeDispatchKeyGuard(_TRANSFORMS))
        yield
