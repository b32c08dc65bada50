"""The user's own initialization: a callable(module) that sets whatever it wants."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import nn

from varprobe.errors import MissingRuleError
from varprobe.initializers.laws import WeightLaw
from varprobe.initializers.scheme import Scheme, Settings, refuse_options
from varprobe.initializers.seeding import seeded

ModuleFunction = Callable[[nn.Module], object]
"""Called with every module, children before parents, as by ``nn.Module.apply``."""


class CallPerModule(Scheme):
    """Call a function with every module of a model."""

    def __init__(self, function: ModuleFunction) -> None:
        self._function = function

    def check(self, settings: Settings) -> None:
        """Raise InvalidArgumentError on any option."""
        refuse_options(settings, "An initialization that is a callable(module)")

    def apply(self, model: nn.Module, settings: Settings) -> None:  # noqa: ARG002
        """Call the function as ``model.apply`` does."""
        model.apply(self._function)  # type: ignore[arg-type]  # what it returns is ignored

    def law(self, module: nn.Module, parameter: str, settings: Settings) -> WeightLaw | None:  # noqa: ARG002
        """Return the law that one draw on a copy of ``module`` shows."""
        return measure(self._function, module, parameter)


def measure(draw: ModuleFunction, module: nn.Module, parameter: str) -> WeightLaw | None:
    """Return the moments of ``parameter`` after ``draw(copy of module)``; None if untouched.

    Raises
    ------
    MissingRuleError
        If the parameter is on the meta device and there is nothing to measure.
    """
    # To read a parametrized weight of the module itself could change its state.
    module = copy.deepcopy(module)
    if getattr(module, parameter).is_meta:
        raise MissingRuleError(
            f"The law of {parameter} of {type(module).__name__} can only be measured, and on the "
            "meta device there are no numbers. Build the module on the cpu."
        )
    drawn = _redraw_copy(draw, module, parameter, blank=False)
    if drawn is None and _redraw_copy(draw, module, parameter, blank=True) is None:
        return None
    values = getattr(module, parameter) if drawn is None else drawn
    return _measured(values.detach().double())


def _redraw_copy(
    draw: ModuleFunction, module: nn.Module, parameter: str, *, blank: bool
) -> torch.Tensor | None:
    """Return the parameter of a copy after the draw, None if it is what it was before.

    From the module's own values a draw that writes these very values goes unnoticed; ``blank``
    starts from others.
    """
    with seeded(module, 0), torch.no_grad():
        twin = copy.deepcopy(module)
        if blank:
            for tensor in twin.parameters():
                tensor.fill_(0.5)
        before: torch.Tensor = getattr(twin, parameter).clone()
        draw(twin)
        after: torch.Tensor = getattr(twin, parameter)
    return None if torch.equal(before, after) else after


def _measured(values: torch.Tensor) -> WeightLaw:
    if bool((values == values.flatten()[0]).all()):
        return WeightLaw.constant(values.flatten()[0].item())
    mean = values.mean()
    deviation = values - mean
    variance = deviation.square().mean().item()
    kurtosis = deviation.pow(4).mean().item() / variance**2
    return WeightLaw("measured", mean.item(), variance, kurtosis)
