"""Rows of a parameter as an array: embeddings of tokens and of positions, class tokens.

A parameter has the same value in all samples. Two places of the array hold the same numbers where
they read the same row, and independent ones elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from varprobe.errors import MissingRuleError
from varprobe.initializers.laws import NORMAL_KURTOSIS, WeightLaw
from varprobe.theory.expectations import Field
from varprobe.theory.explicit import ExplicitPairs
from varprobe.theory.fluctuations import Spread, scatter_products, scatter_units
from varprobe.theory.grouped import MOST_SITES, GroupedPairs, group_sites
from varprobe.theory.law import (
    Downstream,
    Gradient,
    Ignored,
    Known,
    Law,
    Step,
    Value,
    Weight,
    WeightGradient,
)
from varprobe.theory.layout import Layout, Role
from varprobe.theory.pairs import MOST_EXPLICIT, Pairs, choose_dtype
from varprobe.theory.rules.contraction import realize_gradient
from varprobe.theory.rules.registry import rule
from varprobe.theory.standing import Standing
from varprobe.theory.weight_means import significant_mean

aten = torch.ops.aten

MOST_TOKENS = 8192
"""Sites of a sequence of given tokens that are compared one by one, 256 MB."""

MOST_COMPARED = 8
"""Samples that are looked at for that."""

ROUNDING = 1e-9
"""Error of the kurtosis of a law that was put together from its parts."""

NORMAL = ("normal", "measured", "constant")
"""Distributions whose elements count as jointly Gaussian."""


@rule(aten.embedding)
def embedding(
    weight: Value,
    ids: Value,
    padding_idx: int = -1,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,  # noqa: ARG001
) -> Step:
    """Return the rows of the weight with these numbers."""
    if not isinstance(weight, Weight):
        raise MissingRuleError("the table of the embedding is not a parameter")
    if scale_grad_by_freq:
        raise MissingRuleError("gradients that are scaled by frequency")
    if not isinstance(ids, Known | Ignored):
        raise MissingRuleError("rows chosen by an array with a law")
    roles = [
        Role.SAMPLE if d == 0 and len(ids.shape) > 1 else Role.POSITION
        for d in range(len(ids.shape))
    ]
    layout = Layout.of([*roles, Role.FEATURE], [*ids.shape, weight.shape[1]])
    samples, sites = layout.count(Role.SAMPLE), layout.count(Role.POSITION)
    if not isinstance(ids, Known):
        matches = expect_matches(samples, sites, weight.shape[0])
    elif sites > MOST_SITES:
        matches = group_matches(ids.tensor.reshape(samples, -1))
    else:
        matches = count_matches(ids.tensor.reshape(samples, -1))
    padded = isinstance(ids, Known) and bool((ids.tensor == padding_idx).any())
    if padding_idx >= 0 and not padded:
        weight = replace(weight, law=leave_out_padding(weight.law, weight.shape[0]))
    return look_up(weight, layout, matches, weight.shape[0])


@rule(aten.index)
def index(weight: Value, indices: Sequence[Value | None]) -> Step:
    """Return the rows of a parameter with these numbers."""
    (ids,) = indices if len(indices) == 1 else (None,)
    if not isinstance(weight, Weight) or not isinstance(ids, Known | Ignored):
        raise MissingRuleError("an index that is no list of rows of a parameter")
    if len(weight.shape) != 2:
        raise MissingRuleError("rows of a parameter that is no table")
    return embedding(weight, ids)


def leave_out_padding(law: WeightLaw, rows: int) -> WeightLaw:
    """Return the law of all rows but one of zeros, which no token has."""
    share = 1 - 1 / max(2, rows)
    kurtosis = law.kurtosis * share
    if law.distribution != "other" or law.mean or abs(kurtosis - NORMAL_KURTOSIS) > ROUNDING:
        return law
    return WeightLaw.normal(law.variance / share)


def read_parameter(weight: Weight, like: Layout | None = None) -> Step:
    """Return a parameter as an array with a position for each row.

    Its axes are read like the last ones of ``like``, else the last one as features.
    """
    if not weight.shape:
        raise MissingRuleError("a parameter without dimensions")
    roles = [*[Role.POSITION] * (len(weight.shape) - 1), Role.FEATURE]
    if like is not None:
        roles = _read_roles(weight.shape, like)
    layout = Layout.of(roles, weight.shape)
    rows = layout.count(Role.POSITION)
    count = group_matches if rows > MOST_EXPLICIT else count_matches
    return look_up(weight, layout, count(torch.arange(rows)[None]), rows)


def _read_roles(shape: Sequence[int], like: Layout) -> list[Role]:
    if len(shape) > len(like.dims):
        raise MissingRuleError("a parameter with more dimensions than what it meets")
    roles = []
    for size, axes in zip(shape, like.dims[len(like.dims) - len(shape) :], strict=True):
        found = {axis.role for axis in axes}
        if size != 1 and (len(found) != 1 or Role.SAMPLE in found):
            raise MissingRuleError("a parameter that differs from sample to sample")
        roles.append(found.pop() if size != 1 else Role.POSITION)
    return roles


def count_matches(ids: Tensor) -> Pairs:
    """Return how often two places hold the same row, for given numbers (samples, positions)."""
    samples, positions = ids.shape
    if positions > MOST_EXPLICIT:
        raise MissingRuleError("more rows than can be told apart in pairs")
    dtype = choose_dtype(positions)
    same = torch.zeros(positions, positions, dtype=dtype)
    for row in ids:
        same += row[:, None] == row
    found, places = torch.unique(ids, return_inverse=True)
    counts = torch.zeros(len(found), positions, dtype=dtype)
    counts.index_put_(
        (places, torch.arange(positions).expand(samples, -1)),
        torch.ones((), dtype=dtype),
        accumulate=True,
    )
    differ = (counts.T @ counts - same) / max(1, samples * (samples - 1))
    return ExplicitPairs(torch.stack([differ, same / samples]), samples)


def group_matches(ids: Tensor) -> Pairs:
    """Return `count_matches` of a long sequence by groups of sites, from some of the samples."""
    samples, sites = ids.shape
    if sites > MOST_TOKENS:
        raise MissingRuleError("a sequence too long to look for repeated tokens")
    groups = group_sites(sites)
    chosen = ids[:MOST_COMPARED]

    def compare(first: Tensor, second: Tensor) -> Tensor:
        return groups.pool((first[:, None] == second).float())

    same = torch.stack([compare(row, row) for row in chosen]).mean(0)
    differ = torch.zeros_like(same)
    if samples > 1:
        others = chosen.roll(1, 0)
        pairs = zip(chosen, others, strict=True)
        differ = torch.stack([compare(first, second) for first, second in pairs]).mean(0)
        differ = (differ + differ.mT) / 2
    return GroupedPairs(torch.stack([differ, same]), samples, groups)


def expect_matches(samples: int, positions: int, rows: int) -> Pairs:
    """Return how often two places hold the same row, for random numbers."""
    groups = group_sites(positions) if positions > MOST_SITES else None
    count = positions if groups is None else len(groups.places)
    values = torch.full((2, count, count), 1 / rows, dtype=torch.float64)
    values[1].fill_diagonal_(1.0)
    if groups is not None:
        return GroupedPairs(values, samples, groups)
    return ExplicitPairs(values, samples)


def look_up(weight: Weight, layout: Layout, matches: Pairs, rows: int) -> Step:
    """Return the array that reads row r of a parameter at the places where ``matches`` says so.

    Parameters
    ----------
    weight : Weight
        The parameter.
    layout : Layout
        Of the array.
    matches : Pairs
        Probability that two places read the same row.
    rows : int
        How many rows there are.
    """
    mean = significant_mean(weight)
    variance = weight.law.second_moment - mean**2
    pairs = (matches * variance).map(lambda values: values + mean**2)
    units = layout.count(Role.FEATURE)
    excess = (weight.law.kurtosis - 3) / (units * max(1, min(rows, pairs.size)))
    own = scatter_units(pairs, 0.0, units) + excess if variance else 0.0
    array = Law(
        layout=layout,
        field=Field(
            pairs,
            torch.full((pairs.positions,), mean, dtype=torch.float64),
            gaussian=weight.law.distribution in NORMAL,
        ),
        standing=Standing(touched=weight.bit, fresh=0 if mean else weight.bit),
        field_spread=Spread(own=max(own, 0.0)),
    )

    def backward(gradient: Gradient) -> Sequence[Downstream]:
        incoming = gradient.pairs
        total = (incoming * matches).total()
        spread = scatter_products(incoming, realize_gradient(gradient), matches, Spread(), total)
        return [WeightGradient(max(total, 0.0) / rows, spread, gradient.standing)]

    return Step(array, backward)
