"""Average pooling of every kind: any fixed linear map over the positions of one feature map."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverloadPacket

from varprobe.errors import MissingRuleError
from varprobe.theory.expectations import Field
from varprobe.theory.fluctuations import Spread, scatter_units
from varprobe.theory.law import Downstream, Gradient, Law, Step, Value
from varprobe.theory.layout import Layout, Role
from varprobe.theory.pairs import Pairs
from varprobe.theory.positions import LinearMap
from varprobe.theory.rules.reading import default_feature_dim, read_law
from varprobe.theory.rules.registry import rule
from varprobe.theory.rules.statistics import average_features

aten = torch.ops.aten

SPATIAL = (
    aten.avg_pool1d,
    aten.avg_pool2d,
    aten.avg_pool3d,
    aten.adaptive_avg_pool1d,
    aten.adaptive_avg_pool2d,
    aten.adaptive_avg_pool3d,
    aten.upsample_nearest1d,
    aten.upsample_nearest2d,
    aten.upsample_bilinear2d,
)
"""Operations on (sample, feature, positions ...)."""

MEANS, SUMS = (aten.mean.dim,), (aten.sum.dim_IntList,)


def _pool(op: OpOverloadPacket, x: Value, *args: Any, **kwargs: Any) -> Step:
    law = read_law(x, feature_dim=1)
    shape = _meta_shape(op, law.layout.shape, args, kwargs)
    return transform(law, op, args, kwargs, law.layout.with_positions(shape))


def _reduce(op: OpOverloadPacket, x: Value, dims: Any = None, *args: Any, **kwargs: Any) -> Step:
    law = x if isinstance(x, Law) else read_law(x, default_feature_dim(x.shape))  # type: ignore[union-attr]
    count = len(law.layout.dims)
    chosen = [d % count for d in ([dims] if isinstance(dims, int) else dims or range(count))]
    if any(not law.layout.only(d, Role.POSITION) for d in chosen) or 0 in chosen:
        raise MissingRuleError("a reduction over samples or features")
    shape = _meta_shape(op, law.layout.shape, (chosen, *args), kwargs)
    layout = law.layout
    for d in chosen:
        layout = layout.replace(d, ())
    kept = {**kwargs, "keepdim": True}
    return transform(law, op, (chosen,), kept, layout.view(shape))


def _mean(
    op: OpOverloadPacket, x: Value, dims: Any = None, keepdim: bool = False, **kwargs: Any
) -> Step:
    law = x if isinstance(x, Law) else read_law(x, default_feature_dim(x.shape))  # type: ignore[union-attr]
    if dims is not None and len(dims) == 1:
        dim = dims[0] % len(law.layout.dims)
        if law.layout.dims[dim] and law.layout.only(dim, Role.FEATURE):
            return Step(average_features(law, dim, keepdim=keepdim), lambda _: [None])
    return _reduce(op, law, dims, keepdim, **kwargs)


def _meta_shape(
    op: OpOverloadPacket, shape: Sequence[int], args: Sequence[Any], kwargs: dict[str, Any]
) -> tuple[int, ...]:
    result: Tensor = op(torch.empty(tuple(shape), device="meta"), *args, **kwargs)
    return tuple(result.shape)


def transform(
    x: Law, op: OpOverloadPacket, args: Sequence[Any], kwargs: dict[str, Any], layout: Layout
) -> Step:
    """Return A x for the linear map that the operation is on the positions of one sample."""
    matrix = _find_map(x.layout, op, args, kwargs)
    settled = x.settle()
    pairs = settled.pairs.transform(matrix)
    own = scatter_units(pairs, x.spread.gram, x.features) if x.spread.own else 0.0
    output = Law(
        layout=layout,
        field=Field(pairs, matrix @ settled.means, settled.gaussian),
        standing=x.standing,
        field_spread=replace(_pool_spread(x.spread, x.pairs, pairs, matrix), own=own),
    )

    def backward(gradient: Gradient) -> Sequence[Downstream]:
        settled = gradient.settle()
        return [replace(settled, layout=x.layout, signal=settled.signal.transform(matrix.adjoint))]

    return Step(output, backward)


def _pool_spread(spread: Spread, pairs: Pairs, pooled: Pairs, matrix: LinearMap) -> Spread:
    """Add the scatter of the off-diagonal entries of the Gram matrix that a pooled one contains."""
    squares = [factor.T @ factor for factor in matrix.factors]
    every = math.prod(float(square.square().sum()) for square in squares)
    own = math.prod(float(square.diagonal().square().sum()) for square in squares)
    loose = max(0.0, every - own) * pairs.mean**2 / pairs.samples
    total = max((pooled.positions * pooled.mean) ** 2, 1e-300)
    return replace(spread, kernel=(1 + spread.kernel) * (1 + 2 * spread.gram * loose / total) - 1)


def _find_map(
    layout: Layout, op: OpOverloadPacket, args: Sequence[Any], kwargs: dict[str, Any]
) -> LinearMap:
    """Run the operation on unit vectors, one axis at a time: all of these maps factorize."""
    sizes = [layout.positions_of(d) for d in range(len(layout.dims))]
    samples, within = sizes[0], sizes[1:]
    factors = [torch.eye(samples, dtype=torch.float64)] if samples > 1 else []
    for axis, size in enumerate(within):
        shape = [size, *(1 if d != axis else size for d in range(len(within)))]
        basis = torch.eye(size, dtype=torch.float64).view(shape).expand(size, *within)
        result: Tensor = op(basis.contiguous(), *args, **kwargs)
        first = [0 if d != axis else slice(None) for d in range(len(within))]
        factors.append(result[(slice(None), *first)].T)
    # Along each axis the sums over the others come in, where they are not averages.
    level = float(op(torch.ones(1, *within, dtype=torch.float64), *args, **kwargs).flatten()[0])
    factors[-1] = factors[-1] / level ** (len(within) - 1)
    return LinearMap(tuple(factors))


def _file(ops: Sequence[Any], body: Callable[..., Step]) -> None:
    for op in ops:
        rule(op)(partial(body, op))


_file(SPATIAL, _pool)
_file(MEANS, _mean)
_file(SUMS, _reduce)
