"""Attention over a long sequence: every key is drawn, but only the queries of some sites.

Keys are as many as the sequence has sites, since a softmax over fewer is another one. Queries and
the pairs of everything are those of the representatives of `varprobe.theory.grouped`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from varprobe.errors import MissingRuleError
from varprobe.theory.fluctuations import scatter_units
from varprobe.theory.grouped import GroupedPairs, Groups
from varprobe.theory.levels import measure_level, vary, weigh_together
from varprobe.theory.scores import Level, Scores, Weights
from varprobe.theory.streams import Stream, draw_law, draw_pairs
from varprobe.theory.virtual_layer import (
    HEADS,
    MOST_DRAWS,
    Back,
    Output,
    Returned,
)

MOST_WIDTH = 256
"""Features of the input that are drawn; more of them move second moments by less than a
percent."""

MOST_NUMBERS = 2**20
"""Numbers in all draws of the input together, 4 MB."""

TILE = 4
"""Groups of keys that are taken together: more see keys in vain, fewer make more products."""

SAMPLES = ((0, 0), (1, 1), (0, 1))
"""Pairs of the two samples of a draw."""


@dataclass(frozen=True)
class Tile:
    """Neighbouring keys, and the queries that see any of them.

    Causal attention hides most keys from most representatives, which stand thickest at the start.

    Parameters
    ----------
    groups : range
        The groups of the keys.
    keys : slice
        Their sites.
    rows : slice
        Representatives; outside of it all weights are zero.
    """

    groups: range
    keys: slice
    rows: slice


def cut_tiles(soft: Tensor, groups: Groups) -> list[Tile]:
    """Return tiles that cover all weights (..., N, T) but zeros."""
    seen = soft.flatten(0, -3).amax(0) > 0
    tiles = []
    for first in range(0, len(groups.spans), TILE):
        chosen = range(first, min(first + TILE, len(groups.spans)))
        keys = slice(groups.spans[chosen[0]].start, groups.spans[chosen[-1]].stop)
        rows = seen[:, keys].any(-1).nonzero().flatten().tolist() or [0]
        tiles.append(Tile(chosen, keys, slice(rows[0], rows[-1] + 1)))
    return tiles


@dataclass(frozen=True)
class GroupedLayer:
    """Attention of a sequence to itself; see `varprobe.theory.virtual_layer.VirtualLayer`."""

    weights: Scores
    value: Stream
    seed: int

    def forward(self) -> Output:
        """Return the pairs of the output by representatives."""
        draw = _Draw(self.weights, self.seed)
        passed = draw.gather()
        level = self.value.variance * self.value.source.features
        pairs = _multiply(passed, passed) * level / passed.shape[-1] + self.value.offset
        sizes = passed.square().sum(-1).double().mean(3)
        samples, heads = self.value.source.pairs.samples, draw.query.heads
        # Heads that read the same values scatter together.
        units = self.value.heads * self.value.features
        gram = self.value.source.field_spread.gram
        like = replace(self.value.source.pairs, values=pairs)
        own = scatter_units(like, gram, units)
        value = level * float(draw.x.square().mean()) + self.value.offset
        together = weigh_together(draw.weights.passed, value, pairs)
        return Output(pairs, vary(sizes, samples, heads), own, gram, together)

    def backward(self, signal: Tensor) -> Back:
        """Return the gradients of query, key and value by representatives."""
        level = float(signal[1].diagonal().mean())
        if level <= 0:
            raise MissingRuleError("no gradient comes back to attention")
        query, key = self.weights.streams
        shared = query.heads // key.heads
        back = _Draw(self.weights, self.seed).go_back(signal / level, self.value)
        products = self._sum_products(back.query.plain)
        # Scores are bilinear: queries and keys get gradients of one size through them.
        ratio = shared * query.variance / key.variance
        return replace(
            back,
            query=replace(back.query, products=products),
            key=replace(back.key.scale(shared), products=products * ratio),
            value=replace(back.value, products=self._sum_products(back.value.plain)),
        ).scale(level)

    def _sum_products(self, gradient: Tensor) -> float:
        source = self.value.source.pairs
        assert isinstance(source, GroupedPairs)
        return max(0.0, (replace(source, values=gradient) * source).total())


def measure_grouped(scores: Scores, seed: int) -> Level:
    """Return the moments of scores, or of weights."""
    draw = _Draw(scores, seed)
    return draw.measure(draw.weights.passed if scores.softened else draw.weights.scores)


class _Draw:
    """One set of draws, the same whenever it is made."""

    def __init__(self, scores: Scores, seed: int) -> None:
        self.query, self.key = query, key = scores.streams
        pairs = query.source.pairs
        assert isinstance(pairs, GroupedPairs)
        self.groups = pairs.groups
        self.generator = torch.Generator().manual_seed(seed)
        size = 2 * pairs.positions * min(query.source.features, MOST_WIDTH)
        self.draws = max(1, min(MOST_DRAWS, MOST_NUMBERS // size))
        self.x = draw_law(query.source, self.draws, self.generator, MOST_WIDTH)
        places = self.groups.places
        near = self.x[:, :, places]
        self.queries = query.project(near, HEADS, self.generator)
        keys = key.project(self.x, HEADS, self.generator)
        self.keys = keys[..., places, :]
        self.q, self.k = query.mix(self.queries, places), key.mix(keys)
        # Scores (draws, 2, heads, representatives, sites): there is one batch position.
        self.weights = Weights(scores, self.q, self.k, self.generator, places)

    @cached_property
    def tiles(self) -> list[Tile]:
        """Where weights are not zero."""
        return cut_tiles(self.weights.soft, self.groups)

    def measure(self, values: Tensor) -> Level:
        """Return the moments of an array of scores, each query as often as it stands for others."""
        samples = self.query.source.pairs.samples
        return measure_level(values.unsqueeze(3), samples, self.query.heads, self.groups.sizes)

    def gather(self) -> Tensor:
        """Return what is gathered of the input, (draws, 2, heads, N, f)."""
        passed = self.weights.passed
        total = self.x.new_zeros(*passed.shape[:-1], self.x.shape[-1])
        for tile in self.tiles:
            rows, keys = tile.rows, tile.keys
            total[..., rows, :] += _fold(passed[..., rows, keys], self.x[:, :, keys])
        return total

    def go_back(self, signal: Tensor, value: Stream) -> Back:
        """Return the gradients, products left out, for a gradient of unit size."""
        places = self.groups.places
        drawn = draw_pairs(signal, self.generator, (self.draws, HEADS), value.features)
        slopes = self._reach_values(drawn, value)
        dropped = self.weights.drop_back(slopes)
        softened = self.weights.soften_back(dropped)
        scores = self.weights.reach_products(softened)
        to_query = torch.zeros_like(self.q)
        for tile in self.tiles:
            part = scores[..., tile.rows, tile.keys] @ self.k[..., tile.keys, :]
            to_query[..., tile.rows, :] += part
        query = Returned(
            _multiply(to_query, to_query) / self.query.features,
            self._unmix(self.query, to_query, self.queries),
            0.0,
            0.0,
            averaged=True,
        )
        mixed = self._reach_keys(signal, value)
        plain = mixed
        if self.key.mixing.index is None:
            plain = self._unmix_keys(scores[..., places], mixed)
        key = Returned(mixed, plain, 0.0, 0.0, averaged=True)
        counts = self.groups.counts.float()
        through = {pair: counts * signal[int(pair[0] == pair[1])].float() for pair in SAMPLES}
        shared = self.query.heads // value.heads
        passed = self._collect(through) * shared
        to_value = Returned(passed, passed, 0.0, 0.0, averaged=True)
        return Back(query, key, to_value, *map(self.measure, (slopes, dropped, softened)))

    def _reach_keys(self, signal: Tensor, value: Stream) -> Tensor:
        """Return the pairs of the keys' gradient, averaged over gradient and values by formula.

        Sums over all queries by a few of them would else be lost in noise. Key j gets from query i
        the gradient dS_ij q_i, where dS_ij = A_ij dy_i · (v_j - Σ A v).
        """
        groups, x = self.groups, self.x
        binned, reached = self._bin()
        level = value.variance * value.source.features / x.shape[-1] * value.features
        expected = self.query.mixing.pairs().values
        found = []
        for s, t in SAMPLES:
            alike = expected[int(s == t)].float().expand(self.draws, HEADS, -1, -1)
            if s == t:
                own = self.q[:, s].square().mean(-1)
                alike = alike - torch.diag_embed(alike.diagonal(dim1=-2, dim2=-1) - own)
            joint = groups.counts.float() * signal[int(s == t)].float() * alike
            sums = self._sum_groups(joint, [(part[:, s], part[:, t]) for part in binned])
            same = self._sum_alone(joint, s, t, reached)
            part = groups.average(groups.deal((sums + sums.mT) / 2), same)
            found.append(part * (level * self.weights.gain))
        pairs = torch.stack([found[2], (found[0] + found[1]) / 2])
        pairs[1].diagonal().clamp_min_(0)
        return pairs

    def _bin(self) -> tuple[list[Tensor], Tensor]:
        """Return Σ A_ij (x_j - Σ A x) over the keys of each group, and Σ A x over all keys.

        The former are (draws, 2, groups, heads, rows, f) for each tile, the latter (draws, 2,
        heads, N, f).
        """
        soft, x, spans = self.weights.soft, self.x, self.groups.spans
        reached = x.new_zeros(*soft.shape[:-1], x.shape[-1])
        binned, shares = [], []
        for tile in self.tiles:
            near = [soft[..., tile.rows, spans[group]] for group in tile.groups]
            folded = [_fold(a, x[:, :, spans[g]]) for a, g in zip(near, tile.groups, strict=True)]
            binned.append(torch.stack(folded, 2))
            shares.append(torch.stack([part.sum(-1) for part in near], 2))
            reached[..., tile.rows, :] += binned[-1].sum(2)
        for tile, part, share in zip(self.tiles, binned, shares, strict=True):
            part.addcmul_(share[..., None], reached[:, :, None, :, tile.rows], value=-1)
        return binned, reached

    def _sum_groups(self, joint: Tensor, binned: list[tuple[Tensor, Tensor]]) -> Tensor:
        """Return Σ b_gi G_ij b_hj over rows, (groups, groups), averaged over draws and heads."""
        features = self.x.shape[-1]
        shape = (self.draws, len(self.groups.spans), *joint.shape[1:-1], features)
        mixed = joint.new_empty(shape)
        for tile, (_, right) in zip(self.tiles, binned, strict=True):
            span = slice(tile.groups.start, tile.groups.stop)
            torch.matmul(joint[:, None, ..., tile.rows], right, out=mixed[:, span])
        # By draw and head, all rows and features of a group in one line.
        lines = mixed.flatten(-2).permute(0, 2, 3, 1)
        sums = []
        for tile, (left, _) in zip(self.tiles, binned, strict=True):
            span = slice(tile.rows.start * features, tile.rows.stop * features)
            sums.append(left.flatten(-2).transpose(1, 2) @ lines[..., span, :])
        return torch.cat(sums, dim=-2).double().mean((0, 1))

    def _sum_alone(self, joint: Tensor, s: int, t: int, reached: Tensor) -> Tensor:
        """Return the sums over the pairs of a key with itself, (N,)."""
        soft, near, far = self.weights.soft, reached[:, s], reached[:, t]
        crossed = joint * (near @ far.mT)
        total = soft.new_zeros(self.draws, self.groups.sites)
        for tile in self.tiles:
            rows, keys = tile.rows, tile.keys
            left, right = soft[:, s, :, rows, keys], soft[:, t, :, rows, keys]
            x, y = self.x[:, s, keys], self.x[:, t, keys]
            # Both mixed terms are alike: one is the other with queries and samples swapped.
            mixed = _fold(near[:, None, :, rows], y[:, None].mT)[:, 0]
            sizes = (x * y).sum(-1)[:, None, None] - 2 * mixed
            through = (joint[..., rows, rows] @ right) * sizes + crossed[..., rows, rows] @ right
            total[:, keys] = (through * left).sum((1, 2))
        return self.groups.sum_near(total.double().mean(0) / HEADS)

    def _reach_values(self, drawn: Tensor, value: Stream) -> Tensor:
        """Return the gradient of the attention weights."""
        width, drawn = self.x.shape[-1], drawn.transpose(1, 2)
        weight = value.draw_weight((self.draws, HEADS), width, self.generator)
        weight = weight.view(self.draws, 1, width, HEADS, value.width).movedim(3, 2)
        slopes = _fold(drawn @ weight.mT, self.x.mT)
        if value.offset:
            bias = torch.randn(self.draws, 1, HEADS, value.width, 1, generator=self.generator)
            slopes = slopes + drawn @ bias * math.sqrt(value.offset)
        return slopes

    def _collect(self, inner: dict[tuple[int, int], Tensor]) -> Tensor:
        """Return the average of Aᵀ G A over draws and heads, (2, N, N)."""
        passed, groups = self.weights.passed, self.groups
        near = (passed @ groups.member).double()

        def part(s: int, t: int) -> Tensor:
            sums = near[:, s].mT @ inner[s, t].double() @ near[:, t]
            alone = passed.new_zeros(self.draws, groups.sites)
            for tile in self.tiles:
                rows, keys = tile.rows, tile.keys
                through = inner[s, t][rows, rows] @ passed[:, t, :, rows, keys]
                alone[:, keys] = (through * passed[:, s, :, rows, keys]).sum((1, 2))
            same = groups.sum_near(alone.double().mean(0) / HEADS)
            sums = sums.mean((0, 1))
            return groups.average((sums + sums.mT) / 2, same)

        return torch.stack([part(0, 1), (part(0, 0) + part(1, 1)) / 2])

    def _unmix(self, stream: Stream, gradient: Tensor, z: Tensor) -> Tensor:
        plain = stream.unmix(gradient, z, self.groups.places)
        return _multiply(plain, plain) / stream.width

    def _unmix_keys(self, near: Tensor, mixed: Tensor) -> Tensor:
        """Return the pairs of the keys' gradient before they were rotated.

        Each key has an angle of its own, so that the sums over queries come first. That takes
        queries of one group for equal and makes too much of them; but correlations are about right,
        and a rotation changes no length; what a norm of the heads does to it is read off the sums.
        """
        key, places = self.key, self.groups.places
        sums = (near * self.groups.sizes.float()[:, None]).mT @ self.q
        found = self._unmix(key, sums, self.keys)
        behind = key.turn_back(sums, places).square().double().mean((0, 1, 2, 4))
        squares = key.turn_back(torch.ones(len(places), key.features), places, square=True)
        lengths = mixed[1].diagonal() * squares.double().mean(1)
        scales = (lengths / behind.clamp_min(1e-300)).sqrt()
        return found * scales[:, None] * scales


def _fold(left: Tensor, right: Tensor) -> Tensor:
    """Return (draws, 2, heads, N, k) times (draws, 2, k, f), which is read once for all heads."""
    product = left.flatten(2, 3) @ right
    return product.view(*left.shape[:-1], right.shape[-1])


def _multiply(first: Tensor, second: Tensor) -> Tensor:
    """Return the average second moments of (draws, 2, heads, N, f), summed over f: (2, N, N)."""

    def part(s: int, t: int) -> Tensor:
        found: Tensor = (first[:, s] @ second[:, t].mT).double().mean((0, 1))
        return (found + found.mT) / 2

    return torch.stack([part(0, 1), (part(0, 0) + part(1, 1)) / 2])
