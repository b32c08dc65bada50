"""The facts about a model that a recording keeps beside its numbers."""

from __future__ import annotations

import torch
from torch import nn

from varprobe.modules import is_lazy, name_kind


def describe_model(model: nn.Module, root: nn.Module) -> dict[str, object]:
    """Return class, size, device, dtype and mode of a model whose innermost root is ``root``."""
    tensors = [*model.parameters(), *model.buffers()]
    return {
        "model": name_kind(root),
        "parameters": sum(p.numel() for p in model.parameters() if not is_lazy(p)),
        "device": str(tensors[0].device) if tensors else "cpu",
        "dtype": str(tensors[0].dtype).removeprefix("torch.") if tensors else "float32",
        "training": root.training,
        "torch": str(torch.__version__),
    }
