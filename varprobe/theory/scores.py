"""Scores of attention: products of queries and keys on the way to the weights of values.

An array of pairs of sites has no law of second order that would carry it through a softmax. What it
is made of has: a `Scores` remembers queries and keys and what was done to their products since,
which a virtual layer then does to draws of them. `ScoresGradient` is its gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from varprobe.errors import MissingRuleError
from varprobe.theory.fluctuations import Spread
from varprobe.theory.layout import Layout
from varprobe.theory.pointwise import differentiate
from varprobe.theory.standing import Standing
from varprobe.theory.streams import Stream

if TYPE_CHECKING:
    from varprobe.theory.law import Gradient, Law


@dataclass(frozen=True)
class Level:
    """Moments of all elements of an array, from draws.

    Parameters
    ----------
    mean, second_moment : float
        Averages over draws.
    kernel : float
        Relative variance of the second moment over draws.
    """

    mean: float
    second_moment: float
    kernel: float

    def times(self, factor: float) -> Level:
        """Return that of the array times a number."""
        return Level(self.mean * factor, self.second_moment * factor**2, self.kernel)

    def under(self, above: Spread) -> Level:
        """Return that of a gradient which scatters with the one it comes from, too."""
        kernel = (1 + self.kernel) * (1 + above.relative_variance) - 1
        return replace(self, kernel=kernel)

    @property
    def spread(self) -> Spread:
        """How the second moment scatters."""
        return Spread(kernel=self.kernel)


@dataclass(frozen=True)
class Bend:
    """A function of scaled products, as the tanh that caps scores.

    Parameters
    ----------
    function : callable
        Elementwise.
    scale : float
        Factor of the products in front of it.
    """

    function: Callable[[Tensor], Tensor]
    scale: float

    def apply(self, products: Tensor) -> Tensor:
        """Return the function of the products."""
        return self.function(products * self.scale)

    def slope(self, products: Tensor) -> Tensor:
        """Return its derivative by them."""
        return differentiate(self.function, products * self.scale) * self.scale

    def steepen(self) -> Bend:
        """Return the squared derivative in place of the function."""
        return Bend(lambda x: (differentiate(self.function, x) * self.scale).square(), self.scale)


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Q Kᵀ scale + bias, or its softmax.

    Parameters
    ----------
    layout : Layout
        Queries are the last dimension but one, keys the last.
    query, key : Law
        What is multiplied.
    streams : tuple of Stream
        The same as features of a layer.
    bias : Tensor or None
        Added to the scores, by sample, head, batch position, query and key, each 1 where all are
        alike; -inf where a key is hidden.
    scale : float
        Factor of the scores.
    bend : Bend or None
        What was done to the products before.
    softened : bool
        Whether the array holds the weights, behind the softmax.
    keep : float
        Probability with which dropout keeps a weight.
    measure : callable
        Draws the array and returns its moments.
    """

    layout: Layout
    query: Law
    key: Law
    streams: tuple[Stream, Stream]
    bias: Tensor | None = None
    scale: float = 1.0
    bend: Bend | None = None
    softened: bool = False
    keep: float = 1.0
    standing: Standing
    measure: Callable[[Scores], Level]

    @property
    def level(self) -> Level:
        """Moments of the elements, those of hidden keys left out."""
        return self.measure(self)

    def add(self, bias: Tensor) -> Scores:
        """Return the scores with something added to them."""
        return replace(self, bias=bias if self.bias is None else self.bias + bias)

    def multiply(self, factor: float) -> Scores:
        """Return the scores times a number."""
        bias = None if self.bias is None else self.bias * factor
        return replace(self, scale=self.scale * factor, bias=bias)


@dataclass(frozen=True)
class ScoresGradient:
    """The gradient of scores or weights.

    Parameters
    ----------
    level : Level
        Of its elements.
    dropped, softened : Level
        What it is below the dropout, and below the softmax.
    query, key : Gradient
        What it will be at the queries and the keys, once it has come down to their products.
    """

    level: Level
    dropped: Level
    softened: Level
    query: Gradient
    key: Gradient

    @property
    def standing(self) -> Standing:
        """How much it may be trusted."""
        return self.query.standing


