"""Attention as users write it: every way is the fused operation, and agrees with Monte-Carlo."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.reference.module_moments import compare
from varprobe.recording import Site
from varprobe.theory import predict_silently

SITES, WIDTH, HEADS = 10, 64, 4
CAUSAL = torch.ones(SITES, SITES, dtype=torch.bool).tril()
LOWEST = torch.finfo(torch.float32).min


class Attention(nn.Module):
    """Attention with the modules that users put around its weights."""

    def __init__(self, call, *, norm=None):
        super().__init__()
        self.call = call
        self.normed, self.attend = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 3 * WIDTH)
        make = norm or (lambda _: nn.Identity())
        self.query, self.key = make(WIDTH // HEADS), make(WIDTH // HEADS)
        self.soft, self.gathered = nn.Softmax(-1), nn.Identity()
        self.drop = nn.Dropout(0.1)
        self.project = nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        parts = self.attend(self.normed(x)).unflatten(-1, (3, HEADS, -1)).unbind(-3)
        query, key, value = (part.transpose(1, 2) for part in parts)
        y = self.call(self, self.query(query), self.key(key), value)
        return self.project(self.gathered(y.transpose(1, 2).flatten(2)))

    def weigh(self, scores):
        return self.drop(self.soft(scores))


def fused(_, query, key, value, **options):
    return F.scaled_dot_product_attention(query, key, value, dropout_p=0.1, **options)


def divided(layer, query, key, value):
    return layer.weigh(query @ key.transpose(-2, -1) / math.sqrt(16)) @ value


def scaled_before(layer, query, key, value):
    return layer.weigh(torch.matmul(query * 0.25, key.transpose(2, 3))) @ value


def by_einsum(layer, query, key, value):
    scores = 0.25 * torch.einsum("bhid,bhjd->bhij", query, key)
    return torch.einsum("bhij,bhjd->bhid", layer.weigh(scores), value)


def by_batches(layer, query, key, value):
    query, key, value = (x.flatten(0, 1) for x in (query, key, value))
    scores = torch.baddbmm(torch.zeros(1, 1, 1), query, key.mT, beta=0, alpha=0.25)
    return torch.bmm(layer.weigh(scores), value).unflatten(0, (-1, HEADS))


def filled(layer, query, key, value):
    scores = (query @ key.mT * 0.25).masked_fill(CAUSAL == 0, -math.inf)
    return layer.weigh(scores.float()).to(query.dtype) @ value


def chosen(layer, query, key, value):
    return layer.weigh(torch.where(CAUSAL, query @ key.mT * 0.25, LOWEST)) @ value


def added(layer, query, key, value):
    mask = torch.zeros(SITES, SITES).masked_fill(~CAUSAL, LOWEST)
    return layer.weigh(mask + query @ key.mT * 0.25) @ value


def draw():
    return torch.randn(3, SITES, WIDTH)


def predict(call, **options):
    torch.manual_seed(0)
    init = "normal(std=0.18)"  # scores of variance 4
    return predict_silently(lambda: Attention(call, **options), draw(), init=init, draws=0)


WAYS = [divided, scaled_before, by_einsum, by_batches]
CAUSAL_WAYS = [filled, chosen, added]


@pytest.mark.parametrize("call", [*WAYS, *CAUSAL_WAYS])
def test_every_way_is_the_fused_operation(call):
    causal = call in CAUSAL_WAYS
    whole = predict(lambda *laws: fused(*laws, is_causal=causal))
    by_hand = predict(call)
    assert not by_hand.unsupported
    for row in whole:
        twin = by_hand.find(row.site)
        assert twin.second_moment == pytest.approx(row.second_moment, rel=1e-5, abs=1e-12), row
        assert twin.status == row.status


@pytest.mark.parametrize("call", [divided, filled])
def test_weights_and_their_gradients_agree_with_monte_carlo(call):
    rows = compare(lambda: Attention(call), draw, "normal(std=0.18)", draws=30)
    for signal, error, noise in rows:
        allowed = 0.03 if signal == "activation" else 0.05
        assert abs(error) < allowed + 4 * noise, (signal, error, noise)


def test_rows_of_weights_say_how_they_were_found():
    prediction = predict(filled)
    for module in ("soft", "drop"):
        for signal in ("activation", "gradient"):
            row = prediction.find(Site(module=module, signal=signal))
            assert row.status == "approximate"
            assert "virtual layer" in row.reason
            assert 0 < row.log_std < 0.3


class RMSNormByHand(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x):
        scale = torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)
        return self.weight * (x * scale)


@pytest.mark.parametrize("norm", [nn.LayerNorm, nn.RMSNorm, RMSNormByHand])
def test_norms_of_queries_and_keys_agree_with_monte_carlo(norm):
    build = lambda: Attention(divided, norm=norm)  # noqa: E731
    for signal, error, noise in compare(build, draw, "normal(std=0.1)", draws=30):
        # 96 virtual heads of 16 features scatter by some 4 %.
        allowed = 0.03 if signal == "activation" else 0.1
        assert abs(error) < allowed + 4 * noise, (signal, error, noise)


def rotate(x, how):
    angles = torch.outer(torch.arange(SITES), 100.0 ** (-torch.arange(8) / 8))
    turned = torch.polar(torch.ones_like(angles), angles)
    if how == "complex":
        pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))
        return torch.view_as_real(pairs * turned).flatten(-2).type_as(x)
    even, odd = x[..., ::2], x[..., 1::2]
    cosine, sine = turned.real, turned.imag
    return torch.stack([even * cosine - odd * sine, even * sine + odd * cosine], -1).flatten(-2)


def test_complex_rotations_are_rotations():
    complex_, real = (
        predict(
            lambda layer, q, k, v, how=how: layer.weigh(rotate(q, how) @ rotate(k, how).mT / 4) @ v
        )
        for how in ("complex", "real")
    )
    assert not complex_.unsupported
    for row in real:
        expected = pytest.approx(row.second_moment, rel=1e-5, abs=1e-12)
        assert complex_.find(row.site).second_moment == expected


def test_complex_numbers_beyond_rotations_are_left_to_draws():
    def conjugated(_, query, key, value):
        pairs = torch.view_as_complex(query.unflatten(-1, (-1, 2)))
        query = torch.view_as_real(pairs * pairs.conj()).flatten(-2)
        return F.scaled_dot_product_attention(query, key, value)

    prediction = predict(conjugated)
    assert prediction.unsupported
    assert prediction.find(Site(module="gathered")).status == "tainted"
