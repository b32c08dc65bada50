"""Draw numbers from a WeightLaw into a tensor."""

from __future__ import annotations

import math

import torch

from varprobe.initializers.laws import TRUNCATED_VARIANCE, TRUNCATION, WeightLaw

DRAWN_AS_THEY_ARE = frozenset({torch.float32, torch.float64})
"""Other dtypes are drawn in float32 and rounded once: their own generators are coarse."""


def fill(tensor: torch.Tensor, law: WeightLaw, *, groups: int = 1) -> None:
    """Overwrite ``tensor`` in place with a sample of ``law``.

    Numbers come from torch's global generator of the tensor's device. A tensor on the meta device
    holds no numbers and is left alone.

    Parameters
    ----------
    tensor : tensor
        A floating-point tensor of any shape; two dimensions or more for an orthogonal law.
    law : WeightLaw
        Any but "measured" and "other", of which only moments are known.
    groups : int
        Blocks along the first dimension that are orthogonal each for itself.
    """
    if tensor.is_meta or tensor.numel() == 0:
        return
    if tensor.dtype in DRAWN_AS_THEY_ARE:
        _draw(tensor, law, groups)
    else:
        wide = torch.empty_like(tensor, dtype=torch.float32)
        _draw(wide, law, groups)
        tensor.copy_(wide)


def _draw(tensor: torch.Tensor, law: WeightLaw, groups: int) -> None:
    if law.distribution == "normal":
        tensor.normal_(law.mean, math.sqrt(law.variance))
    elif law.distribution == "uniform":
        bound = math.sqrt(3 * law.variance)
        tensor.uniform_(law.mean - bound, law.mean + bound)
    elif law.distribution == "constant":
        tensor.fill_(law.mean)
    elif law.distribution == "trunc_normal":
        _draw_truncated(tensor, law.mean, math.sqrt(law.variance / TRUNCATED_VARIANCE))
    elif law.distribution == "orthogonal":
        _draw_orthogonal(tensor, law.variance, groups)
    else:
        raise ValueError(f"A {law.distribution!r} law has no form to draw from.")


def _draw_truncated(tensor: torch.Tensor, mean: float, std: float) -> None:
    low, high = mean - TRUNCATION * std, mean + TRUNCATION * std
    if std > 0:
        torch.nn.init.trunc_normal_(tensor, mean, std, low, high)
    else:
        tensor.fill_(mean)


def _draw_orthogonal(tensor: torch.Tensor, variance: float, groups: int) -> None:
    rows = tensor.shape[0] // groups
    gaussian = tensor.new_empty((groups, rows, tensor[0].numel())).normal_()
    wide = gaussian.shape[1] < gaussian.shape[2]
    q, r = torch.linalg.qr(gaussian.mT if wide else gaussian)
    # QR alone is not uniform over the orthogonal matrices: R's diagonal must be made positive
    # (Mezzadri 2007, arXiv math-ph/0609050, section 5).
    q = q * r.diagonal(dim1=-2, dim2=-1).sign().unsqueeze(-2)
    gain = math.sqrt(variance * max(gaussian.shape[1:]))
    tensor.copy_(gain * (q.mT if wide else q).reshape(tensor.shape))
