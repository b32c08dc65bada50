"""Fans by counting: run the layer with weights of one on ones, and read a far-inside element."""

from __future__ import annotations

import torch
from torch import nn

from varprobe.modules import WEIGHTED

MARGIN = 8
"""Elements beside the one that is read; more than any kernel of the tests reaches."""


def count_fans(module: nn.Module) -> tuple[int, int]:
    """Return (fan_in, fan_out) of a weighted layer with stride 1.

    An output element is then the number of weights that feed it, and the gradient of the sum of
    all outputs by an input element is the number of weights that it feeds.
    """
    assert isinstance(module, WEIGHTED)
    if isinstance(module, nn.Linear):
        shape, inside = (1, module.in_features), (0, 0)
    else:
        spatial = module.weight.dim() - 2
        shape = (1, module.in_channels, *(2 * MARGIN + 1,) * spatial)
        inside = (0, 0, *(MARGIN,) * spatial)
    ones = torch.ones(shape, requires_grad=True)
    with torch.no_grad():
        saved = [parameter.clone() for parameter in module.parameters()]
        for name, parameter in module.named_parameters():
            parameter.fill_(float(name == "weight"))
    output = module(ones)
    (gradient,) = torch.autograd.grad(output.sum(), ones)
    with torch.no_grad():
        for parameter, value in zip(module.parameters(), saved, strict=True):
            parameter.copy_(value)
    return round(output[inside].item()), round(gradient[inside].item())
