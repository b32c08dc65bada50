"""Undo the scaling of a loss, by which AMP keeps small gradients alive, as gradients are read."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

import torch

from varprobe.errors import InvalidArgumentError
from varprobe.statistics import Reading


class HasScale(Protocol):
    """What knows the factor that a loss is scaled by, such as torch.amp.GradScaler."""

    def get_scale(self) -> float:
        """Return the factor that is in force now."""
        ...


GradScale = float | HasScale | Callable[[], float]


class Unscaling:
    """The scale of each backward pass, asked for once, when its first gradient arrives.

    A GradScaler changes its scale between steps, and where it lives on an accelerator every
    question waits for the device.

    Parameters
    ----------
    grad_scale : float, object with ``get_scale()``, or callable
        The factor that the loss is multiplied by.

    Raises
    ------
    InvalidArgumentError
        For a number that is not positive; from the backward pass, for one that is given there.
    """

    def __init__(self, grad_scale: GradScale) -> None:
        if isinstance(grad_scale, int | float):
            scale = _check(grad_scale)
            self._ask: Callable[[], float] = lambda: scale
        else:
            self._ask = grad_scale if callable(grad_scale) else grad_scale.get_scale
        self._last = (-1, 1.0)
        """The last backward pass and its scale."""

    def apply(self, reading: Reading) -> Reading:
        """Return a gradient's reading divided by the scale of the pass that runs now."""
        task = torch._C._current_graph_task_id()
        known, scale = self._last
        if known != task:
            scale = _check(self._ask())
            self._last = task, scale
        return reading if scale == 1.0 else reading.divide(scale)


def _check(scale: float) -> float:
    if not 0 < scale < math.inf:
        raise InvalidArgumentError(
            f"grad_scale is {scale}, and gradients cannot be divided by that. Give the positive "
            "factor that the loss is multiplied by, or what knows it: the GradScaler."
        )
    return float(scale)
