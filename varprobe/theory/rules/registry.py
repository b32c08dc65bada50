"""Where rules are filed, and how one is found for an operation."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, TypeVar

from torch import nn
from torch._ops import OpOverload

from varprobe.registry import Registry

Rule = Callable[..., Any]
RuleT = TypeVar("RuleT", bound=Rule)
Target = Hashable
"""An aten operation (one overload, or all of its name) or a module class."""

RULES: Registry[Target, Rule] = Registry("rule of theory")
"""Rules by aten operation (one overload, or all) and by module class."""


def rule(*targets: Target, overwrite: bool = False) -> Callable[[RuleT], RuleT]:
    """Register a rule of theory for operations or module classes.

    A rule is called like the operation, with the laws of its tensors in their place (see
    `varprobe.theory.law`), and returns the law of the output, or a `Step` that also says how
    gradients go back. To return an argument itself says that the output is that tensor. The rule of
    a module class is called with the module first and replaces all that happens inside it.

    Parameters
    ----------
    *targets : operation or subclass of torch.nn.Module
        For example ``torch.ops.aten.relu`` or ``torch.ops.aten.add.Tensor``.
    overwrite : bool
        Replace a rule that exists.

    Raises
    ------
    DuplicateNameError
        If there is a rule already.

    Examples
    --------
    >>> from torch import nn
    >>> from varprobe.theory.rules import rule
    >>> class Checkpoint(nn.Identity):
    ...     pass
    >>> @rule(Checkpoint)
    ... def checkpoint(module, x):
    ...     return x
    """
    return RULES.register(*targets, overwrite=overwrite)  # type: ignore[return-value]


def find_rule(op: OpOverload) -> Rule | None:
    """Return the rule of an overload, else of all overloads of its name."""
    return RULES.get(op) or RULES.get(op.overloadpacket)


def find_module_rule(module: nn.Module) -> Rule | None:
    """Return the rule of the nearest class in the module's family."""
    for family in type(module).__mro__:
        found = RULES.get(family)
        if found is not None:
            return found
    return None
