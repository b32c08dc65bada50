"""Moments by numpy, in two float64 passes over the finite elements: the oracle of statistics."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import torch

from varprobe.moments import Moments


def measure(tensors: torch.Tensor | Iterable[torch.Tensor]) -> Moments:
    """Return the moments of all elements of dense tensors; a complex element counts as two."""
    if isinstance(tensors, torch.Tensor):
        tensors = [tensors]
    x = np.concatenate([_to_numbers(tensor) for tensor in tensors])
    finite = x[np.isfinite(x)]
    # math.fsum rounds once; numpy's mean over a million elements is good to 1e-15 only.
    mean = math.fsum(finite) / len(finite) if len(finite) else 0.0
    return Moments(
        numel=len(x),
        mean=mean,
        m2=math.fsum((finite - mean) ** 2),
        abs_max=float(np.abs(finite).max(initial=0.0)),
        zeros=int((x == 0).sum()),
        nan=int(np.isnan(x).sum()),
        inf=int(np.isinf(x).sum()),
    )


def _to_numbers(tensor: torch.Tensor) -> np.ndarray:
    tensor = tensor.detach()
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor.resolve_conj())
    return tensor.double().numpy().reshape(-1)
