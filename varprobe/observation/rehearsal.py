"""Tell a pipeline's rehearsal from its forwards.

A stage of ``torch.distributed.pipelining`` that was not told the shapes of its tensors learns them
before the first step: it runs its module once more, the later stages on memory that nobody wrote.
A module is called alike in both cases. Only the caller tells.
"""

from __future__ import annotations

import sys
from types import FrameType

_STAGE = "torch.distributed.pipelining.stage"
_REHEARSALS = ("_forward_metadata_inference", "_shape_inference")
"""What the methods are called that do it: of today's torch, and of versions before 2.13."""


def is_rehearsal() -> bool:
    """Tell whether a pipeline stage calls its module to learn shapes, further up in the stack."""
    if _STAGE not in sys.modules:
        return False
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_name in _REHEARSALS and frame.f_globals.get("__name__") == _STAGE:
            return True
        frame = frame.f_back
    return False
