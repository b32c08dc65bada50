"""Functions that draw a tensor in a way that no single operation shows.

Rejection, a QR factorization, shuffled rows: while a model is recorded these functions say what
they draw from instead of drawing. Others hold them by name, in tables and in partial functions;
what all of these share is the code of the function, and so it is the code that is exchanged.
"""

from __future__ import annotations

import inspect
import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import FunctionType
from typing import Any, Protocol, cast

import torch

from varprobe.initializers import sampling
from varprobe.initializers.capture.elements import (
    Element,
    constant,
    mix,
    normal,
    orthogonal,
    truncated_normal,
    uniform,
)
from varprobe.initializers.laws import TRUNCATED_VARIANCE, TRUNCATION, WeightLaw


class Listener(Protocol):
    """Who is told what a function would have drawn."""

    def follows(self, tensor: torch.Tensor) -> bool:
        """Return whether the tensor is to be described rather than drawn."""

    def new_source(self) -> int:
        """Return the number of a draw that nothing before depends on."""

    def assume(self, tensor: torch.Tensor, content: Element) -> None:
        """Let all elements of a tensor be what ``content`` says."""


_LISTENER: ContextVar[Listener | None] = ContextVar("listener", default=None)
_LOCK = threading.RLock()
"""One recording at a time; other threads go on and draw what they always drew."""


# What is put in the place of each function's code. It runs among the globals of that function, and
# takes any arguments, so that the defaults of the function do not matter.
def _truncated(*args: Any, **kwargs: Any) -> Any:
    from varprobe.initializers.capture.samplers import divert

    return divert("truncated", args, kwargs)


def _orthogonal(*args: Any, **kwargs: Any) -> Any:
    from varprobe.initializers.capture.samplers import divert

    return divert("orthogonal", args, kwargs)


def _sparse(*args: Any, **kwargs: Any) -> Any:
    from varprobe.initializers.capture.samplers import divert

    return divert("sparse", args, kwargs)


def _law(*args: Any, **kwargs: Any) -> Any:
    from varprobe.initializers.capture.samplers import divert

    return divert("law", args, kwargs)


def _copy(function: FunctionType) -> FunctionType:
    return FunctionType(
        function.__code__, function.__globals__, function.__name__, function.__defaults__
    )


_DIVERTED = {
    "truncated": (cast(FunctionType, torch.nn.init._no_grad_trunc_normal_), _truncated),
    "orthogonal": (cast(FunctionType, torch.nn.init.orthogonal_), _orthogonal),
    "sparse": (cast(FunctionType, torch.nn.init.sparse_), _sparse),
    "law": (cast(FunctionType, sampling._draw), _law),
}
_ORIGINALS = {name: _copy(function) for name, (function, _) in _DIVERTED.items()}


@contextmanager
def diverted(listener: Listener) -> Iterator[None]:
    """Have the functions tell ``listener`` what they would draw, in this thread."""
    with _LOCK:
        before = {name: function.__code__ for name, (function, _) in _DIVERTED.items()}
        token = _LISTENER.set(listener)
        try:
            for function, replacement in _DIVERTED.values():
                function.__code__ = replacement.__code__
            yield
        finally:
            _LISTENER.reset(token)
            for name, (function, _) in _DIVERTED.items():
                function.__code__ = before[name]


def divert(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Describe what a function draws if its tensor is followed, draw it if not."""
    original, listener = _ORIGINALS[name], _LISTENER.get()
    given = inspect.signature(original).bind(*args, **kwargs)
    given.apply_defaults()
    tensor = given.arguments["tensor"]
    refused = name in ("orthogonal", "sparse") and tensor.dim() < 2
    if listener is None or refused or not listener.follows(tensor):
        return original(*args, **kwargs)
    options = {key: value for key, value in given.arguments.items() if key != "generator"}
    listener.assume(tensor, _DESCRIPTIONS[name](listener.new_source(), **options))
    return tensor


def _describe_truncated(
    source: int, tensor: torch.Tensor, mean: float, std: float, a: float, b: float
) -> Element:
    return truncated_normal(mean, std, a, b, source)


def _describe_orthogonal(source: int, tensor: torch.Tensor, gain: float) -> Element:
    rows = tensor.shape[0]
    return orthogonal(max(rows, tensor.numel() // max(rows, 1)), gain, source)


def _describe_sparse(source: int, tensor: torch.Tensor, sparsity: float, std: float) -> Element:
    rows = tensor.shape[0]
    zeros = math.ceil(sparsity * rows) / rows
    return mix([(constant(0.0), zeros), (normal(0.0, std, source), 1 - zeros)])


def _describe_law(source: int, tensor: torch.Tensor, law: WeightLaw, groups: int) -> Element:
    std = math.sqrt(law.variance)
    if law.distribution == "normal":
        return normal(law.mean, std, source)
    if law.distribution == "uniform":
        bound = math.sqrt(3) * std
        return uniform(law.mean - bound, law.mean + bound, source)
    if law.distribution == "trunc_normal":
        uncut = math.sqrt(law.variance / TRUNCATED_VARIANCE)
        low, high = law.mean - TRUNCATION * uncut, law.mean + TRUNCATION * uncut
        return truncated_normal(law.mean, uncut, low, high, source)
    if law.distribution == "orthogonal":
        longer = max(tensor.shape[0] // groups, tensor[0].numel())
        return orthogonal(longer, std * math.sqrt(longer), source)
    return constant(law.mean)


_DESCRIPTIONS: dict[str, Callable[..., Element]] = {
    "truncated": _describe_truncated,
    "orthogonal": _describe_orthogonal,
    "sparse": _describe_sparse,
    "law": _describe_law,
}
