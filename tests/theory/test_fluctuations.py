"""How far one draw scatters: closed laws, resets, and coverage by brute force."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

import varprobe as vp
from tests.reference.random_networks import sample_second_moments
from varprobe.recording import Site
from varprobe.theory.explicit import ExplicitPairs
from varprobe.theory.fluctuations import Mixture, Spread


def mlp(width, depth, act=nn.ReLU):
    return lambda: nn.Sequential(
        *(layer for _ in range(depth) for layer in (nn.Linear(width, width), act()))
    )


def convolutions(channels, depth):
    sizes = [3, *[channels] * depth]
    return lambda: nn.Sequential(
        *(f for i, o in pairwise(sizes) for f in (nn.Conv2d(i, o, 3, padding=1), nn.ReLU()))
    )


@pytest.mark.parametrize("width", [32, 256])
def test_one_sample_through_relu_layers_is_hanins_product(width):
    # Hanin and Rolnick 2018: E|h|⁴/(E|h|²)² = Π (1 + 5/n), exact here for Gaussian weights.
    depth = 6
    prediction = vp.predict(mlp(width, depth), torch.randn(1, width), init="kaiming_normal")
    for layer in range(depth):
        row = prediction.find(Site(module=str(2 * layer + 1)))
        product = (1 + 5 / width) ** (layer + 1)
        assert row.log_std == pytest.approx(math.sqrt(math.log(product)), rel=1e-3)


def test_one_sample_back_through_relu_layers():
    # Each layer: 5/n in the masked gradient (kurtosis 3, half the units open), 2/n from the output.
    width, depth = 64, 5
    prediction = vp.predict(mlp(width, depth), torch.randn(1, width), init="kaiming_normal")
    row = prediction.find(Site(module="0", signal="gradient"))
    assert row.log_std == pytest.approx(math.sqrt(math.log((1 + 5 / width) ** depth)), rel=1e-3)


def test_a_norm_starts_afresh():
    layers = [*mlp(32, 8)(), nn.LayerNorm(32), nn.Linear(32, 32)]
    prediction = vp.predict(
        lambda: nn.Sequential(*layers), torch.randn(8, 32), init="kaiming_normal"
    )
    spreads = [prediction.find(Site(module=str(i))).log_std for i in (15, 16, 17)]
    assert spreads[0] > 0.4
    assert spreads[1] == pytest.approx(0, abs=1e-6)
    assert spreads[2] < 0.3


def test_wider_and_larger_batches_scatter_less():
    def last(width, batch):
        x = torch.empty(batch, width, device="meta")
        prediction = vp.predict(mlp(width, 6), x, init="kaiming_normal")
        return prediction.find(Site(module="11")).log_std

    assert last(256, 1) < last(64, 1)
    assert last(64, 32) < last(64, 1)


def test_log_std_is_that_of_a_log_normal():
    spread = Spread(kernel=0.5, own=0.2)
    assert spread.relative_variance == pytest.approx(1.5 * 1.2 - 1)
    assert spread.log_std == pytest.approx(math.sqrt(math.log(1.8)))


@pytest.mark.parametrize("positions", [1, 7, 60])
def test_sampled_correlations_have_mean_and_scatter_of_all(positions):
    samples, features = 3, 5
    torch.manual_seed(positions)
    x = torch.randn(samples, positions, features, dtype=torch.float64)
    x *= torch.rand(positions, 1, dtype=torch.float64) + 0.5
    grams = torch.einsum("spf,tqf->stpq", x, x) / features
    same, differ = torch.eye(samples, dtype=torch.bool), ~torch.eye(samples, dtype=torch.bool)
    mixture = Mixture.of(
        ExplicitPairs(torch.stack([grams[differ].mean(0), grams[same].mean(0)]), samples)
    )

    scale = grams[same].mean(0).diagonal().rsqrt()
    pooled = torch.where(same[:, :, None, None], grams[same].mean(0), grams[differ].mean(0))
    alike = (pooled * torch.outer(scale, scale)).transpose(1, 2).flatten(0, 1).flatten(1, 2)
    apart = alike[~torch.eye(samples * positions, dtype=torch.bool)]
    assert mixture.average(mixture.correlations) == pytest.approx(float(apart.mean()))
    scatter = mixture.average(mixture.correlations.square())
    assert scatter == pytest.approx(float(apart.square().mean()))


CASES = {
    "relu": (mlp(32, 6), (16, 32), "kaiming_normal"),
    "tanh": (mlp(32, 6, nn.Tanh), (16, 32), "xavier_normal"),
}


def measure_coverage(build, shape, init, draws):
    """Share of draws within ±1.96 of the bar, by signal, and its deviation from theory."""
    x = torch.randn(shape)
    prediction = vp.predict(build, x, init=init)
    inside, ratios = {}, {}
    for (signal, name), moments in sample_second_moments(build, x, init, draws).items():
        module, _, output = name.partition(".")
        row = prediction.find(Site(module=module, output=output, signal=signal))
        deviation = np.log(moments) - math.log(row.second_moment) + row.log_std**2 / 2
        inside.setdefault(signal, []).append(np.mean(np.abs(deviation) < 1.96 * row.log_std))
        ratios.setdefault(signal, []).append(row.log_std / deviation.std(ddof=1))
    return {s: float(np.mean(c)) for s, c in inside.items()}, ratios


@pytest.mark.parametrize("case", CASES)
def test_bars_cover(case):
    # 100 draws: a coverage of 0.95 has a standard error of 0.022 (the rows of one draw go
    # together), a standard deviation one of 7 %.
    coverage, ratios = measure_coverage(*CASES[case], draws=100)
    for signal, share in coverage.items():
        assert 0.88 < share <= 1.0, signal
        assert 0.75 < np.median(ratios[signal]) < 1.35, signal


SLOW_CASES = {
    "relu, 1 sample": (mlp(64, 10), (1, 64), "kaiming_normal"),
    "relu": (mlp(64, 10), (32, 64), "kaiming_normal"),
    "relu, wide": (mlp(256, 20), (32, 256), "kaiming_normal"),
    "tanh": (mlp(64, 10, nn.Tanh), (32, 64), "xavier_normal"),
    "gelu": (mlp(128, 8, nn.GELU), (32, 128), "kaiming_normal"),
    "convolutions of 32 channels": (convolutions(32, 8), (8, 3, 8, 8), "kaiming_normal"),
    "convolutions of 16 channels": (convolutions(16, 12), (4, 3, 8, 8), "kaiming_normal"),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", SLOW_CASES)
def test_bars_cover_95_percent(case):
    # 800 draws: 3 standard errors of a coverage of 0.95 are 0.023; the range of [.92, .97] that the
    # bars are to hold is widened by it.
    coverage, _ = measure_coverage(*SLOW_CASES[case], draws=800)
    for signal, share in coverage.items():
        assert 0.90 < share < 0.99, signal
