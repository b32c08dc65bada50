"""The laws of a model's parameters: drawn by an initialization or a constructor, or measured."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import nn

from varprobe.errors import MissingRuleError, UnknownNameError
from varprobe.initializers import law_of
from varprobe.initializers.laws import WeightLaw
from varprobe.modules import name_modules
from varprobe.theory.subject import Initialization, Subject


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter, the module that owns it, and its law.

    Parameters
    ----------
    module, kind : str
        Name and class of the module that owns it.
    name : str
        Its name there.
    tensor : nn.Parameter
        The parameter.
    law : WeightLaw or None
        What its elements are drawn from; None if that is not known.
    drawn : bool
        Whether the law is that of a draw, rather than of the numbers that the parameter has.
    reason : str
        Why the law of its draw could not be told, if it could not.
    """

    module: str
    kind: str
    name: str
    tensor: nn.Parameter
    law: WeightLaw | None
    drawn: bool
    reason: str = ""


def replace_laws(parameters: Iterable[Parameter], laws: Mapping[str, WeightLaw]) -> list[Parameter]:
    """Return the parameters, some with other laws, by their full names.

    Raises
    ------
    UnknownNameError
        If there is no parameter of a name.
    """
    known = {f"{p.module}.{p.name}" if p.module else p.name: p for p in parameters}
    for name, law in laws.items():
        if name not in known:
            raise UnknownNameError.among("parameter", name, known)
        known[name] = replace(known[name], law=law, drawn=True, reason="")
    return list(known.values())


def read_parameters(subject: Subject, init: Initialization | None) -> Iterator[Parameter]:
    """Yield every parameter once, for the first module that owns it."""
    names = {id(p): n for n, p in subject.model.named_parameters(remove_duplicate=False)}
    seen: set[int] = set()
    for module, known in name_modules(subject.model).items():
        for name, tensor in module._parameters.items():
            if tensor is None or id(tensor) in seen:
                continue
            seen.add(id(tensor))
            full = names[id(tensor)]
            law = subject.laws.get(full)
            reason = "" if law is not None else subject.find_reason(full)
            if reason:
                law = _name_law(_list_candidates(subject, tensor, init), module, name)
            drawn = law is not None
            if law is None and tensor.is_floating_point() and not tensor.is_meta:
                law = measure_law(tensor)
            yield Parameter(known.name, type(module).__name__, name, tensor, law, drawn, reason)


def _list_candidates(
    subject: Subject, tensor: nn.Parameter, init: Initialization | None
) -> list[Initialization]:
    """Return what a parameter may be drawn by that could not be followed, the last word first."""
    candidates = [] if init is None else [init]
    if tensor.is_meta and subject.stopped:
        candidates.append("default")
    return candidates


def _name_law(candidates: list[Initialization], module: nn.Module, name: str) -> WeightLaw | None:
    """Return the law by the first initialization that draws the parameter."""
    for init in candidates:
        try:
            law = law_of(init, module, name)
        except MissingRuleError:
            return None
        if law is not None:
            return law
    return None


def measure_law(tensor: torch.Tensor) -> WeightLaw:
    """Return mean and variance of a tensor's elements, as the law "measured"."""
    values = tensor.detach().double()
    mean = float(values.mean())
    variance = float(values.var(correction=0))
    if variance <= 1e-24 * mean * mean:
        return WeightLaw.constant(mean)
    kurtosis = float((values - mean).pow(4).mean()) / variance**2 if variance else 1.0
    return WeightLaw("measured", mean, variance, kurtosis)
