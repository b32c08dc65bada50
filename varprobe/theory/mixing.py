"""Arrays made of the output of one linear layer by moving and weighing its features.

Between a layer and the attention that reads it, features are cut into queries, keys and values,
dealt to heads and rotated by angles that depend on the position. An array then remembers which
features of which layer it holds, with what weights: attention draws the layer's input once and does
the same to it. The gradient that comes back is known in full where the features are whole again;
`Awaited` is what it will be there, while its parts are still on their way.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from varprobe.theory.pairs import Pairs
from varprobe.theory.pointwise import IDENTITY, Pointwise

if TYPE_CHECKING:
    from varprobe.theory.law import Law, Weight


@dataclass(frozen=True)
class HeadNorm:
    """A norm over all features of a head, or of all: (z - mean z) / sqrt(var z + eps) times gamma.

    Parameters
    ----------
    features : int
        Over how many it is.
    eps, gamma : float
        As above.
    centred : bool
        Whether the mean is taken off.
    """

    features: int
    eps: float
    gamma: float
    centred: bool

    def __call__(self, z: Tensor) -> Tensor:
        """Return the norm of (..., heads, P, f), over f features or those of all heads.

        A few drawn heads stand for all.
        """
        return self.gamma * self._scale(z)[0]

    def go_back(self, z: Tensor, gradient: Tensor) -> Tensor:
        """Return the gradient of z."""
        unit, scale = self._scale(z)
        if self.centred:
            gradient = gradient - self._average(gradient)
        along = self._average(gradient * unit)
        return self.gamma * scale * (gradient - along * unit)

    def _scale(self, z: Tensor) -> tuple[Tensor, Tensor]:
        if self.centred:
            z = z - self._average(z)
        scale = (self._average(z.square()) + self.eps).rsqrt()
        return z * scale, scale

    def _average(self, z: Tensor) -> Tensor:
        return z.mean(-1 if z.shape[-1] == self.features else (-3, -1), keepdim=True)


@dataclass(frozen=True, eq=False)
class Projection:
    """One linear layer: what it reads, its parameters, and the pairs of its output.

    ``norm`` is what was done to each head of the output, which ``pairs`` are then behind.
    """

    source: Law
    weight: Weight
    bias: Weight | None
    pairs: Pairs
    norm: HeadNorm | None = None


@dataclass(frozen=True, eq=False)
class Term:
    """One feature of the layer for each feature of the array, times a weight.

    Parameters
    ----------
    index : Tensor
        The feature of the layer that each feature reads, shape (F,).
    weights : Tensor or None
        By position and feature, (P, c) or (1, c), float32, where c divides F: feature f has weight
        ``f % c``. None for 1.
    """

    index: Tensor
    weights: Tensor | None = None

    def take(self, chosen: Tensor) -> Term:
        """Return the term of some of the features, by their numbers."""
        weights = self.weights
        if weights is None or weights.shape[1] == 1:
            return Term(self.index[chosen], weights)
        period = weights.shape[1]
        columns = chosen % period
        if not len(columns) % period and bool((columns.view(-1, period) == columns[:period]).all()):
            columns = columns[:period]
        return Term(self.index[chosen], weights[:, columns])

    def weigh(self, table: Tensor) -> Term:
        """Return the term times a table like ``weights``."""
        if self.weights is None:
            return Term(self.index, table)
        period = math.lcm(self.weights.shape[1], table.shape[1])
        known, new = (w.repeat(1, period // w.shape[1]) for w in (self.weights, table))
        return Term(self.index, known * new)

    def relocate(self, index: Tensor) -> Term:
        """Return the term at other positions."""
        if self.weights is None or self.weights.shape[0] == 1:
            return self
        return Term(self.index, self.weights[index])

    def expand(self, features: int) -> Tensor:
        """Return the weights of each of ``features`` features, a multiple of the period."""
        if self.weights is None:
            return torch.ones(1, features)
        times = features // self.weights.shape[1]
        return self.weights if times == 1 else self.weights.repeat(1, times)


@dataclass(frozen=True, eq=False)
class Mixing:
    """A sum of terms of one layer.

    Parameters
    ----------
    projection : Projection
        The layer.
    terms : tuple of Term
        What is summed.
    places : Tensor or None
        The position of the layer's output that each position reads, None for its own.
    function : Pointwise
        The law's function for which this holds; composed with another, the array is no longer a
        sum of features.
    """

    projection: Projection
    terms: tuple[Term, ...]
    places: Tensor | None = None
    function: Pointwise = IDENTITY

    @classmethod
    def of(cls, projection: Projection, features: int) -> Mixing:
        """Return the layer's output itself."""
        return cls(projection, (Term(torch.arange(features)),))

    @property
    def features(self) -> int:
        """Number of features of the array."""
        return len(self.terms[0].index)

    @property
    def count(self) -> int:
        """Number of summands in all features."""
        return self.features * len(self.terms)

    @property
    def index(self) -> Tensor | None:
        """The layer's features that the array simply holds, None if they are weighed or added."""
        plain = len(self.terms) == 1 and self.terms[0].weights is None
        plain = plain and self.projection.norm is None
        return self.terms[0].index if plain else None

    @property
    def used(self) -> Tensor:
        """The layer's features that the array depends on, each once."""
        found: Tensor = torch.unique(torch.cat([term.index for term in self.terms]))
        return found

    def fill_up(self, count: int) -> tuple[Term, ...]:
        """Return so many terms: the array's own, and others of weight zero."""
        nothing = Term(self.terms[0].index, torch.zeros(1, 1))
        return (*self.terms, *[nothing] * (count - len(self.terms)))

    def take(self, chosen: Tensor) -> Mixing:
        """Return the array of some of the features."""
        return replace(self, terms=tuple(term.take(chosen) for term in self.terms))

    def weigh(self, table: Tensor, function: Pointwise) -> Mixing:
        """Return the array times a table by position and feature."""
        terms = tuple(term.weigh(table) for term in self.terms)
        return replace(self, terms=terms, function=function)

    def normalize(self, norm: HeadNorm, pairs: Pairs) -> Mixing:
        """Return the array whose heads went through a norm, given its pairs then."""
        projection = replace(self.projection, pairs=pairs, norm=norm)
        return Mixing(projection, self.terms)

    def relocate(self, index: Tensor) -> Mixing:
        """Return the array whose position p is position ``index[p]`` of this one."""
        if bool((index == torch.arange(len(index))).all()):
            return self
        places = index if self.places is None else self.places[index]
        return replace(self, terms=tuple(t.relocate(index) for t in self.terms), places=places)

    def adds_to(self, other: Mixing) -> bool:
        """Tell whether both are made of one layer, position by position."""
        if self.projection is not other.projection:
            return False
        if self.places is None or other.places is None:
            return self.places is other.places
        return self.places is other.places or bool(torch.equal(self.places, other.places))

    def pairs(self) -> Pairs:
        """Return the pairs of the array: features of the layer are independent and alike."""
        found = self.projection.pairs
        if self.places is not None:
            found = found.gather(self.places)
        if self.index is not None:
            return found
        kernel = torch.zeros_like(found.values)
        for first in self.terms:
            for second in self.terms:
                same = (first.index == second.index).float()
                if not bool(same.any()):
                    continue
                period = math.lcm(_period(first), _period(second))
                share = same.view(-1, period).mean(0) / period
                size = found.positions
                left = (first.expand(period) * share).expand(size, period)
                kernel += found.outer(left, second.expand(period).expand(size, period))
        return replace(found, values=found.values * kernel)


