"""What variance laws may read of a parameter: fans, blocks, the depth of the stack it lies in."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import nn
from torch.nn.modules.conv import _ConvNd

from varprobe.identification.variance_laws import Form
from varprobe.initializers.default import find_known_law
from varprobe.modules import compute_fans

Depths = Mapping[nn.Module, tuple[int, ...]]

GATES = {"LSTM": 4, "LSTMCell": 4, "GRU": 3, "GRUCell": 3}
"""How many matrices a recurrent layer keeps in one."""

THIRDS = 3
"""Queries, keys and values."""


def describe(module: nn.Module, role: str, shape: tuple[int, ...], depths: tuple[int, ...]) -> Form:
    """Return the form of a parameter.

    Parameters
    ----------
    module : nn.Module
        That uses it.
    role : str
        Its name there.
    shape : tuple of int
        Its shape.
    depths : tuple of int
        Lengths of the stacks that the module lies in.
    """
    default = find_known_law(module, role)
    fans = compute_fans(module) if role == "weight" else None
    if fans is None and (len(shape) < 2 or 1 in (shape[0], math.prod(shape[1:]))):
        # A vector, however it is shaped: a bias, a scale, a class token.
        return Form(default=default, depths=depths)
    window = math.prod(shape[2:])
    seen = shape[1] * window, shape[0] * window
    fan_in, fan_out = fans or seen
    named = {"fan_in": fan_in, "fan_out": fan_out}
    pairs = {"": (fan_in, fan_out)}
    if sum(seen) != fan_in + fan_out:
        # torch.nn.init sees no groups, and the inputs of a transposed convolution come first.
        whole = "fan_in" if getattr(module, "transposed", False) else "fan_out"
        named[f"groups·{whole}"] = seen[1]
        pairs[" over all groups"] = seen
    blocks = find_blocks(module, role, shape)
    if blocks > 1 and not isinstance(module, _ConvNd):
        named[f"fan_out/{blocks}"] = fan_out // blocks
        pairs[f" of {blocks} blocks"] = (fan_in, fan_out // blocks)
    matrix = (shape[0], math.prod(shape[1:]))
    return Form(fans=named, pairs=pairs, default=default, matrix=matrix, depths=depths)


def find_blocks(module: nn.Module, role: str, shape: tuple[int, ...]) -> int:
    """Return into how many equal parts, one below the other, a parameter may fall; 1 for a whole.

    Gates of a recurrent layer, groups of a convolution, or queries, keys and values: a matrix that
    is three times as high as it is wide, and what is called in_proj.
    """
    gates = GATES.get(type(module).__name__, 1)
    groups = getattr(module, "groups", 1) if isinstance(module, _ConvNd) else 1
    fused = len(shape) == 2 and shape[0] == THIRDS * shape[1]
    thirds = THIRDS if fused or "in_proj" in role else 1
    blocks = max(gates, groups, 1) if max(gates, groups) > 1 else thirds
    return blocks if shape and shape[0] % blocks == 0 and shape[0] > blocks else 1


def count_siblings(names: Mapping[nn.Module, str]) -> Depths:
    """Return by module how many blocks of one class stand where it lies in one of them.

    Several numbers where stacks contain stacks. Blocks are children of a list or a Sequential.
    """
    by_name = {name: module for module, name in names.items()}
    depths = {}
    for module, name in names.items():
        path = name.split(".")
        counts = []
        for end in range(1, len(path)):
            stack, block = by_name.get(".".join(path[: end - 1])), by_name.get(".".join(path[:end]))
            if isinstance(stack, nn.ModuleList | nn.Sequential):
                counts.append(sum(type(child) is type(block) for child in stack))
        depths[module] = tuple(dict.fromkeys(count for count in counts if count > 1))
    return depths
