"""The model that is predicted, and what is known of the draws of its parameters."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import nn

from varprobe.errors import (
    InvalidArgumentError,
    UnknownNameError,
    UnsupportedModelError,
    VarprobeWarning,
)
from varprobe.initializers import initialize
from varprobe.initializers.capture import capture_construction, capture_draw
from varprobe.initializers.laws import WeightLaw
from varprobe.modules import name_modules

MOST_BUILT = 100_000_000
"""Parameters up to which a model is built for the sake of those whose law has to be measured."""

Initialization = str | Callable[[nn.Module], object]
Build = Callable[[], nn.Module]


@dataclass(frozen=True, slots=True)
class Subject:
    """A model, with the laws that its own code, or an initialization, draws parameters from.

    Parameters
    ----------
    model : nn.Module
        The model, perhaps without numbers.
    laws : mapping of str to WeightLaw
        By the names of ``model.named_parameters()``; where there is none, the model's numbers are
        what is known.
    reasons : mapping of str to str
        Of parameters that were drawn, why their law could not be told. Under "" what stopped the
        code altogether.
    build : callable or None
        What builds the model with numbers, if it has none so far.
    """

    model: nn.Module
    laws: Mapping[str, WeightLaw] = field(default_factory=dict)
    reasons: Mapping[str, str] = field(default_factory=dict)
    build: Build | None = None

    def materialize(self) -> Subject | None:
        """Return the same with a model that is built with numbers; None if that is no way out."""
        size = sum(parameter.numel() for parameter in self.model.parameters())
        if self.build is None or size > MOST_BUILT:
            return None
        return Subject(_build(self.build), self.laws, self.reasons)

    @property
    def stopped(self) -> bool:
        """Whether the code could not be followed to its end, so that it told nothing."""
        return "" in self.reasons

    def find_reason(self, parameter: str) -> str:
        """Return why the law of a parameter could not be told, "" if there is no reason."""
        return self.reasons.get(parameter, self.reasons.get("", ""))


def take(model: nn.Module | Build, init: Initialization | None) -> Subject:
    """Return the subject that a model, or a function that builds one, stands for.

    What ``init`` draws comes before what the function draws, and that before numbers. The function
    is followed without numbers; the model is built with them where something cannot be told
    otherwise.

    Raises
    ------
    UnknownNameError, InvalidArgumentError
        If ``init`` is no initialization.
    UnsupportedModelError
        If the function returns no module, or looks at numbers that it draws and yet returns a
        model without numbers.
    """
    return _take_model(model, init) if isinstance(model, nn.Module) else _take_build(model, init)


def _take_build(build: Build, init: Initialization | None) -> Subject:
    def construct() -> nn.Module:
        model = build()
        if init is not None and isinstance(model, nn.Module):
            _draw(model, init)
        return model

    try:
        captured = capture_construction(construct)
    except (UnknownNameError, InvalidArgumentError):
        raise
    except Exception as error:
        # Whatever a constructor may do with numbers. If it is wrong, it says so once more.
        return Subject(_build_instead(build, error), reasons={"": _first_line(error)})
    empty = _list_empty(captured.model)
    laws = {
        name: law
        for name, law in captured.laws.items()
        # Numbers that the model holds say more than their moments.
        if law is not None and (law.distribution != "measured" or init or name in empty)
    }
    subject = Subject(captured.model, laws, captured.reasons, build)
    return (subject.materialize() or subject) if _needs_numbers(captured.model, laws) else subject


def _needs_numbers(model: nn.Module, laws: Mapping[str, WeightLaw]) -> bool:
    """Return whether something without numbers is not told by laws of parameters.

    That may be a parameter, one in a parametrization, which no row speaks of, or a buffer.
    """
    listed = {id(p) for module in name_modules(model) for p in module.parameters(recurse=False)}
    return any(buffer.is_meta for buffer in model.buffers()) or any(
        parameter.is_meta and not (name in laws and id(parameter) in listed)
        for name, parameter in model.named_parameters(remove_duplicate=False)
    )


def _take_model(model: nn.Module, init: Initialization | None) -> Subject:
    everything = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    steps: list[tuple[Initialization, set[str]]] = []
    if empty := _list_empty(model):
        steps.append(("default", empty))
    if init is not None:
        steps.append((init, everything))
    laws: dict[str, WeightLaw] = {}
    reasons: dict[str, str] = {}
    for initialization, names in steps:
        try:
            captured = capture_draw(model, partial(_draw, init=initialization))
        except (UnknownNameError, InvalidArgumentError):
            raise
        except Exception as error:
            # Modules that cannot be copied, or drawn without numbers.
            return Subject(model, reasons={"": _first_line(error)})
        for name in names:
            law, reason = captured.laws[name], captured.reasons.get(name)
            if law is not None:
                laws[name] = law
            elif reason is not None:
                laws.pop(name, None)
                reasons[name] = reason
    return Subject(model, laws, reasons)


def _draw(model: nn.Module, init: Initialization) -> None:
    with warnings.catch_warnings():
        # Of weights that the initialization leaves alone: they keep what was drawn before.
        warnings.simplefilter("ignore", VarprobeWarning)
        initialize(model, init)


def _build(build: Build) -> nn.Module:
    """Return the model that a function builds, as it builds it; the random state is kept."""
    with torch.random.fork_rng(devices=()):
        built = build()
    if not isinstance(built, nn.Module):
        raise UnsupportedModelError(
            f"The function that should build a model returned a {type(built).__name__}, "
            "not a torch.nn.Module."
        )
    return built


def _build_instead(build: Build, error: Exception) -> nn.Module:
    """Return the model with numbers, since it could not be followed without; or say why not."""
    named = isinstance(error, UnsupportedModelError)
    try:
        built = _build(build)
    except Exception as failure:
        if named:
            raise error from failure
        raise
    if named and _list_empty(built):
        raise error
    return built


def _list_empty(model: nn.Module) -> set[str]:
    """Return the names of the parameters that have no numbers."""
    return {n for n, p in model.named_parameters(remove_duplicate=False) if p.is_meta}


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