def _period(term: Term) -> int:
    return 1 if term.weights is None else term.weights.shape[1]


def join_features(parts: Sequence[Mixing], outer: int, inner: int) -> Mixing | None:
    """Return the arrays joined along one axis of features.

    ``outer`` and ``inner`` are the features outside and inside of the axis. None where the parts
    are not of one layer.
    """
    first = parts[0]
    if any(not first.adds_to(part) for part in parts):
        return None
    most = max(len(part.terms) for part in parts)
    terms = []
    for ranked in zip(*(part.fill_up(most) for part in parts), strict=True):
        blocks = [term.index.view(outer, -1, inner) for term in ranked]
        index = torch.cat(blocks, dim=1).flatten()
        if all(term.weights is None for term in ranked):
            terms.append(Term(index))
            continue
        sizes = [len(term.index) // outer for term in ranked]
        # The weights of a few blocks serve all, as soon as every period comes out even.
        periods = [_period(term) for term in ranked]
        counts = [p // math.gcd(p, size) for p, size in zip(periods, sizes, strict=True)]
        count = math.lcm(*counts)
        weights = [t.expand(count * size) for t, size in zip(ranked, sizes, strict=True)]
        rows = max(w.shape[0] for w in weights)
        shaped = [w.expand(rows, -1).view(rows, count, -1, inner) for w in weights]
        terms.append(Term(index, torch.cat(shaped, dim=2).flatten(1)))
    return Mixing(first.projection, tuple(terms), first.places)


@dataclass(frozen=True, eq=False)
class Awaited:
    """What a gradient is once all parts of it have met again.

    Parameters
    ----------
    pairs : Pairs
        Its pairs then, averaged over ``index``.
    products : float
        Second moment of the gradient of a weight of the layer, averaged likewise.
    index : Tensor
        The layer's features that it reaches, each once.
    total, gathered : int
        Summands that it consists of, and how many of them are here.
    here : Tensor or None
        Which features of the layer the array at hand holds; None where they are weighed or added.
    """

    pairs: Pairs
    products: float
    index: Tensor
    total: int
    gathered: int
    here: Tensor | None

    def arrive(self, mixing: Mixing | None, gathered: int) -> Awaited | None:
        """Return the same at another array, where ``gathered`` summands have come together."""
        if mixing is None:
            return None
        return replace(self, gathered=gathered, here=mixing.index)

    def share_among(self, part: Mixing, whole: Mixing) -> int:
        """Return how many of the summands go to one of several operands."""
        return self.gathered * part.count // whole.count

    def merge(self, other: Awaited) -> Awaited:
        """Return both parts together."""
        return replace(self, gathered=self.gathered + other.gathered)

    def repeat(self, times: int) -> Awaited:
        """Return the sum over copies of the features, whose gradients are independent."""
        return replace(
            self,
            pairs=self.pairs * float(times),
            products=self.products * times,
            total=self.total // times,
            gathered=self.gathered // times,
        )

    @property
    def is_complete(self) -> bool:
        """Whether all parts have met, in an array of plain features."""
        return self.here is not None and self.gathered == self.total
