"""Laws that leave the range of the dtype in which the model computes."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from varprobe.theory.rows import Expectation

BEYOND = "beyond the range of its dtype"

MEDIAN = 0.6745
"""Median of the absolute value of a standard normal."""


def check_range(row: Expectation, dtype: torch.dtype, elements: int) -> Expectation:
    """Return a row that says so if a dtype cannot hold what is expected of an activation.

    Theory computes with real numbers. Of N normal numbers of standard deviation s the largest is
    about s sqrt(2 ln N); where that is above the largest number of the dtype, elements are infinite
    in a real run. Where the median is below the smallest normal one, most of them lose digits.

    Parameters
    ----------
    row : Expectation
        Of one tensor.
    dtype : torch.dtype
        In which the model computes it.
    elements : int
        Its size.

    Examples
    --------
    >>> import torch, varprobe as vp
    >>> layer = torch.nn.Linear(64, 64)
    >>> prediction = vp.predict(layer, torch.ones(1, 64), init="normal(std=1e4)")
    >>> check_range(prediction.find(vp.Site(module="")), torch.float16, 64).reason
    'beyond the range of its dtype: it reaches 2.31e+05, and float16 ends at 6.55e+04'
    """
    if not dtype.is_floating_point or not row.second_moment > 0:
        return row
    limits, size = torch.finfo(dtype), math.sqrt(row.second_moment)
    name = str(dtype).removeprefix("torch.")
    largest = size * math.sqrt(2 * math.log(max(elements, 2)))
    if largest > limits.max:
        said = f"it reaches {largest:.3g}, and {name} ends at {limits.max:.3g}"
    elif MEDIAN * size < limits.tiny:
        said = f"half of it is below {limits.tiny:.2g}, where {name} loses digits"
    else:
        return row
    status = "approximate" if row.status == "exact" else row.status
    return replace(row, status=status, reason=f"{BEYOND}: {said}")
