"""Complex numbers: pairs of features that are turned by angles of the position."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from varprobe.errors import MissingRuleError
from varprobe.theory.law import Complex, Downstream, Gradient, Known, Law, Step, Value
from varprobe.theory.layout import Role
from varprobe.theory.mixing import Mixing
from varprobe.theory.rules.mixtures import build_mixed, hand_on, is_centred, read_table
from varprobe.theory.rules.registry import rule

aten = torch.ops.aten


@rule(aten.view_as_complex)
def view_as_complex(x: Value) -> Step:
    """Return the numbers whose real and imaginary parts stand in the last dimension."""
    if not isinstance(x, Law) or not x.layout.only(-1, Role.FEATURE):
        raise MissingRuleError("complex numbers that are not made of features")
    return Step(Complex(x), lambda gradient: [gradient])


@rule(aten.view_as_real)
def view_as_real(z: Value) -> Step:
    """Return real and imaginary parts along a new last dimension."""
    if not isinstance(z, Complex):
        raise MissingRuleError("an array that holds no complex numbers")
    return Step(z.parts, lambda gradient: [gradient])


def turn(z: Complex, factors: Tensor) -> Step:
    """Return complex numbers times given ones."""
    x, shape = z.parts, z.parts.layout.shape
    mixing = x.mixed
    if mixing is None or not is_centred(x):
        raise MissingRuleError("complex numbers that no linear layer made")
    real, imaginary = factors.real, factors.imag
    # a + ib times c + is: the parts themselves by c, each other's by -s and s.
    own = torch.stack([real, real], -1).flatten(-2)
    other = torch.stack([-imaginary, imaginary], -1).flatten(-2)
    layout = x.layout.view((*shape[:-2], 2 * shape[-2]))
    tables = [read_table(table, layout) for table in (own, other)]
    swapped = mixing.take(torch.arange(x.features) ^ 1)
    parts = [m.weigh(t, m.function) for m, t in zip((mixing, swapped), tables, strict=True)]
    mixed = Mixing(mixing.projection, (*parts[0].terms, *parts[1].terms), mixing.places)
    output = build_mixed(mixed, x.layout, x, x.standing)

    def backward(gradient: Gradient) -> Sequence[Downstream]:
        settled = gradient.settle()
        signal = settled.signal
        rows = [table.expand(signal.positions, -1) for table in tables]
        kernel = sum((signal.outer(row, row) for row in rows), start=torch.zeros(()))
        turned = replace(signal, values=signal.values * kernel / rows[0].shape[1])
        return [hand_on(settled, x, signal=turned)]

    return Step(Complex(output), backward)


def multiply_complex(x: Any, y: Any) -> Step | None:
    """Return the product of complex numbers and given ones, None if there are none."""
    if isinstance(y, Complex) and not isinstance(x, Complex):
        step = multiply_complex(y, x)
        assert step is not None
        inner = step.backward
        assert inner is not None
        return Step(step.output, lambda gradient: [None, *inner(gradient)])
    if not isinstance(x, Complex):
        return None
    if not isinstance(y, Known):
        raise MissingRuleError("complex numbers meet something that is not given")
    return turn(x, y.tensor.detach().cpu())
