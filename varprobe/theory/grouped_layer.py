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
from varprobe.theory.virtual_layer import HEADS, MOST_DRAWS, Output, Returned

MOST_WIDTH = 256
"""Features of the input that are drawn; more of them move second moments by less than a
percent."""

MOST_NUMBERS = 2**20
"""Numbers in all draws of the input together, 4 MB."""


SAMPLES = ((0, 0), (1, 1), (0, 1))
"""Pairs of the two samples of a draw."""


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
        passed = _fold(draw.passed, draw.x)
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
        query, key = layer.query, layer.key
        pairs = query.source.pairs
        assert isinstance(pairs, GroupedPairs)
        self.layer, self.groups = layer, pairs.groups
        self.generator = torch.Generator().manual_seed(layer.seed)
        size = 2 * pairs.positions * min(query.source.features, MOST_WIDTH)
        self.draws = max(1, min(MOST_DRAWS, MOST_NUMBERS // size))
        self.x = draw_law(query.source, self.draws, self.generator, MOST_WIDTH)
        places = self.groups.places
        self.q = query.project(self.x[:, :, places], HEADS, self.generator, places)
        self.k = key.project(self.x, HEADS, self.generator)
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
        slopes = self._reach_values(drawn)
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
        mixed = self._reach_keys(signal)
        plain = mixed
        if layer.key.mixing.index is None:
            plain = self._unmix_keys(scores[..., places], mixed)
        key = Returned(mixed, plain, 0.0, 0.0, averaged=True)
        counts = self.groups.counts.float()
        through = {pair: counts * signal[int(pair[0] == pair[1])].float() for pair in SAMPLES}
        shared = layer.query.heads // layer.value.heads
        passed = _collect(self.passed[..., places], through) * shared
        return query, key, Returned(passed, passed, 0.0, 0.0, averaged=True)

    def _reach_keys(self, signal: Tensor) -> Tensor:
        """Return the pairs of the keys' gradient, averaged over gradient and values by formula.

        Sums over all queries by a few of them would else be lost in noise.
        """
        layer, places = self.layer, self.groups.places
        reached = _fold(self.weights, self.x)
        near, weights = self.x[:, :, None, places], self.weights[..., places]
        value = layer.value
        level = value.variance * value.source.features / self.x.shape[-1] * value.features
        expected = layer.query.mixing.pairs().values
        found = []
        for s, t in SAMPLES:
            alike = expected[int(s == t)].float().expand(self.draws, HEADS, -1, -1)
            if s == t:
                own = self.q[:, s].square().mean(-1)
                alike = alike - torch.diag_embed(alike.diagonal(dim1=-2, dim2=-1) - own)
            joint = self.groups.counts.float() * signal[int(s == t)].float() * alike
            left, right = weights[:, s].mT, weights[:, t]
            first = (left @ joint @ right) * (near[:, s] @ near[:, t].mT)
            second = ((left @ joint) * (near[:, s] @ reached[:, t].mT)) @ right
            third = left @ ((joint @ right) * (reached[:, s] @ near[:, t].mT))
            fourth = left @ (joint * (reached[:, s] @ reached[:, t].mT)) @ right
            part = (first - second - third + fourth).double().mean((0, 1))
            found.append((part + part.mT) / 2 * (level * layer.scale**2))
        pairs = torch.stack([found[2], (found[0] + found[1]) / 2])
        pairs[1].diagonal().clamp_min_(0)
        return pairs

    def _reach_values(self, drawn: Tensor) -> Tensor:
        """Return the gradient of the attention weights, the values' bias left out.

        That adds the same to all keys, which a softmax takes no notice of.
        """
        value, width = self.layer.value, self.x.shape[-1]
        weight = value.draw_weight((self.draws, HEADS), width, self.generator)
        weight = weight.view(self.draws, 1, width, HEADS, value.width).movedim(3, 2)
        return _fold(drawn.transpose(1, 2) @ weight.mT, self.x.mT)

    def _unmix(self, stream: Stream, gradient: Tensor) -> Tensor:
        plain = stream.unmix(gradient, self.groups.places)
        return _multiply(plain, plain) / stream.width

    def _unmix_keys(self, near: Tensor, mixed: Tensor) -> Tensor:
        """Return the pairs of the keys' gradient before they were rotated.

        Each key has an angle of its own, so that the sums over queries come first. That takes
        queries of one group for equal and makes too much of them; but correlations are about right,
        and a rotation changes no length.
        """
        key, places = self.layer.key, self.groups.places
        sums = (near * self.groups.sizes.float()[:, None]).mT @ self.q
        found = self._unmix(key, sums)
        squares = key.unmix(torch.ones(len(places), key.features), places, square=True)
        lengths = mixed[1].diagonal() * squares.double().mean(1)
        scales = (lengths / found[1].diagonal().clamp_min(1e-300)).sqrt()
        return found * scales[:, None] * scales


def _fold(left: Tensor, right: Tensor) -> Tensor:
    """Return (draws, 2, heads, N, k) times (draws, 2, k, f), which is read once for all heads."""
    product = left.flatten(2, 3) @ right
    return product.view(*left.shape[:-1], right.shape[-1])


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
