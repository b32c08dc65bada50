"""LSUV: orthonormal weights, each layer then scaled until its output has unit variance.

Where no theory says what scale the weights need (gates, attention, reductions of one's own), the
data does: Mishkin and Matas 2016, "All you need is a good init" (arXiv 1511.06422), algorithm 1.
The paper runs the net once for each layer and step. Here each layer is scaled at the moment of its
first call, and the pass goes on with its new output: one pass does for all layers.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from varprobe.errors import (
    InvalidArgumentError,
    MissingRuleError,
    UnsupportedModelError,
    VarprobeWarning,
)
from varprobe.initializers.assignment import Assignment, assign
from varprobe.initializers.drawn import EMBEDDINGS, DrawnFromLaw, warn_of_left
from varprobe.initializers.laws import WeightLaw
from varprobe.initializers.scheme import Scheme, Settings
from varprobe.modules import WEIGHTED, split_inputs
from varprobe.observation.preservation import copy_inputs, preserved
from varprobe.observation.refusals import choose_stance
from varprobe.statistics import measure, read

TOLERANCE = 0.01
"""Departure of the variance from 1 that is close enough. A layer's output is linear in its weight,
so that one step is exact but for the rounding of the weights, below 1 % in bfloat16, too; only a
bias that was kept takes more. The paper's 0.1 would leave 0.9³⁰ = 0.04 over 30 layers."""

MAX_ITERATIONS = 10
"""Steps for each layer. The paper needs one to five; with a bias of variance above 1 none helps."""


