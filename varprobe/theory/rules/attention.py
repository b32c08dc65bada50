"""Scaled dot-product attention, whole."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache, partial

import torch
from torch import Tensor

from varprobe.errors import MissingRuleError
from varprobe.theory.expectations import Field
from varprobe.theory.explicit import ExplicitPairs
from varprobe.theory.fluctuations import Spread, scatter_units
from varprobe.theory.grouped import GroupedPairs
from varprobe.theory.grouped_layer import GroupedLayer
from varprobe.theory.law import Downstream, Gradient, Known, Law, Step, Value
from varprobe.theory.layout import Layout, Role
from varprobe.theory.mixing import Awaited
from varprobe.theory.pairs import MOST_EXPLICIT, Pairs, choose_dtype
from varprobe.theory.rules.registry import rule
from varprobe.theory.streams import Stream
from varprobe.theory.virtual_layer import Returned, VirtualLayer

aten = torch.ops.aten

SAMPLED = "attention: averaged over a virtual layer"


@rule(aten.scaled_dot_product_attention)
def attention(
    query: Value,
    key: Value,
    value: Value,
    attn_mask: Value | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,  # noqa: ARG001
) -> Step:
    """Return softmax(Q Kᵀ scale + mask) V."""
    laws = [law for law in (query, key, value) if isinstance(law, Law)]
    if len(laws) < 3:
        raise MissingRuleError("a query, key or value that is no array with a law")
    streams = [_read_stream(law) for law in laws]
    _check_streams(laws, streams)
    layer = _choose_layer(laws, streams)(
        query=streams[0],
        key=streams[1],
        value=streams[2],
        bias=_read_mask(attn_mask, laws[0].layout, streams, causal=is_causal),
        scale=1 / math.sqrt(streams[0].features) if scale is None else scale,
        keep=1 - dropout_p,
        seed=streams[2].mixing.projection.weight.bit.bit_length(),
    )
    found = layer.forward()
    pairs = _make_pairs(found.pairs, laws[0].pairs)
    output_layout = laws[0].layout.replace(len(laws[0].layout.dims) - 1, laws[2].layout.dims[-1])
    units = output_layout.count(Role.FEATURE)
    merged = laws[0].standing.merge(laws[1].standing, laws[2].standing)
    standing = replace(merged.approximate(SAMPLED), fresh=laws[2].standing.fresh)
    gram = laws[2].field_spread.gram
    output = Law(
        layout=output_layout,
        field=Field(pairs, torch.zeros(pairs.positions, dtype=torch.float64), gaussian=False),
        standing=standing,
        field_spread=Spread(
            kernel=(1 + found.kernel) * (1 + laws[2].field_spread.kernel) - 1,
            own=scatter_units(pairs, gram, units),
            gram=gram,
        ),
    )

    def backward(gradient: Gradient) -> Sequence[Downstream]:
        back = layer.backward(gradient.pairs.values.double())
        return [
            _send_back(gradient, law, stream, part)
            for law, stream, part in zip(laws, streams, back, strict=True)
        ]

    return Step(output, backward)


def _read_stream(law: Law) -> Stream:
    dims = law.layout.dims
    mixing = law.mixed
    if mixing is None:
        raise MissingRuleError("queries, keys or values that no linear layer made")
    if (
        len(dims) < 3
        or not law.layout.only(-1, Role.FEATURE)
        or not law.layout.only(-2, Role.POSITION)
    ):
        raise MissingRuleError("the last dimensions are not sites and features")
    grouped = isinstance(law.pairs, GroupedPairs)
    if law.pairs.positions > MOST_EXPLICIT and not grouped:
        raise MissingRuleError("more sites than can be told apart in pairs")
    sites = law.layout.positions_of(len(dims) - 2)
    features = math.prod(axis.size for axis in dims[-1])
    lead = law.layout.count(Role.POSITION) // sites
    return Stream(mixing, lead, sites, law.features // features, features)


def _check_streams(laws: Sequence[Law], streams: Sequence[Stream]) -> None:
    query, key, value = streams
    lead = {(s.lead, law.pairs.samples) for s, law in zip(streams, laws, strict=True)}
    if len(lead) > 1 or key.sites != value.sites or query.heads % key.heads:
        raise MissingRuleError("queries, keys and values that do not fit each other")
    if value.mixing.index is None:
        raise MissingRuleError("values that are weighed by position")
    for i, first in enumerate(streams):
        for second in streams[:i]:
            a, b = first.mixing, second.mixing
            one, other = a.projection.weight, b.projection.weight
            shared = one.bit == other.bit and one.part == other.part
            if shared and bool(torch.isin(a.used, b.used).any()):
                raise MissingRuleError("queries, keys or values share weights")


@lru_cache(maxsize=4)
def _hide_future(queries: int, keys: int) -> Tensor:
    hidden = torch.ones(queries, keys, dtype=torch.bool).triu(1)
    return torch.zeros(queries, keys).masked_fill(hidden, -math.inf)


def _read_mask(
    mask: Value | None, layout: Layout, streams: Sequence[Stream], *, causal: bool
) -> Tensor | None:
    """Return what is added to the scores."""
    lead, queries, keys = streams[0].lead, streams[0].sites, streams[1].sites
    bias = _hide_future(queries, keys) if causal else None
    if mask is None:
        return bias
    if not isinstance(mask, Known):
        raise MissingRuleError("a mask without numbers of its own")
    given = mask.tensor.detach().cpu()
    if given.dtype == torch.bool:
        given = torch.zeros(given.shape).masked_fill(~given, -math.inf)
    given = given.float().reshape([1] * (len(layout.dims) - given.dim()) + list(given.shape))
    for dim, size in enumerate(given.shape[:-2]):
        if size == 1 or layout.only(dim, Role.POSITION):
            continue
        if not bool((given == given.narrow(dim, 0, 1)).all()):
            raise MissingRuleError("a mask that differs between samples or heads")
        given = given.narrow(dim, 0, 1)
    given = given.flatten(0, -3)
    if given.shape[0] not in (1, lead):
        raise MissingRuleError("a mask that differs between samples or heads")
    return given if bias is None else bias + given


def _choose_layer(
    laws: Sequence[Law], streams: Sequence[Stream]
) -> Callable[..., VirtualLayer | GroupedLayer]:
    if not any(isinstance(law.pairs, GroupedPairs) for law in laws):
        return partial(VirtualLayer, samples=laws[0].pairs.samples)
    alone = all(stream.source is streams[0].source for stream in streams)
    if not alone or any(stream.mixing.places is not None for stream in streams):
        raise MissingRuleError("a long sequence that attends to other sites than its own")
    return GroupedLayer


def _make_pairs(values: Tensor, like: Pairs) -> Pairs:
    if isinstance(like, GroupedPairs):
        return replace(like, values=values)
    return ExplicitPairs(values.to(choose_dtype(values.shape[-1])), like.samples)


def _send_back(gradient: Gradient, law: Law, stream: Stream, part: Returned) -> Gradient:
    mixing = stream.mixing
    awaited = None
    if mixing.index is None:
        pairs = _make_pairs(part.plain, law.pairs)
        awaited = Awaited(pairs, part.products, mixing.used, mixing.count, mixing.count, None)
    signal = _make_pairs(part.mixed, law.pairs)
    spread = gradient.settle().signal_spread
    kernel = (1 + spread.kernel) * (1 + part.kernel) - 1
    # Draws scatter by their number of units already; what is averaged by formula does not.
    own, gram = 0.0, spread.gram + 2 / law.features
    if part.averaged:
        own, gram = scatter_units(signal, spread.gram, law.features), spread.gram
    return Gradient(
        layout=law.layout,
        signal=signal,
        standing=gradient.standing.inherit(law.standing).approximate(SAMPLED),
        signal_spread=replace(spread, kernel=kernel, own=own, gram=gram, tilt=0.0, echo=0.0),
        awaited=awaited,
        products=part.products if awaited is None else None,
    )
