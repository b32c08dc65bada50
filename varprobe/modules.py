"""How the parts of a model are named, and how to walk what goes in and comes out.

Names are those of ``named_modules()`` without the segments that wrappers insert, so that a model
and its compiled, checkpointed or distributed twin have the same sites.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import FrameType
from typing import Any, NamedTuple, cast

import torch
from torch import nn
from torch.nn.parameter import is_lazy as is_lazy

WRAPPER_SEGMENTS = frozenset({"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
"""Name segments that torch's own wrappers insert: compile, FSDP1, activation checkpointing."""

_RECLASSING_PACKAGES = ("torch.distributed.fsdp", "torch.distributed._composable")
"""Where the classes are from that ``fully_shard`` and ``replicate`` mix into a module's own."""

_PARALLEL = (nn.parallel.DistributedDataParallel, nn.DataParallel)

MAX_NESTING = 16
"""Depth at which the walk through an output structure stops: a cycle, not a structure."""

WEIGHTED = (
    nn.Linear,
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
)
"""The layers that have a fan-in and a variance law for their weight."""

Inputs = Any
"""A tensor, a tuple of positional arguments, or a mapping of keyword arguments."""

Loss = Callable[[Any], torch.Tensor]


class ModuleName(NamedTuple):
    """The name of a module, and the further names under which it is registered."""

    name: str
    aliases: tuple[str, ...] = ()


def name_modules(model: nn.Module) -> dict[nn.Module, ModuleName]:
    """Return the modules of ``model`` in the order of ``named_modules()``, each once.

    The first name wins, the others are aliases. A wrapper has the name of what it wraps, and only
    the wrapped module is returned. The modules that hold a parametrization are not part of the
    network's dataflow and have no name.
    """
    names: dict[nn.Module, list[str]] = {}
    for raw, module in model.named_modules(remove_duplicate=False):
        if "parametrizations" not in raw.split("."):
            names.setdefault(module, []).append(raw)
    # Asked of each class once: one of them is abstract, and slow to tell its instances.
    parallel = {kind for kind in {type(module) for module in names} if issubclass(kind, _PARALLEL)}
    wrapped = {
        f"{raw}.module" if raw else "module"
        for module, raws in names.items()
        if type(module) in parallel
        for raw in raws
    }
    cleaned = {module: [_clean(raw, wrapped) for raw in raws] for module, raws in names.items()}
    innermost = {first: module for module, (first, *_) in cleaned.items()}
    return {
        module: ModuleName(first, _list_aliases(first, rest) if rest else ())
        for module, (first, *rest) in cleaned.items()
        if innermost[first] is module
    }


def _list_aliases(first: str, rest: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for name in rest if name != first))


def _clean(raw: str, wrapped: set[str]) -> str:
    kept, path, segments = [], "", raw.split(".")
    if not wrapped and WRAPPER_SEGMENTS.isdisjoint(segments):
        return raw
    for segment in segments:
        path = f"{path}.{segment}" if path else segment
        if segment not in WRAPPER_SEGMENTS and path not in wrapped:
            kept.append(segment)
    return ".".join(kept)


def name_kind(module: nn.Module) -> str:
    """Return the class name of a module; that of the user's class where FSDP made a subclass."""
    kind: type[object] = type(module)
    if kind.__module__.startswith(_RECLASSING_PACKAGES):
        own = (c for c in kind.__mro__ if not c.__module__.startswith(_RECLASSING_PACKAGES))
        kind = next(own)
    return kind.__name__


def find_fully_sharded(model: nn.Module) -> set[int]:
    """Return the ids of the parameters that FSDP gathers and reduces, in either version."""
    return {
        id(parameter)
        for module in model.modules()
        if any(c.__module__.startswith(_RECLASSING_PACKAGES[0]) for c in type(module).__mro__)
        for parameter in module.parameters()
    }


def own_parameters(
    names: Mapping[nn.Module, str],
) -> Iterator[tuple[nn.Module, str, torch.nn.Parameter]]:
    """Yield each parameter once, with the first module that holds it."""
    seen: set[int] = set()
    for module in names:
        # As `named_parameters` has them, which takes four times as long.
        for name, parameter in module._parameters.items():
            if parameter is None or id(parameter) in seen:
                continue
            if not is_lazy(parameter):
                seen.add(id(parameter))
                yield module, name, parameter