class LayerSequentialUnitVariance(Scheme):
    """Draw orthonormal weights, and scale each layer on a batch in the order of execution."""

    def __init__(self, start: DrawnFromLaw) -> None:
        self._start = start

    def check(self, settings: Settings) -> None:
        """Raise InvalidArgumentError if there is no batch, or an option cannot mean anything."""
        _Options.read(settings)

    def apply(self, model: nn.Module, settings: Settings) -> None:
        """Draw, measure, scale; the model changes at the end, or not at all."""
        options = _Options.read(settings)
        if any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers())):
            raise UnsupportedModelError(
                "lsuv runs the model on its inputs, and on the meta device there are no numbers. "
                "Materialize the model first: model.to_empty(device=…)."
            )
        planned, left = self._start.plan(model, replace(settings, options={}))
        # Drawn aside, once, from the generators that the caller means.
        drawn = _draw_aside(model, planned)
        scales = _find_scales(model, drawn, options)
        assign([_rescale(a, scales.get(a.module, 1.0)) for a in drawn])
        warn_of_left(left)
        _warn_of_unscaled([a.label for a in drawn if _is_layer(a) and a.module not in scales])

    def law(self, module: nn.Module, parameter: str, settings: Settings) -> WeightLaw | None:  # noqa: ARG002
        """Raise MissingRuleError: the scale depends on the model and the batch."""
        raise MissingRuleError(
            f"What lsuv makes of {parameter} of {type(module).__name__} depends on the whole model "
            "and the inputs. Initialize the model, and predict with init=None."
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Options:
    """What the initialization is given beside the settings that all share."""

    inputs: Any
    kwargs: Mapping[str, Any] | None = None
    tolerance: float = TOLERANCE
    max_iterations: int = MAX_ITERATIONS

    @classmethod
    def read(cls, settings: Settings) -> _Options:
        try:
            options = cls(**settings.options)  # type: ignore[arg-type]  # a wrong type fails below
        except TypeError:
            given = ", ".join(settings.options) or "none"
            raise InvalidArgumentError(
                "lsuv measures the layers on a batch: initialize(model, 'lsuv', inputs=batch). Its "
                f"options are inputs, kwargs, tolerance and max_iterations; given: {given}."
            ) from None
        if options.inputs is None:
            raise InvalidArgumentError("lsuv measures the layers on a batch, and inputs is None.")
        if not 0.0 < options.tolerance < 1.0:
            raise InvalidArgumentError(
                f"tolerance={options.tolerance}: a departure from variance 1 is between 0 and 1."
            )
        if options.max_iterations < 1:
            raise InvalidArgumentError(
                f"max_iterations={options.max_iterations}: it takes one step at least."
            )
        return options


def _find_scales(
    model: nn.Module, drawn: list[Assignment], options: _Options
) -> dict[nn.Module, float]:
    """Return the factor for the weight of each layer that the model calls; leave no trace."""
    layers = {a.module: a for a in drawn if _is_layer(a)}
    scales: dict[nn.Module, float] = {}

    def scale(
        module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: torch.Tensor
    ) -> torch.Tensor | None:
        if module in scales:
            return None  # a second call has the weight of the first
        scales[module] = 1.0
        for _ in range(options.max_iterations):
            variance = _measure_variance(output, layers[module].label)
            if abs(variance - 1.0) <= options.tolerance:
                return output
            scales[module] /= math.sqrt(variance)
            assign([_rescale(layers[module], scales[module])])
            output = module.forward(*args, **kwargs)
        reached = _measure_variance(output, layers[module].label)
        if abs(reached - 1.0) <= options.tolerance:
            return output
        raise UnsupportedModelError(
            f"{layers[module].label}: after {options.max_iterations} steps its output has variance "
            f"{reached:.3g}, not 1 ± {options.tolerance:g}; nothing was changed. A bias that is "
            "kept may have more than that by itself: pass bias=0.0, a larger tolerance or more "
            "max_iterations."
        )

    args, kwargs = copy_inputs(split_inputs(options.inputs, options.kwargs))
    with choose_stance(model, "eager"), preserved(model), _hooked(layers, scale):
        assign(drawn)
        model(*args, **kwargs)
    if layers and not scales:
        raise UnsupportedModelError(
            f"None of the {len(layers)} layers was called on these inputs, so none has an output "
            "to scale; nothing was changed. Weights that are used as functions use them are out "
            "of reach: initialize them by a law, for example 'orthogonal'."
        )
    return scales


@contextmanager
def _hooked(modules: Mapping[nn.Module, object], hook: Callable[..., object]) -> Iterator[None]:
    with ExitStack() as stack:
        for module in modules:
            # Before the user's own hooks: they see the scaled output.
            handle = module.register_forward_hook(hook, prepend=True, with_kwargs=True)
            stack.callback(handle.remove)
        yield


def _is_layer(assignment: Assignment) -> bool:
    return assignment.parameter == "weight" and isinstance(
        assignment.module, (*WEIGHTED, *EMBEDDINGS)
    )


def _draw_aside(model: nn.Module, planned: list[Assignment]) -> list[Assignment]:
    """Return assignments that write what was drawn now."""
    with preserved(model):  # a parametrization may change its state when its weight is read
        drawn = [torch.empty_like(getattr(a.module, a.parameter)) for a in planned]
    for assignment, values in zip(planned, drawn, strict=True):
        assignment.fill(values)
    return [replace(a, fill=_copier(values)) for a, values in zip(planned, drawn, strict=True)]


def _copier(value: torch.Tensor) -> Callable[[torch.Tensor], None]:
    def copy_into(tensor: torch.Tensor) -> None:
        tensor.copy_(value)

    return copy_into


def _rescale(assignment: Assignment, scale: float) -> Assignment:
    """Return the assignment of a weight times a factor; that of a bias as it is."""
    if not _is_layer(assignment):
        return assignment

    def fill(tensor: torch.Tensor) -> None:
        assignment.fill(tensor)
        tensor.mul_(scale)

    return replace(assignment, fill=fill)


def _measure_variance(output: torch.Tensor, label: str) -> float:
    moments = read(measure(output, full=False)).moments
    if moments.nonfinite:
        raise UnsupportedModelError(
            f"{label}: {moments.nonfinite} of {moments.numel} elements of its output are not "
            "finite, so there is nothing to scale; nothing was changed. Look at the inputs, and at "
            "what the model computes before."
        )
    if not moments.variance > 0.0:
        raise UnsupportedModelError(
            f"{label}: its output does not vary on these inputs ({moments.numel} elements, all "
            "equal), so no factor gives it variance 1; nothing was changed. Pass a batch of "
            "different samples."
        )
    return moments.variance


def _warn_of_unscaled(labels: list[str]) -> None:
    if labels:
        warnings.warn(
            f"Orthonormal, but not scaled, since their modules were not called on these inputs: "
            f"{', '.join(labels)}.",
            VarprobeWarning,
            stacklevel=4,
        )
