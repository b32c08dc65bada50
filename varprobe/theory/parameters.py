"""The laws of a model's parameters: named by an initialization, or measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import nn

from varprobe.errors import MissingRuleError, UnknownNameError, UnsupportedModelError
from varprobe.initializers import law_of
from varprobe.initializers.laws import WeightLaw
from varprobe.modules import name_modules

MOST_BUILT = 100_000_000
"""Parameters up to which a model is built for the sake of those whose law has to be measured."""

Initialization = str | Callable[[nn.Module], object]


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter, the module that owns it, and its law."""

    module: str
    kind: str
    name: str
    tensor: nn.Parameter
    law: WeightLaw | None
    named: bool


def build_model(
    model: nn.Module | Callable[[], nn.Module], init: Initialization | None
) -> nn.Module:
    """Return the model; a function that builds one builds on the meta device if that is enough.

    Raises
    ------
    UnsupportedModelError
        If it does not return a module.
    """
    if isinstance(model, nn.Module):
        return model
    with torch.random.fork_rng(devices=()):
        built = _build_on_meta(model, init) if isinstance(init, str) else None
        built = model() if built is None else built
    if not isinstance(built, nn.Module):
        raise UnsupportedModelError(
            f"The function that should build a model returned a {type(built).__name__}, "
            "not a torch.nn.Module."
        )
    return built


def _build_on_meta(build: Callable[[], nn.Module], init: str) -> nn.Module | None:
    """Return a model without numbers, or None if its numbers are needed."""
    try:
        with torch.device("meta"):
            built = build()
        size = sum(parameter.numel() for parameter in built.parameters())
    except (RuntimeError, NotImplementedError, TypeError, ValueError, AttributeError):
        # The constructor looks at its own numbers, or makes no module at all.
        return None
    if size > MOST_BUILT or all(p.law is not None for p in read_parameters(built, init)):
        return built
    return None


def read_parameters(
    model: nn.Module,
    init: Initialization | None,
    laws: Mapping[str, WeightLaw] = MappingProxyType({}),
) -> Iterator[Parameter]:
    """Yield every parameter once, for the first module that owns it; ``laws`` come first.

    Raises
    ------
    UnknownNameError
        If a law is given to a parameter that the model does not have.
    """
    seen: set[int] = set()
    given = dict(laws)
    for module, known in name_modules(model).items():
        for name, tensor in module._parameters.items():
            if tensor is None or id(tensor) in seen:
                continue
            seen.add(id(tensor))
            law = given.pop(f"{known.name}.{name}" if known.name else name, None)
            if law is None and init is not None:
                law = _name_law(init, module, name)
            named = law is not None
            if law is None:
                law = _fall_back(module, name, tensor)
            yield Parameter(known.name, type(module).__name__, name, tensor, law, named)
    if given:
        names = [name for name, _ in model.named_parameters()]
        raise UnknownNameError.among("parameter", next(iter(given)), names)


def _name_law(init: Initialization, module: nn.Module, name: str) -> WeightLaw | None:
    try:
        return law_of(init, module, name)
    except MissingRuleError:
        return None


def _fall_back(module: nn.Module, name: str, tensor: torch.Tensor) -> WeightLaw | None:
    if not tensor.is_floating_point():
        return None
    if tensor.is_meta:
        # What the initialization leaves alone is as the constructor made it.
        return _name_law("default", module, name)
    return measure_law(tensor)


def measure_law(tensor: torch.Tensor) -> WeightLaw:
    """Return mean and variance of a tensor's elements, as the law "measured"."""
    values = tensor.detach().double()
    mean = float(values.mean())
    variance = float(values.var(correction=0))
    if variance <= 1e-24 * mean * mean:
        return WeightLaw.constant(mean)
    kurtosis = float((values - mean).pow(4).mean()) / variance**2 if variance else 1.0
    return WeightLaw("measured", mean, variance, kurtosis)
