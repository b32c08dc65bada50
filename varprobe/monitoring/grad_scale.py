"""Undo the scaling of a loss, by which AMP keeps small gradients alive, in what was recorded."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Protocol

from varprobe.errors import InvalidArgumentError
from varprobe.recording import Record


class HasScale(Protocol):
    """What knows the factor that a loss is scaled by, such as torch.amp.GradScaler."""

    def get_scale(self) -> float:
        """Return the factor that is in force now."""
        ...


GradScale = float | HasScale | Callable[[], float]


def make_scale_reader(grad_scale: GradScale | None) -> Callable[[], float]:
    """Return a function that gives the scale in force; 1 if there is none.

    Raises
    ------
    InvalidArgumentError
        Now for a number that is not positive, later for one that is asked for then.
    """
    if grad_scale is None:
        return lambda: 1.0
    if isinstance(grad_scale, int | float):
        scale = _check_scale(grad_scale)
        return lambda: scale
    ask = grad_scale if callable(grad_scale) else grad_scale.get_scale
    return lambda: _check_scale(ask())


def _check_scale(scale: float) -> float:
    if not 0 < scale < math.inf:
        raise InvalidArgumentError(
            f"grad_scale is {scale}, and gradients cannot be divided by that. Give the positive "
            "factor that the loss is multiplied by, or what knows it: the GradScaler."
        )
    return float(scale)


def unscale(record: Record, scale: float) -> Record:
    """Return the record of a gradient divided by ``scale``; other records as they are."""
    if scale == 1 or record.site.signal not in ("gradient", "weight_gradient"):
        return record
    moments = replace(
        record.moments,
        mean=record.moments.mean / scale,
        m2=record.moments.m2 / scale / scale,
        abs_max=record.moments.abs_max / scale,
    )
    return replace(record, moments=moments, exponents=_unscale_exponents(record.exponents, scale))


def _unscale_exponents(exponents: Mapping[int, int] | None, scale: float) -> dict[int, int] | None:
    # A histogram over powers of two can be moved by whole powers only; GradScaler's are.
    mantissa, exponent = math.frexp(scale)
    if exponents is None or mantissa != 0.5:
        return None
    return {power - (exponent - 1): count for power, count in exponents.items()}
