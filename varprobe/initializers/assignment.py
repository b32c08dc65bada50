"""Write drawn values into the parameters of a model: all of them, or none.

A parameter may be an ordinary one, or be computed by ``torch.nn.utils.parametrize``; then the
value goes through the parametrization's own inverse and is read back. What comes back must be what
was drawn: spectral_norm, for one, rescales it, and a weight of another variance than the law says
would be silently wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.utils import parametrize

from varprobe.errors import UnsupportedModelError
from varprobe.modules import name_modules

HOOK_MODULES = frozenset(
    f"torch.nn.utils.{name}" for name in ("weight_norm", "spectral_norm", "prune")
)
"""Where the hooks live that recompute a weight before each forward and so undo what is written."""

READ_BACK_ULPS = 32
"""How far, in units of the dtype's precision at the largest weight, a parametrization may round."""


@dataclass(frozen=True, slots=True)
class Assignment:
    """One parameter, and what fills it in place."""

    module: nn.Module
    parameter: str
    label: str
    fill: Callable[[torch.Tensor], None]


def own_parameters(module: nn.Module) -> list[str]:
    """Return the names of the parameters of ``module`` itself, parametrized ones included."""
    plain = [name for name, _ in module.named_parameters(recurse=False)]
    return [*plain, *_parametrized(module)]


def dotted(module_name: str, parameter: str) -> str:
    """Return the name of a parameter as in ``named_parameters()``."""
    return f"{module_name}.{parameter}" if module_name else parameter


def require_materialized(model: nn.Module) -> None:
    """Raise UnsupportedModelError if a lazy module has not seen an input yet."""
    for module, module_name in name_modules(model).items():
        for name, parameter in module.named_parameters(recurse=False):
            if nn.parameter.is_lazy(parameter):
                raise UnsupportedModelError(
                    f"{dotted(module_name.name, name)} belongs to a lazy module and has no shape "
                    "yet, so it cannot be drawn. Run the model once on a batch (under "
                    "torch.no_grad()), then initialize it."
                )


def require_lasting(module: nn.Module, name: str) -> None:
    """Raise UnsupportedModelError if a hook recomputes a weight of ``module`` from others."""
    for hook in module._forward_pre_hooks.values():
        home = type(hook).__module__
        if home in HOOK_MODULES:
            raise UnsupportedModelError(
                f"A forward hook of {home} recomputes a weight of {name or 'the model'!r} before "
                "each call, so a value written to it would not last. Remove it before "
                "initializing and apply it again after, or use torch.nn.utils.parametrizations."
            )


def assign(assignments: Sequence[Assignment]) -> None:
    """Fill each parameter in place.

    Raises
    ------
    UnsupportedModelError
        If a parametrization does not give back what was written; nothing has changed then.
    """
    computed = [a for a in assignments if a.parameter in _parametrized(a.module)]
    undo: list[Callable[[], object]] = []
    try:
        for assignment in computed:
            undo.append(_remember(assignment))
            _write_through(assignment)
    except BaseException:
        for restore in reversed(undo):
            restore()
        raise
    for assignment in assignments:
        if assignment.parameter in assignment.module._parameters:
            assignment.fill(getattr(assignment.module, assignment.parameter))


def _parametrized(module: nn.Module) -> list[str]:
    if not parametrize.is_parametrized(module):
        return []
    lists = module.parametrizations
    assert isinstance(lists, nn.ModuleDict)
    return list(lists)


def _remember(assignment: Assignment) -> Callable[[], object]:
    lists = assignment.module.parametrizations
    assert isinstance(lists, nn.ModuleDict)
    chain = lists[assignment.parameter]
    saved = {name: value.clone() for name, value in chain.state_dict().items()}
    return lambda: chain.load_state_dict(saved)


def _write_through(assignment: Assignment) -> None:
    module, parameter, label = assignment.module, assignment.parameter, assignment.label
    drawn = torch.empty_like(getattr(module, parameter))
    assignment.fill(drawn)
    try:
        setattr(module, parameter, drawn)
    except (RuntimeError, NotImplementedError, ValueError) as error:
        raise UnsupportedModelError(f"{_cannot_hold(label)} ({error})") from error
    if drawn.is_meta or drawn.numel() == 0:
        return
    tolerance = READ_BACK_ULPS * torch.finfo(drawn.dtype).eps * drawn.abs().amax()
    if not bool(((getattr(module, parameter) - drawn).abs() <= tolerance).all()):
        raise UnsupportedModelError(_cannot_hold(label))


def _cannot_hold(label: str) -> str:
    return (
        f"{label} is parametrized, and its parametrization does not give back the value that was "
        "drawn for it; nothing was changed. Remove it with "
        "torch.nn.utils.parametrize.remove_parametrizations, initialize, and register it again."
    )
