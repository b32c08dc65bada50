"""How many units of a layer are different: rows of a weight that equal each other are one unit."""

from __future__ import annotations

import torch
from torch import nn

from varprobe.statistics.quiet import quiet
from varprobe.statistics.tensors import is_plain

_Transposed = nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d


def count_distinct_rows(module: nn.Module, weight: torch.Tensor) -> int | None:
    """Count the units of a Linear or convolution whose incoming weights differ.

    A unit is an output feature or channel. Two of one group that have equal weights compute the
    same; those of different groups read different channels.

    Returns
    -------
    int or None
        None for a weight off the CPU (it would make the host wait), or that is no dense numbers.
    """
    if not is_plain(weight) or not weight.is_cpu or weight.dim() < 2 or not weight.numel():
        return None
    groups = int(getattr(module, "groups", 1))
    with quiet(weight), torch.no_grad():
        units = weight.detach().reshape(groups, -1, *weight.shape[1:])
        if isinstance(module, _Transposed):  # (in, out / groups, …)
            units = units.transpose(1, 2)
        rows = units.flatten(2).double()
        # Rows are equal if a random combination of their elements is: 53 bits tell 10⁴ rows apart
        # but for a chance of 10⁻⁸, at one pass over the weights. Equal rows are summed alike.
        generator = torch.Generator().manual_seed(0)
        direction = torch.randn(rows.shape[-1], generator=generator, dtype=torch.float64)
        keys = (rows * direction).sum(-1)
        return sum(len(torch.unique(group)) for group in keys)
