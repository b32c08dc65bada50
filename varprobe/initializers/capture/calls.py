"""A call of an aten operation, and how to run it again on other tensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.utils import _pytree as pytree


@dataclass(frozen=True, slots=True)
class Call:
    """An operation with its arguments, to be run again on others.

    Attributes
    ----------
    read : sequence of Tensor
        The tensors among the arguments.
    targets : sequence of Tensor
        What it writes or makes.
    """

    func: OpOverload
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    read: Sequence[Tensor]
    targets: Sequence[Tensor]

    @property
    def has_out(self) -> bool:
        """Whether it is told where to write, and does not read what is there."""
        return "out" in self.kwargs

    @property
    def operands(self) -> list[Tensor]:
        """The tensors that it reads, each once."""
        out = self.kwargs.get("out")
        return list({id(t): t for t in self.read if t is not out}.values())

    def run(self, values: Sequence[Tensor], **changed: Any) -> Any:
        """Run it with a value in the place of each operand."""
        places = {id(t): value for t, value in zip(self.operands, values, strict=True)}

        def find(leaf: Any) -> Any:
            if isinstance(leaf, torch.device):
                return torch.device("cpu")
            return places[id(leaf)] if isinstance(leaf, Tensor) else leaf

        kwargs = {key: value for key, value in self.kwargs.items() if key != "out"}
        args, kwargs = pytree.tree_map(find, (self.args, kwargs))
        # With `out` the overload is another one, which the name resolves.
        func = self.func.overloadpacket if self.has_out or changed else self.func
        return func(*args, **{**kwargs, **changed})

    def compute(self, *values: Tensor) -> Tensor:
        """Run it on float64 nodes of its operands, which stay as they are."""
        typed = [
            value.clone() if tensor.is_floating_point() else value.to(tensor.dtype)
            for value, tensor in zip(values, self.operands, strict=True)
        ]
        changed = {"dtype": torch.float64} if self.kwargs.get("dtype") is not None else {}
        result: Tensor = self.run(typed, **changed)
        return result


def name_arguments(
    func: OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> dict[str, Any]:
    """Return all arguments of a call by name, the defaults included."""
    arguments = func._schema.arguments
    defaults = {a.name: a.default_value for a in arguments if a.has_default_value()}
    named = {a.name: value for a, value in zip(arguments, args, strict=False)}
    return {**defaults, **named, **kwargs}


def find_written(func: OpOverload, given: Mapping[str, Any]) -> Iterator[Tensor]:
    """Yield the tensors that an operation writes to."""
    for argument in func._schema.arguments:
        if argument.alias_info is not None and argument.alias_info.is_write:
            yield from (t for t in pytree.tree_leaves(given[argument.name]) if t is not None)
