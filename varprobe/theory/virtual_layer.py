"""Attention as an average over a virtual layer.

The scores of all pairs of sites have pair moments of four indices, which are never formed. Instead
the layer's input is drawn from its law, at its real width, with fresh weights for a few heads; the
scores are computed for real, with whatever rotation or mask they have, and second moments are read
back. What is linear in independent numbers (the values, the gradient's way to them) is averaged by
formula. Draws come from a generator of their own and are the same for the same layer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from varprobe.errors import MissingRuleError
from varprobe.theory.levels import measure_level, vary_grams, weigh_together
from varprobe.theory.scores import Level, Scores, Weights
from varprobe.theory.streams import Stream, cut_lead, draw_law, draw_pairs

HEADS = 4
"""Virtual heads that share one draw of the input."""

MOST_DRAWS = 24
"""Draws of the input: 96 heads in all bring second moments to a percent or two."""

FEWEST_DRAWS = 2

MOST_NUMBERS = 2**24
"""Attention weights in all draws together, 64 MB; longer sequences get fewer draws."""


@dataclass(frozen=True)
class Output:
    """What is found of the output.

    Parameters
    ----------
    pairs : Tensor
        Float64 (2, P, P).
    kernel : float
        Relative variance over draws of the second moment that is expected of them.
    own : float
        Relative variance about that, from the finite number of values' features.
    gram : float
        Variance of the entries of the Gram matrix, relative to the squared second moment.
    together : float
        Share of the second moment from pairs of different sites.
    """

    pairs: Tensor
    kernel: float
    own: float
    gram: float
    together: float


@dataclass(frozen=True)
class Returned:
    """The gradient of one stream.

    Parameters
    ----------
    mixed : Tensor
        Pairs of the stream as it is, (2, P, P).
    plain : Tensor
        Pairs of the layer's features.
    products : float
        Second moment of the gradient of the layer's weights.
    kernel : float
        Relative variance of the second moment over draws.
    averaged : bool
        Whether the gradient that came in was averaged over, not drawn.
    leverage : float
        Of the scatter of the entries of its Gram matrix, in the kernel.
    """

    mixed: Tensor
    plain: Tensor
    products: float
    kernel: float
    averaged: bool = False
    leverage: float = 0.0

    def scale(self, level: float) -> Returned:
        """Return the same for a gradient that is ``level`` times as large, squared."""
        return replace(
            self,
            mixed=self.mixed * level,
            plain=self.plain * level,
            products=self.products * level,
        )


@dataclass(frozen=True)
class Back:
    """The gradients that an attention sends to what it reads, and those on the way there.

    Parameters
    ----------
    query, key, value : Returned
        Of the streams.
    passed, dropped, softened : Level
        Of the weights that the values were added up with, the same below their dropout, and the
        scores.
    """

    query: Returned
    key: Returned
    value: Returned
    passed: Level
    dropped: Level
    softened: Level

    def scale(self, level: float) -> Back:
        """Return the same for a gradient that is ``level`` times as large, squared."""
        root = math.sqrt(level)
        return Back(
            self.query.scale(level),
            self.key.scale(level),
            self.value.scale(level),
            self.passed.times(root),
            self.dropped.times(root),
            self.softened.times(root),
        )


@dataclass(frozen=True)
class VirtualLayer:
    """Attention of some streams.

    Parameters
    ----------
    weights : Scores
        Of queries and keys, behind the softmax.
    value : Stream
        What is added up.
    samples : int
        Samples of the batch.
    seed : int
        Of the draws.
    """

    weights: Scores
    value: Stream
    samples: int
    seed: int

    def forward(self) -> Output:
        """Return the law of the output: A K_v Aᵀ, averaged over the attention weights A."""
        draw = _Draw(self)
        same = [draw.gram(s, s) for s in (0, 1)]
        differ = draw.gram(0, 1)
        pairs = _pool(differ, (same[0] + same[1]) / 2)
        heads = self.weights.streams[0].heads
        scale = float(pairs[1].diagonal().mean()) ** 2
        shared = heads // self.value.heads
        square = draw.average([same[0].square(), same[1].square()], differ.square())
        if shared > 1:
            # Heads that read the same values scatter together, as far as they weigh them alike.
            other = [draw.gram(s, t, 1).square() for s, t in ((0, 0), (1, 1), (0, 1))]
            square += (shared - 1) * draw.average(other[:2], other[2])
        moved = draw.average([g.mean(1).var(0) for g in same], differ.mean(1).var(0))
        return Output(
            pairs,
            kernel=vary_grams(same, self.samples, heads),
            own=2 * square / (heads * self.value.features * max(scale, 1e-300)),
            gram=moved / max(scale, 1e-300),
            together=weigh_together(draw.weights.passed, draw.measure_values(), pairs),
        )

    def backward(self, signal: Tensor) -> Back:
        """Return the gradients of the streams, given the pairs (2, P, P) of that of the output."""
        level = float(signal[1].diagonal().mean())
        if level <= 0:
            raise MissingRuleError("no gradient comes back to attention")
        draw = _Draw(self)
        unit = signal / level
        lead = (draw.draws, HEADS)
        drawn = draw_pairs(unit, draw.generator, lead, self.value.features)
        return draw.go_back(unit.float(), drawn).scale(level)


def measure_scores(scores: Scores, seed: int) -> Level:
    """Return the moments of scores, or of weights."""
    generator = torch.Generator().manual_seed(seed)
    _, drawn = draw_streams(scores.streams, _count_draws(scores), generator)
    query, key = (s.split(s.mix(z)) for s, z in zip(scores.streams, drawn, strict=True))
    weights = Weights(scores, query, key, generator)
    values = weights.passed if scores.softened else weights.scores
    samples = scores.query.pairs.samples
    return measure_level(values, samples, scores.streams[0].heads)


def _count_draws(scores: Scores) -> int:
    query, key = scores.streams
    size = 2 * HEADS * query.lead * query.sites * key.sites
    return max(FEWEST_DRAWS, min(MOST_DRAWS, MOST_NUMBERS // size))


def draw_streams(
    streams: Sequence[Stream], draws: int, generator: torch.Generator
) -> tuple[list[Tensor], list[Tensor]]:
    """Return draws of what streams read, (draws, 2, P, n), and of what their layers make of it."""
    sources = {id(s.source): s.source for s in streams}
    drawn = {i: draw_law(law, draws, generator) for i, law in sources.items()}
    inputs = [s.place(drawn[id(s.source)]) for s in streams]
    pairs = zip(streams, inputs, strict=True)
    return inputs, [s.project(x, HEADS, generator) for s, x in pairs]


class _Draw:
    """One set of draws of a virtual layer: the same whenever it is made."""

    def __init__(self, layer: VirtualLayer) -> None:
        self.layer = layer
        self.query, self.key = layer.weights.streams
        self.generator = torch.Generator().manual_seed(layer.seed)
        self.draws = _count_draws(layer.weights)
        streams = (self.query, self.key, layer.value)
        self.inputs, self.outputs = draw_streams(streams, self.draws, self.generator)
        pairs = zip(streams, self.outputs, strict=True)
        self.q, self.k, self.v = (stream.split(stream.mix(z)) for stream, z in pairs)
        self.weights = Weights(layer.weights, self.q, self.k, self.generator)

    def average(self, same: Sequence[Tensor], differ: Tensor) -> float:
        """Return the average over pairs of positions of all samples."""
        share = 1 / self.layer.samples
        alike = sum(float(x.double().mean()) for x in same) / len(same)
        return share * alike + (1 - share) * float(differ.double().mean())

    def gram(self, s: int, t: int, shift: int = 0) -> Tensor:
        """Return A_s K_v A_tᵀ for two samples, (draws, heads, P, P), or of a head and another."""
        stream, x = self.layer.value, self.inputs[2]
        inner = stream.variance * (x[:, s] @ x[:, t].mT) + stream.offset
        passed = self.weights.passed
        return _sandwich(passed[:, s], inner[:, None], passed[:, t].roll(shift, 1))

    def measure_values(self) -> float:
        """Return the second moment of the values."""
        stream, x = self.layer.value, self.inputs[2]
        return stream.variance * float(x.square().sum(-1).mean()) + stream.offset

    def go_back(self, signal: Tensor, dy: Tensor) -> Back:
        """Return the gradients, given a unit law and draws (draws, heads, 2, P, f) of it."""
        layer, heads = self.layer, self.query.heads
        above = layer.value.features
        dy = dy.transpose(1, 2).reshape(*self.q.shape[:-1], above)
        slopes = dy @ self.v.mT
        dropped = self.weights.drop_back(slopes)
        softened = self.weights.soften_back(dropped)
        scores = self.weights.reach_products(softened)
        return Back(
            self._return(self.query, 0, scores @ self.k, 1),
            self._return(self.key, 1, scores.mT @ self.q, heads // self.key.heads),
            self._return_values(signal, heads // layer.value.heads),
            *(measure_level(x, layer.samples, heads) for x in (slopes, dropped, softened)),
        )

    def _return(self, stream: Stream, which: int, gradient: Tensor, shared: int) -> Returned:
        """Return what comes back to a stream; ``shared`` query heads read each of its heads."""
        mixed = gradient.flatten(-3, -2)
        plain = stream.unmix(mixed, self.outputs[which])
        grams = [plain[:, s] @ plain[:, t].mT / stream.width for s, t in ((0, 0), (1, 1), (0, 1))]
        pairs = _pool(grams[2], (grams[0] + grams[1]) / 2)
        known = pairs if stream.mixing.index is not None else _measure(mixed)
        products = self._multiply(self.inputs[which], grams)
        # Queries that share their keys and values get gradients that scatter together.
        kernel = vary_grams(grams[:2], self.layer.samples, self.key.heads)
        return Returned(known * shared, pairs * shared, products * shared, kernel)

    def _return_values(self, signal: Tensor, shared: int) -> Returned:
        passed = self.weights.passed.mT
        grams = [
            _sandwich(passed[:, s], signal[b], passed[:, t])
            for s, t, b in ((0, 0, 1), (1, 1, 1), (0, 1, 0))
        ]
        pairs = _pool(grams[2], (grams[0] + grams[1]) / 2) * shared
        kernel = vary_grams(grams[:2], self.layer.samples, self.query.heads)
        products = self._multiply(self.inputs[2], grams) * shared
        return Returned(pairs, pairs, products, kernel, averaged=True, leverage=self._lift(signal))

    def _lift(self, signal: Tensor) -> float:
        """Return how the scatter of the gradient's Gram entries counts in what values get.

        That is Σ M G over pairs of queries, for M = A Aᵀ and the Gram matrix G of each sample.
        """
        passed = self.weights.passed
        weights = (passed @ passed.mT).double().mean((0, 1, 2))
        lead, sites = weights.shape[:2]
        blocks = signal[1].double().view(lead, sites, lead, sites)
        total = torch.einsum("lij,lilj->", weights, blocks)
        squares = weights.square().sum() - weights.diagonal(dim1=1, dim2=2).square().sum()
        return float(2 * squares / total.square().clamp_min(1e-300)) / self.layer.samples

    def _multiply(self, x: Tensor, grams: list[Tensor]) -> float:
        """Return the mean square of Σ g x over all samples and positions, given Grams of g."""
        count, width = self.layer.samples, x.shape[-1]
        inputs = [x[:, s] @ x[:, t].mT / width for s, t in ((0, 0), (1, 1), (0, 1))]
        same, other, differ = (
            float((g * k[:, None]).sum((-2, -1), dtype=torch.float64).mean())
            for g, k in zip(grams, inputs, strict=True)
        )
        return max(0.0, count * (same + other) / 2 + count * (count - 1) * differ)


def _sandwich(left: Tensor, inner: Tensor, right: Tensor) -> Tensor:
    """Return A K Bᵀ, where A and B are (..., lead, out, in) blocks along the diagonal."""
    lead = left.shape[-3]
    half = (left @ cut_lead(inner, lead)).flatten(-3, -2).mT
    return (right @ cut_lead(half, lead)).flatten(-3, -2).mT


def _measure(drawn: Tensor) -> Tensor:
    """Return the pairs of draws (draws, 2, heads, P, f)."""
    features = drawn.shape[-1]
    same = (drawn @ drawn.mT).mean(1) / features
    return _pool(drawn[:, 0] @ drawn[:, 1].mT / features, same)


def _pool(differ: Tensor, same: Tensor) -> Tensor:
    """Return the average over draws and heads, (2, P, P), float64."""
    both = torch.stack([differ.double().mean((0, 1)), same.double().mean((0, 1))])
    return (both + both.mT) / 2
