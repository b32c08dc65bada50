"""Deviations that two branches have in common."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import varprobe as vp
from varprobe.initializers import initialize
from varprobe.recording import Site
from varprobe.theory.roots import add_root, add_roots, covary, scale_roots, separate


def test_only_what_is_common_covaries():
    first = add_root(add_root({}, 1, 0.3), 2, 0.4)
    second = scale_roots(add_root({}, 2, 0.5), 2.0)
    assert covary(first, second) == pytest.approx(0.4)
    assert covary(first, add_root({}, 3, 1.0)) == 0


def test_what_is_common_cancels_in_a_ratio():
    roots = add_root(add_root({}, 1, 0.3), 2, 0.4)
    assert covary(roots, roots) == pytest.approx(0.25)
    assert separate(roots, roots) == 0
    assert separate(add_roots(roots, add_root({}, 3, 0.2)), roots) == pytest.approx(0.04)
    assert separate(roots, {}) == pytest.approx(0.25)


class Block(nn.Module):
    """A branch that keeps the size of the stream, which doubles it."""

    def __init__(self, norm):
        super().__init__()
        self.norm, self.layer = norm(64), nn.Linear(64, 64, bias=False)

    def forward(self, x):
        return x + self.layer(torch.relu(self.norm(x)))


@pytest.mark.parametrize("norm", [nn.Identity, nn.LayerNorm])
def test_a_branch_scatters_with_its_stream_unless_a_norm_begins_it(norm):
    # A standard deviation over 200 draws is known to 5 %; without what stream and branch have in
    # common the bar of the stream is 0.6 of what it should be.
    def build():
        return nn.Sequential(nn.Linear(64, 64), *(Block(norm) for _ in range(5)))

    x = torch.randn(8, 64)
    prediction = vp.predict(build, x, init="kaiming_normal", draws=0, loss=False)
    logs = []
    with torch.no_grad():
        for draw in range(200):
            torch.manual_seed(draw)
            logs.append(initialize(build(), "kaiming_normal")(x).square().mean().log())
    measured = float(torch.stack(logs).std())
    assert prediction.find(Site(module="5")).log_std == pytest.approx(measured, rel=0.2)


def test_one_sample_has_nothing_in_common_with_others():
    def build():
        return nn.Sequential(nn.Linear(64, 64), Block(nn.Identity), Block(nn.LayerNorm))

    prediction = vp.predict(build, torch.randn(1, 64), init="kaiming_normal", draws=0)
    assert not prediction.unsupported
    assert all(0 <= row.log_std < 10 for row in prediction)


class PostActivation(nn.Module):
    """A bottleneck around a shortcut, and a ReLU on the sum."""

    def __init__(self):
        super().__init__()
        self.inside, self.outside = nn.Linear(64, 16, bias=False), nn.Linear(16, 64, bias=False)

    def forward(self, x):
        return torch.relu(x + self.outside(torch.relu(self.inside(x))))


def test_what_a_stream_gathered_passes_a_relu_on_the_sum():
    # Rectified, the sum grows as its branches grow: the scatter of the stream only adds up, and the
    # gradient has none of it. A standard deviation over 200 draws is known to 5 %; were the sum's
    # mean held, the bar of the stream would be 0.7 of what it should be.
    def build():
        return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), *(PostActivation() for _ in range(8)))

    torch.manual_seed(0)
    x = torch.randn(8, 64)
    prediction = vp.predict(build, x, init="kaiming_normal", draws=0)
    streams, gradients = [], []
    for draw in range(200):
        torch.manual_seed(draw)
        model = initialize(build(), "kaiming_normal")
        first = model[:2](x).detach().requires_grad_()
        result = model[2:](first)
        (gradient,) = torch.autograd.grad(result, first, torch.randn_like(result))
        streams.append(result.detach().square().mean().log())
        gradients.append(gradient.square().mean().log())
    for signal, module, logs in (("activation", "9", streams), ("gradient", "1", gradients)):
        row = prediction.find(Site(module=module, signal=signal))
        assert row.log_std == pytest.approx(float(torch.stack(logs).std()), rel=0.25), signal


class Gathering(nn.Module):
    """Values of 8 features, added up over all sites seen so far, on a stream."""

    def __init__(self):
        super().__init__()
        self.norm = nn.RMSNorm(64)
        self.query, self.key, self.value = (nn.Linear(64, 8, bias=False) for _ in range(3))
        self.project = nn.Linear(8, 64, bias=False)

    def forward(self, x):
        query, key, value = (
            layer(self.norm(x)).unsqueeze(1) for layer in (self.query, self.key, self.value)
        )
        gathered = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        return x + self.project(gathered.squeeze(1))


def test_what_one_attention_made_common_the_next_ones_add_up_again():
    # A standard deviation over 200 draws is known to 5 %; with a share of their own for all of
    # what attentions scatter by, the bar of the stream is 0.7 of what it should be.
    def build():
        return nn.Sequential(*(Gathering() for _ in range(4)))

    torch.manual_seed(0)
    x = torch.randn(4, 32, 64)
    prediction = vp.predict(build, x, init="lecun_normal", draws=0, loss=False)
    logs = []
    with torch.no_grad():
        for draw in range(200):
            torch.manual_seed(draw)
            logs.append(initialize(build(), "lecun_normal")(x).square().mean().log())
    measured = float(torch.stack(logs).std())
    assert prediction.find(Site(module="3")).log_std == pytest.approx(measured, rel=0.2)
