"""What a virtual layer reads: queries, keys and values made of features, and draws of them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from varprobe.errors import MissingRuleError
from varprobe.theory.grouped import GroupedPairs
from varprobe.theory.law import Law
from varprobe.theory.mixing import Mixing
from varprobe.theory.pairs import Pairs
from varprobe.theory.weight_means import significant_mean, zero_mean_variance


@dataclass(frozen=True)
class Stream:
    """Queries, keys or values: features of a layer, dealt to heads.

    Parameters
    ----------
    mixing : Mixing
        Which features, and with what weights.
    lead, sites, heads, features : int
        Batch positions and sites, heads and features of one head.
    """

    mixing: Mixing
    lead: int
    sites: int
    heads: int
    features: int
    columns: list[Tensor] = field(init=False)
    width: int = field(init=False)

    def __post_init__(self) -> None:
        rows = [term.index.view(self.heads, -1) for term in self.mixing.terms]
        bases = torch.stack([row.amin(1) for row in rows]).amin(0)
        shifts = [row - bases[:, None] for row in rows]
        if any(bool((shift != shift[:1]).any()) for shift in shifts):
            raise MissingRuleError("heads that read their features in different ways")
        used = torch.unique(torch.cat([shift[0] for shift in shifts]))
        object.__setattr__(self, "columns", [torch.searchsorted(used, s[0]) for s in shifts])
        object.__setattr__(self, "width", len(used))
        norm = self.mixing.projection.norm
        if norm is not None and norm.features not in (self.width, self.width * self.heads):
            raise MissingRuleError("a norm over other features than those of a head, or of all")

    @property
    def source(self) -> Law:
        """What the layer reads."""
        return self.mixing.projection.source

    @property
    def variance(self) -> float:
        """Variance of the layer's weights."""
        return zero_mean_variance(self.mixing.projection.weight)

    @property
    def offset(self) -> float:
        """Variance of the layer's bias."""
        bias = self.mixing.projection.bias
        if bias is None:
            return 0.0
        if significant_mean(bias):
            raise MissingRuleError("the bias of a query, key or value has a mean")
        return bias.law.second_moment

    def place(self, x: Tensor) -> Tensor:
        """Return the layer's input in the order of positions of the stream, (..., P, n)."""
        return x if self.mixing.places is None else x[..., self.mixing.places, :]

    def mix(self, z: Tensor, rows: Tensor | None = None) -> Tensor:
        """Return weighed sums of the layer's features, (..., P, width) to (..., P, features).

        ``rows`` are the positions that P stands for, if it is not all.
        """
        if self.mixing.index is not None:
            return z.contiguous()
        norm = self.mixing.projection.norm
        z = z if norm is None else norm(z)
        total = z.new_zeros(*z.shape[:-1], self.features)
        for columns, weights in zip(self.columns, self._weights(rows), strict=True):
            for at, start, length in _find_runs(columns):
                part, target = z.narrow(-1, start, length), total.narrow(-1, at, length)
                if weights is None:
                    target.add_(part)
                else:
                    target.addcmul_(part, weights[:, at : at + length])
        return total

    def unmix(self, gradient: Tensor, z: Tensor, rows: Tensor | None = None) -> Tensor:
        """Return the gradient by the layer's features z: the adjoint of `mix`."""
        total = self.turn_back(gradient, rows)
        norm = self.mixing.projection.norm
        return total if norm is None else norm.go_back(z, total)

    def turn_back(
        self, gradient: Tensor, rows: Tensor | None = None, *, square: bool = False
    ) -> Tensor:
        """Return the gradient behind the heads' norm, if they went through one, or its squares."""
        total = gradient.new_zeros(*gradient.shape[:-1], self.width)
        for columns, weights in zip(self.columns, self._weights(rows), strict=True):
            if weights is not None:
                weights = weights.square() if square else weights
            part = gradient if weights is None else gradient * weights
            total.index_add_(-1, columns, part)
        return total

    def draw_weight(self, lead: tuple[int, int], width: int, generator: torch.Generator) -> Tensor:
        """Return fresh weights (draws, width, heads x features) for ``lead`` = (draws, heads).

        The input may have fewer features than the real one.
        """
        draws, heads = lead
        deviation = math.sqrt(self.variance * self.source.features / width)
        drawn = torch.randn(draws, width, heads * self.width, generator=generator)
        return drawn.mul_(deviation)

    def project(self, x: Tensor, heads: int, generator: torch.Generator) -> Tensor:
        """Return the output of a fresh layer, (draws, 2, heads, P, width)."""
        draws = len(x)
        # All heads in one product: the input is read once.
        z = x @ self.draw_weight((draws, heads), x.shape[-1], generator)[:, None]
        z = z.view(*z.shape[:-1], heads, self.width).transpose(2, 3)
        if self.offset:
            bias = torch.randn(draws, 1, heads, 1, self.width, generator=generator)
            z = z + bias * math.sqrt(self.offset)
        return z

    def _weights(self, rows: Tensor | None) -> list[Tensor | None]:
        found: list[Tensor | None] = []
        for term in self.mixing.terms:
            period = 1 if term.weights is None else term.weights.shape[1]
            if self.features % period:
                raise MissingRuleError("given factors that differ from head to head")
            chosen = term if rows is None else term.relocate(rows)
            expanded = None if term.weights is None else chosen.expand(self.features).float()
            found.append(expanded)
        return found

    def split(self, x: Tensor) -> Tensor:
        """Return (..., P, f) as (..., lead, sites, f)."""
        return cut_lead(x, self.lead)


