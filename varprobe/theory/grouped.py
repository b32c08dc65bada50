"""Long sequences: sites in groups of neighbours, two of each standing for all.

Sites near the start and the last one are told apart; further on, groups grow with their distance
from the start. Within a group the pair of its two representatives stands for all pairs of different
sites, each by itself for all pairs of a site with itself. Sums go by pair counts, so that every
elementwise rule is the same as for pairs that are all told apart.
"""

# ruff: noqa: D102 - what the methods do is said where `Pairs` declares them.

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from typing import NoReturn, Self

import torch
from torch import Tensor

from varprobe.errors import MissingRuleError
from varprobe.theory.explicit import ExplicitPairs
from varprobe.theory.pairs import Pairs
from varprobe.theory.positions import LinearMap, Window

MOST_SITES = 256
"""Sites up to which attention tells them all apart."""

FIRST = 4
"""Sites at the start that are told apart: causal attention treats them most differently."""

GROWTH = 4
"""A group is 1/4 as long as its distance from the start. Gradients of queries and keys are small
differences of large sums, which groups of half that distance lose."""

REASON = "neighbouring sites of a long sequence, grouped"


@dataclass(frozen=True, eq=False)
class Groups:
    """How sites are grouped.

    Parameters
    ----------
    places : Tensor
        The site of each representative, (N,).
    owner : Tensor
        The group of each representative, (N,).
    nearest : Tensor
        The representative of each site, (T,).
    """

    places: Tensor
    owner: Tensor
    nearest: Tensor

    @property
    def sites(self) -> int:
        """Number of sites T."""
        return len(self.nearest)

    @cached_property
    def sizes(self) -> Tensor:
        """Sites that each representative stands for, (N,), float64."""
        return torch.bincount(self.nearest, minlength=len(self.places)).double()

    @cached_property
    def widths(self) -> Tensor:
        """Sites of each group, float64."""
        return torch.bincount(self.owner[self.nearest]).double()

    def deal(self, sums: Tensor) -> Tensor:
        """Return sums over the pairs of sites of two groups by representatives, (N, N)."""
        shares = self.sizes / self.widths[self.owner]
        return sums[self.owner][:, self.owner] * shares[:, None] * shares

    @cached_property
    def spans(self) -> list[slice]:
        """The sites of each group."""
        ends = self.widths.long().cumsum(0).tolist()
        return [slice(a, b) for a, b in zip([0, *ends], ends, strict=False)]

    @cached_property
    def member(self) -> Tensor:
        """Whether a site is one of those that a representative stands for, (T, N), float32."""
        return torch.nn.functional.one_hot(self.nearest, len(self.places)).float()

    @cached_property
    def alike(self) -> Tensor:
        """Whether two representatives are of one group, (N, N)."""
        return self.owner[:, None] == self.owner

    @cached_property
    def rows(self) -> Tensor:
        """For a site of each representative, the sites that pair with it in each way, (N, N)."""
        total = self.alike.double() @ self.sizes
        rows = torch.where(self.alike, (total - 1)[:, None], self.sizes)
        return rows.fill_diagonal_(1.0)

    @cached_property
    def counts(self) -> Tensor:
        """Pairs of sites that each pair of representatives stands for, (N, N)."""
        return self.sizes[:, None] * self.rows

    def pool(self, values: Tensor) -> Tensor:
        """Return the averages over pairs of all sites, (..., T, T) to (..., N, N)."""
        lead, count = values.shape[:-2], len(self.places)
        half = values.new_zeros(*lead, count, self.sites).index_add_(-2, self.nearest, values)
        sums = values.new_zeros(*lead, count, count).index_add_(-1, self.nearest, half).double()
        return self.average(sums, self.sum_near(values.diagonal(dim1=-2, dim2=-1)))

    def sum_near(self, values: Tensor) -> Tensor:
        """Return the sums over the sites of each representative, (..., T) to (..., N), float64."""
        found = torch.zeros(*values.shape[:-1], len(self.places), dtype=torch.float64)
        return found.index_add_(-1, self.nearest, values.double())

    def average(self, sums: Tensor, same: Tensor) -> Tensor:
        """Return averages over pairs of sites, (..., N, N).

        Parameters
        ----------
        sums : Tensor
            Over all pairs of sites of two representatives, (..., N, N).
        same : Tensor
            Over the pairs of a site with itself, (..., N).
        """
        member = torch.nn.functional.one_hot(self.owner).double()
        inside = (member.mT @ (sums - torch.diag_embed(same)) @ member).diagonal(dim1=-2, dim2=-1)
        width = member.mT @ self.sizes
        within = (inside / (width * (width - 1)).clamp_min(1))[..., self.owner]
        across = sums / (self.sizes[:, None] * self.sizes)
        found = torch.where(self.alike, within[..., None], across)
        found.diagonal(dim1=-2, dim2=-1).copy_(same / self.sizes)
        return found


