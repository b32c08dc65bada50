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
from functools import partial
from types import FunctionType
from typing import Any, Protocol, cast

import torch

from varprobe.initializers import sampling
from varprobe.initializers.capture.elements import (
    Element,
    dilute,
    normal,
    orthogonal,
    truncated_normal,
)


class Listener(Protocol):
    """Who is told what a function would have drawn."""

    def follows(self, tensor: torch.Tensor) -> bool:
        """Return whether the tensor has no numbers, so that it is described rather than drawn."""

    def describe(self, tensor: torch.Tensor, draw: Callable[[int], Element]) -> None:
        """Let all elements of a tensor be what ``draw`` makes of a source that is new."""


def _truncated(tensor: torch.Tensor, mean: float, std: float, a: float, b: float) -> Any:  # noqa: ARG001
    return partial(truncated_normal, mean, std, a, b)


def _orthogonal(tensor: torch.Tensor, gain: float) -> Any:
    rows = tensor.shape[0]
    return partial(orthogonal, max(rows, tensor.numel() // max(rows, 1)), gain)


def _orthogonal_groups(tensor: torch.Tensor, variance: float, groups: int) -> Any:
    longer = max(tensor.shape[0] // groups, tensor[0].numel())
    return partial(orthogonal, longer, math.sqrt(variance * longer))


def _sparse(tensor: torch.Tensor, sparsity: float, std: float) -> Any:
    rows = tensor.shape[0]
    return lambda source: dilute(normal(0.0, std, source), math.ceil(sparsity * rows) / rows)


DIVERTED: tuple[tuple[Any, Callable[..., Callable[[int], Element]], int], ...] = (
    (torch.nn.init._no_grad_trunc_normal_, _truncated, 0),
    (torch.nn.init.orthogonal_, _orthogonal, 2),
    (torch.nn.init.sparse_, _sparse, 2),
    (sampling._draw_orthogonal, _orthogonal_groups, 2),
)
"""Each function, what it draws from, and the fewest dimensions of a tensor that it takes."""

_ORIGINALS = [
    FunctionType(f.__code__, f.__globals__, f.__name__, f.__defaults__)
    for f in (cast(FunctionType, function) for function, _, _ in DIVERTED)
]
_LISTENER: ContextVar[Listener | None] = ContextVar("listener", default=None)
_LOCK = threading.RLock()
"""One recording at a time; other threads go on and draw what they always drew."""


# What is put in the place of each function's code, with another number in the place of this one.
# It runs among the globals of that function, and takes any arguments, so that the defaults of the
# function do not matter.
def _stub(*args: Any, **kwargs: Any) -> Any:
    from varprobe.initializers.capture.samplers import divert

    return divert(-1, args, kwargs)


@contextmanager
def diverted(listener: Listener) -> Iterator[None]:
    """Have the functions tell ``listener`` what they would draw, in this thread."""
    template = _stub.__code__
    with _LOCK:
        before = [function.__code__ for function, _, _ in DIVERTED]
        token = _LISTENER.set(listener)
        try:
            for index, (function, _, _) in enumerate(DIVERTED):
                constants = tuple(index if c == -1 else c for c in template.co_consts)
                function.__code__ = template.replace(co_consts=constants)
            yield
        finally:
            _LISTENER.reset(token)
            for (function, _, _), code in zip(DIVERTED, before, strict=True):
                function.__code__ = code


def divert(index: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Describe what a function draws if its tensor is followed, draw it if not."""
    original, listener = _ORIGINALS[index], _LISTENER.get()
    _, tell, fewest = DIVERTED[index]
    given = inspect.signature(original).bind(*args, **kwargs)
    given.apply_defaults()
    options = {key: value for key, value in given.arguments.items() if key != "generator"}
    tensor = options["tensor"]
    if listener is None or tensor.dim() < fewest or not listener.follows(tensor):
        return original(*args, **kwargs)
    listener.describe(tensor, tell(**options))
    return tensor