class Weights:
    """Attention weights of some draws, and the way of a gradient back through them.

    Parameters
    ----------
    scores : Scores
        What is done to the products.
    query, key : Tensor
        Draws, (..., queries, f) and (..., keys, f).
    generator : torch.Generator
        Of the dropout.
    rows : Tensor or None
        The queries that were drawn, if it is not all.
    """

    def __init__(
        self,
        scores: Scores,
        query: Tensor,
        key: Tensor,
        generator: torch.Generator,
        rows: Tensor | None = None,
    ) -> None:
        self.scale, bend = scores.scale, scores.bend
        products = query @ key.mT
        self.slopes = None if bend is None else bend.slope(products)
        self.scores = products if bend is None else bend.apply(products)
        self.scores.mul_(scores.scale)
        if scores.bias is not None:
            bias = scores.bias if rows is None else _take_rows(scores.bias, rows)
            self.scores = self.scores + _deal(bias, *self.scores.shape[:3:2])
        # A query that sees no key has no weights: torch's own attention returns zeros for it.
        self.soft = torch.softmax(self.scores, -1).nan_to_num_(0.0)
        self.kept: Tensor | None = None
        if scores.keep < 1:
            coins = torch.rand(self.soft.shape, generator=generator)
            self.kept = (coins < scores.keep) / scores.keep

    @property
    def passed(self) -> Tensor:
        """The weights behind the dropout."""
        return self.soft if self.kept is None else self.soft * self.kept

    def reach_products(self, softened: Tensor) -> Tensor:
        """Return the gradient of the products, given that of the scores."""
        reached = softened * self.scale
        return reached if self.slopes is None else reached.mul_(self.slopes)

    @property
    def gain(self) -> float:
        """Mean squared derivative of scores by products, where weights are."""
        if self.slopes is None:
            return self.scale**2
        shares = self.soft.square()
        return self.scale**2 * float((shares * self.slopes.square()).sum() / shares.sum())

    def drop_back(self, gradient: Tensor) -> Tensor:
        """Return the gradient below the dropout."""
        return gradient if self.kept is None else gradient * self.kept

    def soften_back(self, gradient: Tensor) -> Tensor:
        """Return the gradient below the softmax."""
        return self.soft * (gradient - (self.soft * gradient).sum(-1, keepdim=True))


def _deal(bias: Tensor, draws: int, heads: int) -> Tensor:
    """Return the bias of two samples and some heads in each draw, (draws, 2, heads, ...).

    All samples have their turn, each time with another one, and so have the heads.
    """
    samples, known = bias.shape[:2]
    if samples == known == 1:
        return bias[0, 0]
    first = torch.arange(draws) % samples
    apart = 1 + torch.arange(draws) // samples % max(1, samples - 1)
    both = torch.stack([first, (first + apart) % samples], dim=1)
    chosen = torch.arange(draws * heads).view(draws, 1, heads) % known
    return bias[both[:, :, None], chosen]


def _take_rows(bias: Tensor, rows: Tensor) -> Tensor:
    """Return the bias of some queries, without the one batch position."""
    chosen = bias if bias.shape[-2] == 1 else bias[..., rows, :]
    return chosen.squeeze(2)


def check_apart(streams: list[Stream]) -> None:
    """Refuse arrays that are made by the same weights: their draws would be independent.

    Raises
    ------
    MissingRuleError
        If two of them are.
    """
    for i, first in enumerate(streams):
        for second in streams[:i]:
            a, b = first.mixing, second.mixing
            one, other = a.projection.weight, b.projection.weight
            shared = one.bit == other.bit and one.part == other.part
            if shared and bool(torch.isin(a.used, b.used).any()):
                raise MissingRuleError("queries, keys or values share weights")