@cache
def group_sites(sites: int) -> Groups:
    """Return the groups of a sequence of ``sites`` sites."""
    edges = list(range(min(FIRST, sites)))
    while edges[-1] < sites - 1:
        edges.append(min(sites - 1, edges[-1] + max(1, edges[-1] // GROWTH)))
    places: list[int] = []
    owner: list[int] = []
    nearest = torch.zeros(sites, dtype=torch.long)
    for group, (start, stop) in enumerate(zip(edges, [*edges[1:], sites], strict=True)):
        middle = start + (stop - start + 1) // 2
        for first, last in ((start, middle), (middle, stop)):
            if last > first:
                nearest[first:last] = len(places)
                places.append((first + last - 1) // 2)
                owner.append(group)
    return Groups(torch.tensor(places), torch.tensor(owner), nearest)


@dataclass(frozen=True, slots=True)
class GroupedPairs(Pairs):
    """Second moments of the pairs of representatives; ``values`` has shape (2, N, N)."""

    groups: Groups

    @property
    def positions(self) -> int:
        return self.groups.sites

    @property
    def second_moments(self) -> Tensor:
        return self.values[1].diagonal()[self.groups.nearest]

    @property
    def stand_ins(self) -> tuple[Tensor, Tensor] | None:
        return self.groups.places, self.groups.nearest

    def with_diagonal(self, vector: Tensor) -> Self:
        changed = ExplicitPairs(self.values, self.samples).with_diagonal(vector[self.groups.places])
        return self._replace(changed.values)

    def add_diagonal(self, vector: Tensor) -> Self:
        changed = ExplicitPairs(self.values, self.samples).add_diagonal(vector[self.groups.places])
        return self._replace(changed.values)

    def _replace(self, values: Tensor) -> Self:
        return type(self)(values, self.samples, self.groups)

    def broadcast(self, first: Tensor, second: Tensor) -> Tensor:
        places = self.groups.places
        return torch.outer(first[places], second[places])

    def outer(self, first: Tensor, second: Tensor) -> Tensor:
        places = self.groups.places
        return first[places] @ second[places].mT

    def row_sums(self) -> Tensor:
        both = self.values[1] + (self.samples - 1) * self.values[0]
        return (self.groups.rows * both).sum(1)[self.groups.nearest]

    def column_sums(self) -> Tensor:
        return self.transpose().row_sums()

    def total(self) -> float:
        both = self.values[1] + (self.samples - 1) * self.values[0]
        return self.samples * float((self.groups.counts * both).sum())

    def transpose(self) -> Self:
        return self._replace(self.values.mT)

    def sample_pairs(self, most: int) -> tuple[Tensor, Tensor, Tensor]:
        cells, first, second, shares = _choose_cells(self.groups, most, self.samples)
        spreads = self.values[1].diagonal().clamp_min(1e-300).sqrt()
        return self.values.take(cells), spreads[first] * spreads[second], shares

    def unit(self) -> Self:
        values = torch.zeros_like(self.values)
        values[1].fill_diagonal_(1)
        return self._replace(values)

    def to_explicit(self) -> Pairs:
        return ExplicitPairs(self._expand(torch.arange(self.positions)), self.samples)

    def to_profile(self) -> Pairs:
        return self.to_explicit().to_profile()

    def _expand(self, index: Tensor) -> Tensor:
        """Return the pairs of some sites, all told apart."""
        nearest = self.groups.nearest[index]
        values = self.values[:, nearest][:, :, nearest]
        # Two sites of one representative pair like the two representatives of the group.
        count = len(self.groups.owner)
        other = torch.arange(count)
        twin = (self.groups.alike & ~torch.eye(count, dtype=torch.bool)).double()
        other = torch.where(twin.any(1), twin.argmax(1), other)
        within = self.values[:, torch.arange(count), other][:, nearest]
        same = (nearest[:, None] == nearest) & (index[:, None] != index)
        return torch.where(same, within[:, :, None], values)

    def _gather(self, index: Tensor) -> Pairs:
        if len(index) == self.positions and bool((index == torch.arange(self.positions)).all()):
            return self
        if len(index) > MOST_SITES or bool((index < 0).any()):
            raise MissingRuleError("many sites of a long sequence are moved")
        return ExplicitPairs(self._expand(index), self.samples)

    def take_back(self, signal: Pairs, index: Tensor) -> Pairs:
        if isinstance(signal, GroupedPairs):
            return signal
        place = self.groups.nearest[index]
        if bool((self.groups.sizes[place] > 1).any()):
            raise MissingRuleError("a gradient at some sites of a group")
        values = torch.zeros_like(self.values)
        values[:, place[:, None], place] = signal.to_explicit().values.double()
        return self._replace(values)

    def centre(self) -> Self:
        self._refuse()

    def subtract_columns(self, means: Tensor) -> Self:  # noqa: ARG002
        self._refuse()

    def __matmul__(self, other: Self) -> Self:
        self._refuse()

    def _scatter(self, index: Tensor, positions: int) -> Pairs:  # noqa: ARG002
        self._refuse()

    def _transform(self, matrix: LinearMap) -> Pairs:  # noqa: ARG002
        self._refuse()

    def _deal(self, shares: LinearMap) -> Pairs:  # noqa: ARG002
        self._refuse()

    def _reduce(self, outer: int, inner: int) -> Pairs:  # noqa: ARG002
        return self if inner == 1 else self._refuse()

    def _repeat(self, inner: int) -> Pairs:
        return self if inner == 1 else self._refuse()

    def _run_windows(
        self,
        sizes: Sequence[int],  # noqa: ARG002
        windows: Sequence[Window],  # noqa: ARG002
        *,
        coarse: bool,  # noqa: ARG002
    ) -> Pairs:
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise MissingRuleError("an operation across the sites of a long sequence")

    def _fit(self, positions: int) -> Pairs:  # noqa: ARG002
        return self

    def _settle(self) -> Pairs:
        return self


@lru_cache(maxsize=8)
def _choose_cells(groups: Groups, most: int, samples: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return some pairs: where they stand, both representatives, what each pair stands for."""
    count = len(groups.owner)
    # Whole groups are left out: of each that stays, both representatives do.
    kept = torch.isin(groups.owner, groups.owner[:: math.ceil(2 * count / most)]).nonzero()[:, 0]
    first, second = (side.flatten() for side in torch.meshgrid(kept, kept, indexing="ij"))
    apart = first != second
    counts = groups.counts[first, second]
    counts = counts * (samples * groups.sites**2 / counts.sum())
    cells = first * count + second
    return (
        torch.cat([cells[apart] + count**2, cells]),
        torch.cat([first[apart], first]),
        torch.cat([second[apart], second]),
        torch.cat([counts[apart], counts * (samples - 1)]),
    )


def group(pairs: Pairs) -> GroupedPairs:
    """Return pairs that are all told apart, averaged over groups of sites."""
    groups = group_sites(pairs.positions)
    return GroupedPairs(groups.pool(pairs.to_explicit().values), pairs.samples, groups)
