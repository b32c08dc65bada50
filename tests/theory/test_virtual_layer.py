"""What a virtual layer leaves alone, what it refuses, and limits where its answer is known."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import varprobe as vp
from varprobe.recording import Site
from varprobe.theory import predict_silently


class Attention(nn.Module):
    def __init__(self, call=F.scaled_dot_product_attention, width=64, heads=4, **options):
        super().__init__()
        self.call, self.heads, self.options = call, heads, options
        self.norm = nn.LayerNorm(width)
        self.attend = nn.Linear(width, 3 * width, bias=False)
        self.value = nn.Identity()
        self.project = nn.Linear(width, width, bias=False)

    def forward(self, x):
        parts = self.attend(self.norm(x)).unflatten(-1, (3, self.heads, -1)).unbind(-3)
        query, key, value = (part.transpose(1, 2) for part in parts)
        y = self.call(query, key, value, **self.options)
        return self.project(self.value(y.transpose(1, 2).flatten(2)))


def predict(std, **options):
    x = torch.randn(2, 10, 64)
    return vp.predict(lambda: Attention(**options), x, init=f"normal(std={std})", draws=0)


def test_the_random_state_is_left_alone():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    first = vp.predict(Attention, torch.ones(2, 5, 64), init="lecun_normal", draws=0)
    assert torch.equal(torch.get_rng_state(), before)
    second = vp.predict(Attention, torch.ones(2, 5, 64), init="lecun_normal", draws=0)
    assert list(first) == list(second)


def test_vanishing_scores_average_the_values():
    # Every key has weight 1/10: second moment of the mean of 10 normalized inputs, times the layer.
    std = 1e-3
    torch.manual_seed(0)
    x = torch.randn(2, 10, 64)
    prediction = vp.predict(Attention, x, init=f"normal(std={std})", draws=0)
    row = prediction.find(Site(module="value"))
    mean = F.layer_norm(x, (64,)).mean(1)
    # Rows of drawn inputs are orthogonal up to 1/sqrt(64), over 24 draws.
    expected = float(mean.square().sum(-1).mean()) * std**2
    assert row.second_moment == pytest.approx(expected, rel=0.03)
    assert row.status == "approximate"
    assert "virtual layer" in row.reason


def test_the_first_of_causal_sites_sees_its_own_value_alone():
    # Weights of any size: softmax over one key is 1, and over hidden ones 0.
    mask = torch.zeros(10, 10, dtype=torch.bool)
    mask[:, 0] = True
    for std in (0.01, 0.5):
        row = predict(std, attn_mask=mask).find(Site(module="value"))
        assert row.second_moment == pytest.approx(64 * std**2, rel=1e-4)
        added = predict(std, attn_mask=torch.zeros(10, 10).masked_fill(~mask, -torch.inf))
        assert added.find(Site(module="value")).second_moment == pytest.approx(
            row.second_moment, rel=1e-4
        )


def test_dropout_of_attention_weights_raises_the_second_moment():
    found = []
    for p in (0.0, 0.5):
        torch.manual_seed(0)
        found.append(predict(1e-3, dropout_p=p).find(Site(module="value")).second_moment)
    # Of the mean of 10 values half are gone, the others doubled: each one's own share is doubled.
    assert found[1] - found[0] == pytest.approx(64e-6 / 10, rel=0.05)


def rectified(query, key, value):
    return torch.relu(query @ key.mT) @ value


def mixed_heads(query, key, value):
    return torch.softmax(query @ key.mT, -1).flip(1) @ value


def blind(query, key, value):
    hidden = torch.zeros(10, 10, dtype=torch.bool)
    hidden[3] = True
    return torch.softmax((query @ key.mT).masked_fill(hidden, -torch.inf), -1) @ value


def read_twice(query, key, value):
    weights = torch.softmax(query @ key.mT, -1)
    return weights @ value + weights @ (weights @ value)


def shared(query, key, value):
    return F.scaled_dot_product_attention(query, query, value)


def bent(query, key, value):
    return F.scaled_dot_product_attention(torch.tanh(query), key, value)


MASK = torch.ones(2, 1, 10, 10, dtype=torch.bool).tril()
MASK[1, :, :, 5:] = False


def masked_by_sample(query, key, value):
    return F.scaled_dot_product_attention(query, key, value, MASK)


@pytest.mark.parametrize("call", [rectified, mixed_heads, read_twice, blind, shared, bent])
def test_what_is_beyond_it_is_left_to_draws(call):
    x = torch.randn(40, 10, 64)
    prediction = predict_silently(lambda: Attention(call), x, init="lecun_normal", draws=0)
    assert prediction.find(Site(module="attend")).status == "exact"
    assert prediction.find(Site(module="value")).status in ("unknown", "tainted")
    assert prediction.unsupported
    estimated = predict_silently(lambda: Attention(call), x[:2], init="lecun_normal", draws=4)
    assert "draws" in estimated.find(Site(module="value")).reason


def test_a_mask_that_differs_from_sample_to_sample_is_averaged():
    # Samples of a given batch are told apart; of any batch the average over masks is taken.
    given, any_batch = torch.randn(2, 10, 64), torch.empty(2, 10, 64, device="meta")
    rows = []
    for x in (given, any_batch):
        build = lambda: Attention(masked_by_sample)  # noqa: E731
        prediction = vp.predict(build, x, init="normal(std=0.001)", draws=0)
        assert not prediction.unsupported
        rows.append(prediction.find(Site(module="value")))
    # Vanishing scores of causal sites: the mean over 1, ..., 10 keys, and over 1, ..., 5, 5, ....
    seen = [*range(1, 11), *range(1, 6), *[5] * 5]
    expected = 64e-6 * sum(1 / n for n in seen) / len(seen)
    assert rows[1].second_moment == pytest.approx(expected, rel=0.03)
    assert rows[0].second_moment == pytest.approx(expected, rel=0.15)  # ten given numbers


def test_a_bias_by_head_is_dealt_to_the_virtual_heads():
    # Two of four heads see the first key alone, the others all ten, which they average.
    bias = torch.zeros(4, 10, 10)
    bias[:2, :, 1:] = -torch.inf
    row = vp.predict(
        lambda: Attention(attn_mask=bias),
        torch.empty(2, 10, 64, device="meta"),
        init="normal(std=0.001)",
        draws=0,
    ).find(Site(module="value"))
    assert row.second_moment == pytest.approx(64e-6 * (1 + 1 / 10) / 2, rel=0.03)
