"""Draws of what no operation makes: parameters from their laws, inputs, buffers, constants."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

from varprobe.errors import MissingRuleError
from varprobe.initializers.sampling import fill
from varprobe.theory.parameters import Parameter
from varprobe.theory.tracer import Tape


def draw_sources(
    tape: Tape, parameters: Mapping[int, Parameter], draws: int
) -> dict[int, list[torch.Tensor]]:
    """Return every source of the tape once for each draw, from torch's global generator.

    Parameters
    ----------
    tape : Tape
        What the model did.
    parameters : mapping of int to Parameter
        By the value of the tape.
    draws : int
        How many.

    Raises
    ------
    MissingRuleError
        If a tensor is on the meta device and no law says what it holds.
    """
    return {
        value: [_draw(tape, value, tensor, parameters.get(value)) for _ in range(draws)]
        for value, tensor in tape.sources.items()
    }


def _draw(
    tape: Tape, value: int, tensor: torch.Tensor, parameter: Parameter | None
) -> torch.Tensor:
    if parameter is not None and _is_redrawn(parameter):
        drawn = torch.empty_like(tensor, device=_place(tensor))
        _fill(drawn, parameter)
    elif not tensor.is_meta:
        drawn = tensor.detach().clone()
    elif value in tape.inputs and tensor.is_floating_point():
        drawn = torch.randn(tensor.shape, dtype=tensor.dtype, device="cpu")
    else:
        what = f"the parameter {parameter.module}.{parameter.name}" if parameter else "a buffer"
        raise MissingRuleError(f"{what} is on the meta device and has no numbers to draw from")
    return drawn.requires_grad_(tensor.requires_grad and drawn.is_floating_point())


def _place(tensor: torch.Tensor) -> torch.device:
    # As in the tracer: a model on the meta device makes its constants on the CPU.
    return torch.device("cpu") if tensor.is_meta else tensor.device


def _is_redrawn(parameter: Parameter) -> bool:
    """Tell whether a draw of the weights changes a parameter.

    Of a vector whose law is merely measured (the scales of a norm, frequencies, temperatures) the
    numbers that it holds say more than their mean and variance.
    """
    if parameter.law is None or not math.isfinite(parameter.law.variance):
        return False
    return parameter.drawn or parameter.tensor.dim() > 1 or parameter.tensor.is_meta


def _fill(drawn: torch.Tensor, parameter: Parameter) -> None:
    law = parameter.law
    assert law is not None
    if law.distribution in ("measured", "other"):
        drawn.normal_(law.mean, math.sqrt(law.variance))
    else:
        fill(drawn, law)
