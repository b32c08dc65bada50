"""What an experiment is about: a model, its inputs, its loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from varprobe.cli.commands import Failure
from varprobe.cli.inputs import InputSpec, draw_inputs
from varprobe.cli.targets import Target, load_target

if TYPE_CHECKING:
    from torch import nn

    from varprobe.reporting import Source


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What `varprobe.profile`, `predict`, `check` and `compare` start from, and its source."""

    model: nn.Module | Callable[[], nn.Module]
    inputs: Any
    loss: Any
    source: Source


def load_subject(
    spec: str, specs: Sequence[InputSpec], *, seed: int, meta: bool = False
) -> Subject:
    """Return the model that TARGET names, with the inputs asked for or else with its own.

    With ``meta``, both are on the meta device, where tensors have no numbers.

    Raises
    ------
    Failure
        If the target cannot be had, or there are no inputs.
    """
    target, inputs = load_with_inputs(spec, specs, seed=seed, meta=meta)
    if inputs is None:
        raise Failure(
            f"TARGET {spec!r} brings no inputs. Add their shape, for example --input 32,3,224,224, "
            "or let it return (model, inputs)."
        )
    return Subject(model=target.model, inputs=inputs, loss=target.loss, source=target.source)


def load_with_inputs(
    spec: str, specs: Sequence[InputSpec], *, seed: int, meta: bool = False
) -> tuple[Target, Any]:
    """Return what TARGET names, and the inputs asked for, or else its own; None if it has none."""
    import torch

    # For a target that draws weights or inputs while it is imported or called.
    torch.manual_seed(seed)
    target = load_target(spec, meta=meta)
    if not specs:
        return target, target.inputs
    device = next((p.device for p in target.sample.parameters()), torch.device("cpu"))
    device = torch.device("meta") if meta else device
    return target, draw_inputs(specs, seed=seed, device=device)
