"""Convolutions of any dimension, strided, dilated, grouped, transposed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import repeat

import torch

from varprobe.errors import MissingRuleError
from varprobe.theory.law import Step, Value, Weight
from varprobe.theory.layout import Layout, Role
from varprobe.theory.positions import Window
from varprobe.theory.rules.contraction import Contraction, contract
from varprobe.theory.rules.reading import read_law
from varprobe.theory.rules.registry import rule

aten = torch.ops.aten


@rule(aten.convolution)
def convolution(
    x: Value,
    weight: Value,
    bias: Value | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
) -> Step:
    """Return the convolution over all dimensions behind the second."""
    law = read_law(x, feature_dim=1)
    if not isinstance(weight, Weight):
        raise MissingRuleError("the weight is not a parameter")
    check_channels(law.layout)
    taps = weight.shape[2:]
    spatial = law.layout.shape[2:]
    geometry = [
        _expand(values, len(taps)) for values in (stride, padding, dilation, output_padding)
    ]
    windows = [
        _make_window(size, *values, transposed=transposed)
        for size, *values in zip(spatial, taps, *geometry, strict=True)
    ]
    out_channels = weight.shape[1] * groups if transposed else weight.shape[0]
    sizes = [window.fine if transposed else window.coarse for window in windows]
    outer = law.layout.positions_of(0)
    given = [outer, *spatial]
    made = [outer, *sizes]
    roles = [Role.SAMPLE, Role.FEATURE, *repeat(Role.POSITION, len(sizes))]
    fresh = Layout.of(roles, [1, out_channels, *sizes])
    shape = Contraction(
        layout=fresh.replace(0, law.layout.dims[0]),
        forward=lambda p: (
            p.scatter_windows(given, windows) if transposed else p.gather_windows(given, windows)
        ),
        adjoint=lambda p: (
            p.gather_windows(made, windows) if transposed else p.scatter_windows(made, windows)
        ),
        taps=math.prod(taps),
        fan_in=law.features // groups,
        fan_out=out_channels // groups,
    )
    return contract(law, weight, bias, shape)


def check_channels(layout: Layout) -> None:
    """Raise MissingRuleError unless dimension 1 holds the features and later ones positions."""
    dims = range(2, len(layout.dims))
    if not layout.only(1, Role.FEATURE) or any(not layout.only(d, Role.POSITION) for d in dims):
        raise MissingRuleError("dimension 1 does not hold the features")


def _make_window(
    size: int,
    taps: int,
    stride: int,
    padding: int,
    dilation: int,
    output_padding: int,
    *,
    transposed: bool,
) -> Window:
    reach = dilation * (taps - 1) + 1
    if transposed:
        fine = (size - 1) * stride - 2 * padding + reach + output_padding
        return Window(fine, size, taps, stride, padding, dilation)
    coarse = (size + 2 * padding - reach) // stride + 1
    return Window(size, coarse, taps, stride, padding, dilation)


def _expand(values: Sequence[int], count: int) -> list[int]:
    return list(values) * count if len(values) == 1 else list(values)