def _find_runs(columns: Tensor) -> list[tuple[int, int, int]]:
    """Return the runs of neighbouring columns: where each goes, where it starts, its length."""
    breaks = (torch.nonzero(columns.diff() != 1).flatten() + 1).tolist()
    starts = [0, *breaks]
    ends = [*breaks, len(columns)]
    return [
        (first, int(columns[first]), last - first) for first, last in zip(starts, ends, strict=True)
    ]


def cut_lead(x: Tensor, lead: int) -> Tensor:
    """Return (..., P, f) as (..., lead, sites, f)."""
    return x.reshape(*x.shape[:-2], lead, -1, x.shape[-1])


def draw_law(
    law: Law, draws: int, generator: torch.Generator, most_features: int | None = None
) -> Tensor:
    """Return two samples of an array in each draw, (draws, 2, P, features), float32."""
    found = law.field
    if not found.gaussian and not law.is_field:
        raise MissingRuleError("attention reads a function of an array that is not Gaussian")
    width = law.features if most_features is None else min(law.features, most_features)
    if isinstance(found.pairs, GroupedPairs):
        x = _draw_groups(found.covariances, generator, draws, width)
    else:
        covariances = found.covariances.to_explicit().values.double()
        x = draw_pairs(covariances, generator, (draws,), width)
    if not found.is_centred:
        x = x + found.means[:, None].float()
    if law.field_spread.pinned:
        # A norm leaves every row its exact length.
        lengths = found.pairs.second_moments.float() * width
        norms = torch.linalg.vector_norm(x, dim=-1, keepdim=True).clamp_min(1e-15)
        x *= lengths[:, None].sqrt() / norms
    if not law.is_field:
        x = law.function(x.double()).float()
    if law.thinning < 1:
        x = x * (torch.rand(x.shape, generator=generator) < law.thinning) / law.thinning
    return x


def _draw_groups(pairs: Pairs, generator: torch.Generator, draws: int, width: int) -> Tensor:
    """Return draws of all sites: what their group has in common, and what each has alone."""
    assert isinstance(pairs, GroupedPairs)
    groups = pairs.groups
    member = torch.nn.functional.one_hot(groups.owner).double()
    counts = member.sum(0)
    diagonal = pairs.values.diagonal(dim1=1, dim2=2)
    apart = member.mT @ (pairs.values - torch.diag_embed(diagonal)) @ member
    common = (member.mT @ pairs.values @ member) / (counts[:, None] * counts)
    inside = apart.diagonal(dim1=1, dim2=2) / (counts * (counts - 1)).clamp_min(1)
    alone = torch.einsum("bn,ng->bg", diagonal, member) / counts
    level = torch.where(counts > 1, inside, alone)
    common.diagonal(dim1=1, dim2=2).copy_(level)
    x = draw_pairs(common, generator, (draws,), width)[..., groups.owner[groups.nearest], :]
    differ, same = (diagonal - level[:, groups.owner])[:, groups.nearest].unbind(0)
    for sign in (1, -1):
        deviations = ((same + sign * differ).clamp_min(0) / 2).sqrt().float()
        own = torch.randn(draws, groups.sites, width, generator=generator).mul_(deviations[:, None])
        x[:, 0] += own
        x[:, 1] += sign * own
    return x


def draw_pairs(
    pairs: Tensor, generator: torch.Generator, lead: tuple[int, ...], features: int
) -> Tensor:
    """Return Gaussian draws of two samples with pairs (2, P, P): (*lead, 2, P, features)."""
    shape = (*lead, pairs.shape[-1], features)
    common = _root(pairs[1] + pairs[0]) @ torch.randn(shape, generator=generator)
    apart = _root(pairs[1] - pairs[0]) @ torch.randn(shape, generator=generator)
    return torch.stack([common + apart, common - apart], dim=-3) / math.sqrt(2)


def _root(matrix: Tensor) -> Tensor:
    """Return the symmetric square root, rounding below zero cut off."""
    values, vectors = torch.linalg.eigh((matrix + matrix.mT) / 2)
    root: Tensor = (vectors * values.clamp_min(0).sqrt()) @ vectors.mT
    return root.float()
