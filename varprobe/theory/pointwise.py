"""Functions of one Gaussian variable, composed from the model's own operations.

A chain or a small graph of pointwise operations on one pre-activation (a hand-written GELU, say) is
one function of it. The operations themselves are run on quadrature nodes, so that no activation
function needs a name here.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

_PROBE = torch.tensor([1e-6, 1e-3, 0.1, 0.5, 1.0, 2.0, 3.7, 6.5, 12.0], dtype=torch.float64)


MOST_BYTES = 2**27
"""Values that `remember` keeps: those of sixty functions where as many kinds of position are told
apart as can be, 2 MB each, of far more elsewhere."""


class _Values:
    """Functions' values at arrays that are asked for again and again, as many as fit."""

    def __init__(self) -> None:
        # Function and argument are kept with the value, so that their identities stay theirs.
        self.known: OrderedDict[tuple[int, int], tuple[Pointwise, Tensor, Tensor]] = OrderedDict()
        self.bytes = 0

    def look(self, function: Pointwise, x: Tensor) -> Tensor:
        """Return the function at ``x``."""
        key = id(function), id(x)
        if key in self.known:
            self.known.move_to_end(key)
            return self.known[key][2]
        value = function.apply(x)
        self.known[key] = function, x, value
        self.bytes += value.nbytes
        while self.bytes > MOST_BYTES:
            _, (_, _, oldest) = self.known.popitem(last=False)
            self.bytes -= oldest.nbytes
        return value


_values: ContextVar[_Values | None] = ContextVar("_values", default=None)


@contextmanager
def remember() -> Iterator[None]:
    """Ask each function of an array once: a slope far below a stream reads the stream many times.

    What functions return is not to be written to.
    """
    token = _values.set(_Values())
    try:
        yield
    finally:
        _values.reset(token)


@dataclass(frozen=True, eq=False)
class Pointwise:
    """A function applied to each element, vectorised over float64 tensors."""

    apply: Callable[[Tensor], Tensor]

    def __call__(self, x: Tensor) -> Tensor:
        """Return the function at ``x``."""
        values = _values.get()
        return self.apply(x) if values is None else values.look(self, x)

    def __mul__(self, other: Pointwise) -> Pointwise:
        return Pointwise(lambda x: self(x) * other(x))

    def __add__(self, other: Pointwise) -> Pointwise:
        return Pointwise(lambda x: self(x) + other(x))

    def mix(self, other: Pointwise, shares: tuple[float, float]) -> Pointwise:
        """Return the root of the average of both squares."""
        total = max(sum(shares), 1e-300)
        a, b = (share / total for share in shares)
        return Pointwise(lambda x: (a * self(x) ** 2 + b * other(x) ** 2).sqrt())

    def root(self) -> Pointwise:
        """Return the square root."""
        return Pointwise(lambda x: self(x).clamp_min(0).sqrt())

    @cached_property
    def slopes(self) -> tuple[float, float] | None:
        """(a, b) if the function is a x for x > 0 and b x for x < 0, else None."""
        return _constant_sides(self.apply(_PROBE) / _PROBE, self.apply(-_PROBE) / -_PROBE)

    @cached_property
    def levels(self) -> tuple[float, float] | None:
        """(a, b) if the function is a for x > 0 and b for x < 0, else None."""
        return _constant_sides(self.apply(_PROBE), self.apply(-_PROBE))


IDENTITY = Pointwise(lambda x: x)
ONE = Pointwise(torch.ones_like)


def scale_by(factor: float) -> Pointwise:
    """Return the constant function ``factor``."""
    return Pointwise(lambda x: torch.full_like(x, factor))


def differentiate(operation: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Return the derivative of an elementwise operation at each element of ``x``."""
    with torch.inference_mode(False), torch.enable_grad():
        leaf = x.detach().clone().requires_grad_()
        value = operation(leaf)
        if not value.requires_grad:
            return torch.zeros_like(x)
        (slope,) = torch.autograd.grad(value.sum(), leaf, allow_unused=True)
    return torch.zeros_like(x) if slope is None else slope


def _constant_sides(positive: Tensor, negative: Tensor) -> tuple[float, float] | None:
    sides = torch.stack([positive, negative])
    ends = sides[:, -1:]
    if not torch.isfinite(sides).all() or not torch.allclose(
        sides, ends.expand_as(sides), rtol=1e-9, atol=1e-12
    ):
        return None
    return float(ends[0]), float(ends[1])
