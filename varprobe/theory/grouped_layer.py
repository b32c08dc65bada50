"""Attention over a long sequence: every key is drawn, but only the queries of some sites.

Keys are as many as the sequence has sites, since a softmax over fewer is another one. Queries and
the pairs of everything are those of the representatives of `varprobe.theory.grouped`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from varprobe.errors import MissingRuleError
from varprobe.theory.grouped import GroupedPairs
from varprobe.theory.streams import Stream, draw_law, draw_pairs
from varprobe.theory.virtual_layer import FEWEST_DRAWS, HEADS, MOST_DRAWS, Output, Returned

MOST_WIDTH = 512
"""Features of the input that are drawn; more of them move second moments by some tenths of a
percent."""

MOST_NUMBERS = 2**22
"""Numbers in all draws of the input together, 16 MB."""


@dataclass(frozen=True)
class GroupedLayer:
    """Attention of a sequence to itself; see `varprobe.theory.virtual_layer.VirtualLayer`."""

    query: Stream
    key: Stream
    value: Stream
    bias: Tensor | None
    scale: float
    keep: float
    seed: int

    def forward(self) -> Output:
        """Return the pairs of the output by representatives."""
        draw = _Draw(self)
        passed = draw.passed @ draw.x[:, :, None]
        level = self.value.variance * self.value.source.features
        pairs = _multiply(passed, passed) * level / passed.shape[-1] + self.value.offset
        sizes = passed.square().sum(-1).double().mean((1, 3))
        kernel = sizes.var(1).mean() / sizes.mean().square() / self.query.heads
        return Output(pairs, float(kernel))

    def backward(self, signal: Tensor) -> tuple[Returned, Returned, Returned]:
        """Return the gradients of query, key and value by representatives."""
        level = float(signal[1].diagonal().mean())
        if level <= 0:
            raise MissingRuleError("no gradient comes back to attention")
        draw = _Draw(self)
        unit = signal / level
        shared = self.query.heads // self.key.heads
        query, key, value = draw.go_back(unit)
        products = self._sum_products(query.plain)
        # Scores are bilinear: queries and keys get gradients of one size through them.
        ratio = shared * self.query.variance / self.key.variance
        return (
            replace(query, products=products).scale(level),
            replace(key.scale(shared), products=products * ratio).scale(level),
            replace(value, products=self._sum_products(value.plain)).scale(level),
        )

    def _sum_products(self, gradient: Tensor) -> float:
        source = self.query.source.pairs
        assert isinstance(source, GroupedPairs)
        return max(0.0, (replace(source, values=gradient) * source).total())


class _Draw:
    """One set of draws, the same whenever it is made."""

    def __init__(self, layer: GroupedLayer) -> None:
        query, key, value = layer.query, layer.key, layer.value
        pairs = query.source.pairs
        assert isinstance(pairs, GroupedPairs)
        self.layer, self.groups = layer, pairs.groups
        self.generator = torch.Generator().manual_seed(layer.seed)
        size = 2 * pairs.positions * min(query.source.features, MOST_WIDTH)
        self.draws = max(FEWEST_DRAWS, min(MOST_DRAWS, MOST_NUMBERS // size))
        self.x = draw_law(query.source, self.draws, self.generator, MOST_WIDTH)
        places = self.groups.places
        self.q = query.project(self.x[:, :, places], HEADS, self.generator, places)
        self.k = key.project(self.x, HEADS, self.generator)
        self.v = value.project(self.x, HEADS, self.generator)
        scores = self.q @ self.k.mT * layer.scale
        if layer.bias is not None:
            scores = scores + layer.bias[places]
        self.weights = torch.softmax(scores, -1).nan_to_num(0.0)
        self.kept = None
        if layer.keep < 1:
            coins = torch.rand(scores.shape, generator=self.generator)
            self.kept = (coins < layer.keep) / layer.keep

    @property
    def passed(self) -> Tensor:
        """Attention weights after dropout, (draws, 2, heads, representatives, sites)."""
        return self.weights if self.kept is None else self.weights * self.kept

    def go_back(self, signal: Tensor) -> tuple[Returned, Returned, Returned]:
        """Return the gradients, products left out, for a gradient of unit size."""
        layer, places = self.layer, self.groups.places
        drawn = draw_pairs(signal, self.generator, (self.draws, HEADS), layer.value.features)
        slopes = drawn.transpose(1, 2) @ self.v.mT
        if self.kept is not None:
            slopes = slopes * self.kept
        slopes = slopes - (self.weights * slopes).sum(-1, keepdim=True)
        scores = self.weights * slopes * layer.scale
        to_query = scores @ self.k
        query = Returned(
            _multiply(to_query, to_query) / layer.query.features,
            self._unmix(layer.query, to_query),
            0.0,
            0.0,
            averaged=True,
        )
        counts = self.groups.counts.float()
        # What arrives at the keys that are representatives, from all queries.
        near = scores[..., places]
        alike = {
            (s, t): counts * (self.q[:, s] @ self.q[:, t].mT) / layer.query.features
            for s, t in ((0, 0), (1, 1), (0, 1))
        }
        mixed = _collect(near, alike)
        plain = mixed if layer.key.mixing.index is not None else self._unmix_keys(near, mixed)
        key = Returned(mixed, plain, 0.0, 0.0, averaged=True)
        through = {(s, t): counts * signal[int(s == t)].float() for s, t in alike}
        shared = layer.query.heads // layer.value.heads
        passed = _collect(self.passed[..., places], through) * shared
        return query, key, Returned(passed, passed, 0.0, 0.0, averaged=True)

    def _unmix(self, stream: Stream, gradient: Tensor) -> Tensor:
        plain = stream.unmix(gradient, self.groups.places)
        return _multiply(plain, plain) / stream.width

    def _unmix_keys(self, near: Tensor, mixed: Tensor) -> Tensor:
        """Return the pairs of the keys' gradient before they were rotated.

        Each key has an angle of its own, so that the sums over queries come first. That takes
        queries of one group for equal, and the pair of a key with itself too large; but a rotation
        changes no length.
        """
        key, places = self.layer.key, self.groups.places
        sums = (near * self.groups.sizes.float()[:, None]).mT @ self.q
        found = self._unmix(key, sums)
        squares = key.unmix(torch.ones(len(places), key.features), places, square=True)
        lengths = squares.double().mean(1)
        found[1].diagonal().copy_(mixed[1].diagonal() * lengths)
        return found


def _collect(weights: Tensor, inner: dict[tuple[int, int], Tensor]) -> Tensor:
    """Return the average of Wᵀ K W over draws and heads, W (draws, 2, heads, N, N): (2, N, N)."""

    def part(s: int, t: int) -> Tensor:
        left, right = weights[:, s].mT, weights[:, t]
        found: Tensor = (left @ inner[s, t] @ right).double().mean((0, 1))
        return (found + found.mT) / 2

    return torch.stack([part(0, 1), (part(0, 0) + part(1, 1)) / 2])


def _multiply(first: Tensor, second: Tensor) -> Tensor:
    """Return the average second moments of (draws, 2, heads, N, f), summed over f: (2, N, N)."""

    def part(s: int, t: int) -> Tensor:
        found: Tensor = (first[:, s] @ second[:, t].mT).double().mean((0, 1))
        return (found + found.mT) / 2

    return torch.stack([part(0, 1), (part(0, 0) + part(1, 1)) / 2])
