"""Attention: products of queries and keys, and values added up with what a softmax makes of them.

`scaled_dot_product_attention` is all of it at once; written by hand it is a product, what `scores`
does to it, and another product.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache, partial

import torch
from torch import Tensor

from varprobe.errors import MissingRuleError
from varprobe.theory.expectations import Field
from varprobe.theory.explicit import ExplicitPairs
from varprobe.theory.fluctuations import Spread, scatter_units
from varprobe.theory.grouped import GroupedPairs
from varprobe.theory.grouped_layer import GroupedLayer, measure_grouped
from varprobe.theory.law import Downstream, Gradient, Known, Law, Step, Value
from varprobe.theory.layout import Dim, Layout, Role
from varprobe.theory.mixing import Awaited
from varprobe.theory.pairs import MOST_EXPLICIT, Pairs, choose_dtype
from varprobe.theory.roots import add_root, add_roots, covary, scale_roots
from varprobe.theory.rules.registry import rule
from varprobe.theory.scores import Scores, ScoresGradient, check_apart
from varprobe.theory.streams import Stream
from varprobe.theory.virtual_layer import Output, Returned, VirtualLayer, measure_scores

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
    products = multiply(laws[0], laws[1])
    scores = products.output
    assert isinstance(scores, Scores)
    factor = 1 / math.sqrt(scores.streams[0].features) if scale is None else scale
    scores = scores.multiply(factor)
    if is_causal:
        scores = scores.add(_hide_future(*scores.layout.shape[-2:]))
    if attn_mask is not None:
        scores = scores.add(read_bias(attn_mask, scores))
    gathered = gather(replace(scores, softened=True, keep=1 - dropout_p), laws[2])

    def backward(gradient: Gradient) -> Sequence[Downstream]:
        to_weights, to_value = gathered.backward(gradient)  # type: ignore[misc]
        assert products.backward is not None
        return [*products.backward(to_weights), to_value]

    return Step(gathered.output, backward)


def multiply(query: Law, key: Law) -> Step:
    """Return Q Kᵀ; both have sites and features in their last two dimensions.

    Raises
    ------
    MissingRuleError
        If they are not made by linear layers, each by weights of its own.
    """
    laws = [query, key]
    streams = [_read_stream(law) for law in laws]
    check_apart(streams)
    _check_lead(query.layout, query.pairs, key)
    if streams[0].heads % streams[1].heads or streams[0].features != streams[1].features:
        raise MissingRuleError("queries and keys that do not fit each other")
    grouped = any(isinstance(law.pairs, GroupedPairs) for law in laws)
    if grouped:
        _check_grouped(streams)
    measure = measure_grouped if grouped else measure_scores
    seed = streams[1].mixing.projection.weight.bit.bit_length()
    standing = query.standing.merge(key.standing)
    scores = Scores(
        layout=query.layout.replace(len(query.layout.dims) - 1, key.layout.dims[-2]),
        query=query,
        key=key,
        streams=(streams[0], streams[1]),
        standing=standing.approximate(SAMPLED),
        measure=partial(measure, seed=seed),
    )

    def backward(gradient: ScoresGradient) -> Sequence[Downstream]:
        return [gradient.query, gradient.key]

    return Step(scores, backward)


def gather(weights: Scores, value: Law) -> Step:
    """Return A V for weights A; the values have sites and features in their last dimensions.

    Raises
    ------
    MissingRuleError
        If the values are not made by weights of their own, or do not fit.
    """
    query, key = weights.streams
    stream = _read_stream(value)
    check_apart([stream, query, key])
    _check_lead(weights.layout, weights.query.pairs, value)
    if not weights.softened:
        raise MissingRuleError("values that are added up with scores themselves")
    if key.sites != stream.sites or query.heads % stream.heads:
        raise MissingRuleError("queries, keys and values that do not fit each other")
    if stream.mixing.index is None:
        raise MissingRuleError("values that are weighed by position")
    layer = _choose_layer(weights, value, stream)
    found = layer.forward()
    pairs = _make_pairs(found.pairs, weights.query.pairs)
    output_layout = weights.layout.replace(len(weights.layout.dims) - 1, value.layout.dims[-1])
    merged = weights.standing.merge(value.standing)
    standing = replace(merged.approximate(SAMPLED), fresh=value.standing.fresh)
    output = Law(
        layout=output_layout,
        field=Field(pairs, torch.zeros(pairs.positions, dtype=torch.float64), gaussian=False),
        standing=standing,
        field_spread=_gather_spread(found, value.field_spread, pairs),
    )

    def backward(gradient: Gradient) -> Sequence[Downstream]:
        back = layer.backward(gradient.pairs.values.double())
        above = gradient.spread
        to_weights = ScoresGradient(
            level=back.passed.under(above),
            dropped=back.dropped.under(above),
            softened=back.softened.under(above),
            query=_send_back(gradient, weights.query, query, back.query),
            key=_send_back(gradient, weights.key, key, back.key),
        )
        return [to_weights, _send_back(gradient, value, stream, back.value)]

    return Step(output, backward)


def _gather_spread(found: Output, value: Spread, pairs: Pairs) -> Spread:
    """Return the spread of what was gathered of values with this one.

    Its second moment follows theirs with the share of values that were alone, and what different
    sites have in common with the rest: branches of a stream that were sums over sites are summed up
    again by every attention after them, and scatter together.
    """
    together = found.together
    followed = add_roots(
        scale_roots(value.roots, 1 - together), scale_roots(value.common, together)
    )
    more = covary(followed, followed) - covary(value.roots, value.roots)
    own = math.sqrt(math.log1p(found.kernel))
    return Spread(
        kernel=(1 + found.kernel) * (1 + value.kernel) * math.exp(max(0.0, more)) - 1,
        own=found.own,
        gram=max(found.gram, value.gram),
        roots=add_root(followed, id(pairs), own),
        modes=add_root(value.common, id(pairs), own),
    )


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


def _check_lead(layout: Layout, pairs: Pairs, law: Law) -> None:
    """Refuse arrays whose samples and batch positions are not the same; heads may be shared."""

    def fits(a: Dim, b: Dim) -> bool:
        return a == b or all(axis.role is Role.FEATURE for axis in (*a, *b))

    dims = layout.dims[:-2], law.layout.dims[:-2]
    alike = len(dims[0]) == len(dims[1]) and all(map(fits, *dims))
    if not alike or pairs.samples != law.pairs.samples:
        raise MissingRuleError("queries, keys and values that do not fit each other")


def _check_grouped(streams: Sequence[Stream]) -> None:
    alone = all(stream.source is streams[0].source for stream in streams)
    if not alone or any(stream.mixing.places is not None for stream in streams):
        raise MissingRuleError("a long sequence that attends to other sites than its own")


def _choose_layer(weights: Scores, value: Law, stream: Stream) -> VirtualLayer | GroupedLayer:
    seed = stream.mixing.projection.weight.bit.bit_length()
    laws = (weights.query, weights.key, value)
    if not any(isinstance(law.pairs, GroupedPairs) for law in laws):
        return VirtualLayer(weights, stream, value.pairs.samples, seed)
    _check_grouped([*weights.streams, stream])
    return GroupedLayer(weights, stream, seed)


@lru_cache(maxsize=4)
def _hide_future(queries: int, keys: int) -> Tensor:
    hidden = torch.ones(queries, keys, dtype=torch.bool).triu(1)
    return torch.zeros(1, 1, 1, queries, keys).masked_fill(hidden, -math.inf)


def read_bias(given: Value, scores: Scores) -> Tensor:
    """Return numbers that are added to scores, or a mask of what stays, as a bias.

    Returns
    -------
    Tensor
        By sample, head, batch position, query and key, each of them 1 where all are alike.

    Raises
    ------
    MissingRuleError
        If it has no numbers of its own.
    """
    if not isinstance(given, Known):
        raise MissingRuleError("a mask without numbers of its own")
    bias = given.tensor.detach().cpu()
    if bias.dtype == torch.bool:
        bias = torch.zeros(bias.shape).masked_fill(~bias, -math.inf)
    lead = scores.layout.dims[:-2]
    bias = bias.float().reshape([1] * (len(lead) + 2 - bias.dim()) + list(bias.shape))
    axes = [axis for dim in lead for axis in dim]
    # A dimension of size 1 stands for all of its axes.
    whole = [size > 1 for dim, size in zip(lead, bias.shape[:-2], strict=True) for _ in dim]
    sizes = [axis.size if kept else 1 for axis, kept in zip(axes, whole, strict=True)]
    bias = bias.reshape(*sizes, *bias.shape[-2:])
    roles = (Role.SAMPLE, Role.FEATURE, Role.POSITION)
    order = [[i for i, axis in enumerate(axes) if axis.role is role] for role in roles]
    places = order[2]
    if any(sizes[i] > 1 for i in places):
        full = [axes[i].size if i in places else size for i, size in enumerate(sizes)]
        bias, sizes = bias.expand(*full, -1, -1), full
    bias = bias.permute(*order[0], *order[1], *places, -2, -1)
    return bias.reshape(*(math.prod(sizes[i] for i in of) for of in order), *bias.shape[-2:])


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
    moved = (1 + part.kernel) * (1 + spread.gram * part.leverage)
    kernel = (1 + spread.kernel) * moved - 1
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
