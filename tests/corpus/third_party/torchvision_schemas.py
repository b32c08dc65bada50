"""Make torchvision importable where its compiled part cannot be loaded.

PyPI's wheel links CUDA libraries. Beside a CPU build of torch its operators are missing, and the
import dies on "operator torchvision::nms does not exist". With the schemas defined first it
succeeds; what the models of the corpus call gets an implementation in plain torch. Call
`define_missing` before torchvision, timm, transformers, and what else imports them.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import torch

_LIBRARY = torch.library.Library("torchvision", "FRAGMENT")
_BOXES = "Tensor dets, Tensor scores, float iou_threshold"


def _can_load() -> bool:
    found = importlib.util.find_spec("torchvision")
    if found is None or found.origin is None:
        return False
    for path in Path(found.origin).parent.glob("_C*.so"):
        try:
            torch.ops.load_library(path)
        except OSError:
            return False
    return True


def _suppress_overlaps(
    boxes: torch.Tensor, scores: torch.Tensor, iou_threshold: float
) -> torch.Tensor:
    area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    kept = []
    order = scores.argsort(descending=True)
    while order.numel():
        best, order = order[0], order[1:]
        kept.append(best)
        low = torch.maximum(boxes[best, :2], boxes[order, :2])
        high = torch.minimum(boxes[best, 2:], boxes[order, 2:])
        common = (high - low).clamp(min=0).prod(1)
        order = order[common <= iou_threshold * (area[best] + area[order] - common)]
    return torch.stack(kept) if kept else torch.empty(0, dtype=torch.long)


def define_missing() -> None:
    """Define what the models call, unless torchvision brings it."""
    if _can_load():
        return
    _LIBRARY.define(f"nms({_BOXES}) -> Tensor")
    _LIBRARY.define(f"qnms({_BOXES}, float s, int z) -> Tensor")
    _LIBRARY.impl("nms", _suppress_overlaps, "CPU")

    import torchvision.extension
    import torchvision.ops

    torchvision.extension._has_ops = lambda: True
    # torchvision has a version of this one in plain torch, which it compiles when it is called.
    pooling = sys.modules["torchvision.ops.roi_align"]
    pooling._roi_align = pooling._roi_align.__wrapped__
