"""Find the parameters that move a model's output behind autograd's back.

A layer whose weights are used detached, as a function's arguments, looks like one that nobody uses:
it is not called, and its weights get no gradient. It differs in that other weights give another
output. So they are shaken, and the forward is run again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from varprobe.modules import walk_tensors
from varprobe.statistics.tensors import is_plain


def find_influential(
    forward: Callable[[], Any], suspects: Mapping[str, torch.nn.Parameter]
) -> list[str]:
    """Return the names of the parameters of which the output of a forward depends.

    Parameters
    ----------
    forward : callable
        Runs the model from the same random state and on the same inputs each time.
    suspects : mapping
        Parameters by name; their values are changed, and are afterwards what they were.

    Returns
    -------
    list of str
        None of them if the model answers differently each time, or cannot answer once more: then
        nothing follows from another answer.
    """
    shakable = {name: p for name, p in suspects.items() if is_plain(p.data) and p.numel()}
    if not shakable:
        return []
    try:
        usual = _answer(forward)
        if not _agree(usual, _answer(forward)):
            return []
        # Mostly nothing depends on any of them, which one forward tells.
        if _agree(usual, _answer_shaken(forward, list(shakable.values()))):
            return []
        return [
            name
            for name, parameter in shakable.items()
            if not _agree(usual, _answer_shaken(forward, [parameter]))
        ]
    except Exception:
        return []


def _answer_shaken(
    forward: Callable[[], Any], parameters: list[torch.nn.Parameter]
) -> list[torch.Tensor]:
    values = [parameter.data.clone() for parameter in parameters]
    generator = torch.Generator("cpu").manual_seed(0)
    try:
        for parameter, value in zip(parameters, values, strict=True):
            # A norm may take a shift or a scale off again, but no noise of the weights' own size.
            noise = torch.randn(value.shape, generator=generator).to(value)
            parameter.data.add_(noise * (float(value.abs().max()) or 1.0))
        return _answer(forward)
    finally:
        for parameter, value in zip(parameters, values, strict=True):
            parameter.data.copy_(value)


def _answer(forward: Callable[[], Any]) -> list[torch.Tensor]:
    with torch.no_grad():
        output = forward()
    return [tensor.clone() for _, tensor in walk_tensors(output) if is_plain(tensor)]


def _agree(some: list[torch.Tensor], others: list[torch.Tensor]) -> bool:
    return len(some) == len(others) and all(
        a.shape == b.shape and bool(((a == b) | ((a != a) & (b != b))).all())
        for a, b in zip(some, others, strict=True)
    )
