"""Rules for arrays with sites, each in a small module of its own, against Monte-Carlo."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.reference.module_moments import compare

WIDTH, SITES, BATCH = 48, 6, 3


def draw_tokens():
    # Few different ones: repeated tokens are correlated sites.
    return torch.randint(0, 4, (BATCH, SITES))


def draw_sites():
    return torch.randn(BATCH, SITES, WIDTH)


class Model(nn.Module):
    """A head behind what is tested, which reads all sites together."""

    def __init__(self, features=WIDTH):
        super().__init__()
        self.layer = nn.Linear(WIDTH, 2 * WIDTH)
        self.key = nn.Linear(WIDTH, WIDTH // 2)
        self.tokens = nn.Embedding(4, WIDTH)
        self.positions = nn.Embedding(SITES, WIDTH)
        self.parameter = nn.Parameter(torch.randn(1, SITES, WIDTH))
        with torch.no_grad():
            self.parameter /= self.parameter.square().mean().sqrt()
        self.head = nn.Linear(features, WIDTH)


class Embeddings(Model):
    def forward(self, tokens):
        return self.head(self.tokens(tokens) + self.positions(torch.arange(SITES))).mean(1)


class PositionParameter(Model):
    def forward(self, x):
        return self.head(x + self.parameter).mean(1)


class ClassToken(Model):
    def forward(self, x):
        token = self.parameter[:, :1].expand(len(x), -1, -1)
        h = torch.cat([token, self.head(x)], dim=1)
        return self.layer(h)[:, 0]


class Gated(Model):
    def forward(self, x):
        gate, value = self.layer(x).chunk(2, dim=-1)
        return self.head(F.silu(gate) * value).mean(1)


class Halves(Model):
    def forward(self, x):
        first, second = self.layer(x).split([WIDTH // 2, 3 * WIDTH // 2], dim=-1)
        return self.head(torch.cat([first, torch.tanh(second[..., : WIDTH // 2])], dim=-1)).mean(1)


class Joined(Model):
    """Features of two layers, as in a dense net."""

    def __init__(self):
        super().__init__(WIDTH + WIDTH // 2)

    def forward(self, x):
        return self.head(torch.cat([x, self.key(x)], dim=-1)).mean(1)


class Attention(Model):
    """Plain attention, its keys shared by two heads, behind a norm."""

    causal = False

    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.value = nn.Linear(WIDTH, WIDTH // 2)
        self.query = nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        x = self.norm(x)
        query, key = self.turn(self.query(x)), self.turn(self.key(x))
        value = self.split(self.value(x))
        y = F.scaled_dot_product_attention(
            query, key, value, is_causal=self.causal, enable_gqa=True, scale=1.5
        )
        return self.head(y.transpose(1, 2).flatten(2))

    def split(self, x):
        return x.unflatten(-1, (-1, WIDTH // 4)).transpose(1, 2)

    def turn(self, x):
        return self.split(x)


class CausalAttention(Attention):
    causal = True


class InterleavedRotation(Attention):
    """Pairs of neighbouring features are turned by angles that grow with the site."""

    causal = True

    def turn(self, x):
        x = self.split(x)
        angle = torch.arange(x.shape[2])[:, None] * 10.0 ** -torch.arange(0, 1, 8 / WIDTH)
        first, second = x.unflatten(-1, (-1, 2)).unbind(-1)
        pairs = (
            first * angle.cos() - second * angle.sin(),
            second * angle.cos() + first * angle.sin(),
        )
        return torch.stack(pairs, dim=-1).flatten(-2)


class PartialRotation(InterleavedRotation):
    """Only the first third of each head is turned."""

    def turn(self, x):
        x = self.split(x)
        third = x.shape[-1] // 3
        angle = torch.arange(x.shape[2])[:, None] * torch.tensor([1.0, 0.3]).repeat(2)
        first = x[..., :third]
        half = torch.cat([-first[..., third // 2 :], first[..., : third // 2]], dim=-1)
        return torch.cat([first * angle.cos() + half * angle.sin(), x[..., third:]], dim=-1)


class CachedAttention(Attention):
    """Keys behind those of a cache that is still empty."""

    def forward(self, x):
        x = self.norm(x)
        query, key, value = (self.split(f(x)) for f in (self.query, self.key, self.value))
        key, value = (torch.cat([torch.zeros(0), h], dim=-2) for h in (key, value))
        y = F.scaled_dot_product_attention(query, key, value, enable_gqa=True)
        return self.head(y.transpose(1, 2).flatten(2))


class CrossAttention(Attention):
    """Queries of other sites than the keys, and a window of keys that each sees."""

    def forward(self, x):
        x = self.norm(x)
        query = self.query(x[:, :2] * 1.0)
        key, value = self.key(x[:, 2:]), self.value(x[:, 2:])
        mask = torch.tensor([[True, True, False, False], [False, True, True, True]])
        query, key, value = (self.split(h) for h in (query, key, value))
        y = F.scaled_dot_product_attention(query, key, value, mask, enable_gqa=True)
        return self.head(y.transpose(1, 2).flatten(2))


class NormsByHand(Model):
    """A layer norm and an RMS norm, as they are written by hand."""

    def __init__(self):
        super().__init__(2 * WIDTH)
        self.second = nn.Linear(2 * WIDTH, 2 * WIDTH)
        self.scale = nn.Parameter(torch.ones(2 * WIDTH))

    def forward(self, x):
        h = self.layer(x)
        centred = h - h.mean(-1, keepdim=True)
        h = self.second(centred / torch.sqrt(centred.pow(2).mean(-1, keepdim=True) + 1e-5))
        h = self.scale * (h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + 1e-6))
        return self.head(h)


CASES = {
    NormsByHand: draw_sites,
    Embeddings: draw_tokens,
    PositionParameter: draw_sites,
    ClassToken: draw_sites,
    Gated: draw_sites,
    Halves: draw_sites,
    Joined: draw_sites,
    Attention: draw_sites,
    CausalAttention: draw_sites,
    InterleavedRotation: draw_sites,
    CachedAttention: draw_sites,
    PartialRotation: draw_sites,
    CrossAttention: draw_sites,
}


@pytest.mark.parametrize("model", CASES)
def test_moments_agree_with_monte_carlo(model):
    # 4 standard errors beside 2 % forward, and 8 % back for corrections of order 1/n, n = 48.
    init = "normal(std=0.15, embeddings=True)"
    for signal, error, noise in compare(model, CASES[model], init, draws=100):
        allowed = 0.02 if signal == "activation" else 0.08
        assert abs(error) < allowed + 4 * noise, (signal, error, noise)