def compute_fans(module: nn.Module) -> tuple[int, int] | None:
    """Return (fan_in, fan_out) of a Linear, ConvNd or ConvTransposeNd; None for other modules.

    fan_in counts the weights that feed one output element, fan_out those that one input element
    feeds (stride 1). With groups each counts its own group only, and a transposed convolution
    stores its weight as (in, out / groups, …): torch.nn.init sees neither.
    """
    if isinstance(module, nn.Linear):
        return module.in_features, module.out_features
    if not isinstance(module, WEIGHTED):
        return None
    convolution = cast("nn.Conv2d", module)  # the others have the same attributes
    window = math.prod(convolution.kernel_size)
    return (
        convolution.in_channels // convolution.groups * window,
        convolution.out_channels // convolution.groups * window,
    )


def walk_tensors(output: object) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield (path, tensor) for every tensor in an output structure.

    Looks into tuples, lists, mappings, dataclasses, named tuples and packed sequences. Generators
    and other iterables are left alone: to iterate them would run the user's code.
    """
    for path, tensor in _walk(output, (), frozenset()):
        yield ".".join(path), tensor


def list_tensors(output: object) -> list[tuple[str, torch.Tensor]]:
    """Return what `walk_tensors` yields."""
    # Most modules return one tensor: nothing to walk through.
    return [("", output)] if isinstance(output, torch.Tensor) else list(walk_tensors(output))


def collect_tensors(structure: object) -> list[torch.Tensor]:
    """Return the tensors that `walk_tensors` yields; quick where there is nothing to walk through.

    So it is with most modules, which take and return a tensor or a few.
    """
    if isinstance(structure, torch.Tensor):
        return [structure]
    if isinstance(structure, tuple) and all(isinstance(part, torch.Tensor) for part in structure):
        return list(structure)
    return [tensor for _, tensor in walk_tensors(structure)]


def hold_tensors(module: nn.Module) -> list[torch.Tensor]:
    """Return the parameters and buffers of a module itself, if they have a shape.

    As `parameters` and `buffers` have them, which take several times as long.
    """
    held = (*module._parameters.values(), *module._buffers.values())
    return [tensor for tensor in held if tensor is not None and not is_lazy(tensor)]


def _walk(
    value: object, path: tuple[str, ...], above: frozenset[int]
) -> Iterator[tuple[tuple[str, ...], torch.Tensor]]:
    if isinstance(value, torch.Tensor):
        yield path, value
        return
    if len(path) > MAX_NESTING or id(value) in above:
        return
    above = above | {id(value)}
    for key, child in _children(value):
        yield from _walk(child, (*path, key), above)


def _children(value: object) -> list[tuple[str, object]]:
    if isinstance(value, nn.utils.rnn.PackedSequence):
        return [("data", value.data)]
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return [(name, getattr(value, name)) for name in value._fields]
    if isinstance(value, tuple | list):
        return [(str(index), child) for index, child in enumerate(value)]
    if isinstance(value, Mapping):
        return [(str(key), value[key]) for key in list(value)]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = dataclasses.fields(value)
        return [(field.name, getattr(value, field.name, None)) for field in fields]
    return []


def split_inputs(
    inputs: Inputs, kwargs: Mapping[str, Any] | None = None
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return ``inputs`` as positional and keyword arguments for the model.

    Parameters
    ----------
    inputs : tensor, tuple or mapping
        A tensor, a tuple of positional arguments, or a mapping of keyword arguments.
    kwargs : mapping, optional
        Keyword arguments beside a tensor or a tuple.

    Raises
    ------
    TypeError
        If ``kwargs`` comes with a mapping.
    """
    if isinstance(inputs, Mapping):
        if kwargs:
            raise TypeError(
                "inputs is a mapping of keyword arguments already; put the contents of kwargs= "
                "into it, or give the inputs as a tensor or a tuple."
            )
        return (), dict(inputs)
    args = inputs if isinstance(inputs, tuple) else (inputs,)
    return args, dict(kwargs or {})


def name_method(frames: Iterable[FrameType]) -> str | None:
    """Return the first of these frames that runs a method of a module: "Class.method (line 7)"."""
    for frame in frames:
        code = frame.f_code
        first = frame.f_locals.get(code.co_varnames[0]) if code.co_varnames else None
        if isinstance(first, nn.Module) and hasattr(type(first), code.co_name):
            return f"{type(first).__name__}.{code.co_name} (line {frame.f_lineno})"
    return None
