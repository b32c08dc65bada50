"""Use on one stream of a device what was computed on another."""

from __future__ import annotations

from typing import Any

import torch


def find_stream(device: torch.device) -> Any:
    """Return the current stream of a device; None where there are none, and all runs in order."""
    current = getattr(getattr(torch, device.type, None), "current_stream", None)
    return None if current is None else current(device)


def follow(stream: Any, *tensors: torch.Tensor) -> None:
    """Let the current stream use tensors that were computed on ``stream``.

    It waits for what is queued there, the host does not. The memory is not given to another owner
    before both streams are done with it.
    """
    current = find_stream(tensors[0].device)
    if current == stream:
        return
    current.wait_stream(stream)
    for tensor in tensors:
        tensor.record_stream(current)
