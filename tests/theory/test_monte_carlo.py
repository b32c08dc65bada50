"""Predictions against brute force, network by network."""

import math

import numpy as np
import pytest
import torch
from torch import nn

import varprobe as vp
from tests.reference.random_networks import sample_second_moments
from varprobe.recording import Site


def stack(*blocks):
    return lambda: nn.Sequential(*(layer for block in blocks for layer in block()))


def conv_block(before, after, *more):
    return lambda: (nn.Conv2d(before, after, 3, padding=1), *(make() for make in more))


def vgg(norm):
    norms = [lambda: nn.BatchNorm2d(32)] if norm else []
    return stack(
        conv_block(3, 32, *norms, nn.ReLU),
        lambda: (nn.MaxPool2d(2),),
        conv_block(32, 32, *norms, nn.ReLU),
        conv_block(32, 32, *norms, nn.ReLU),
        lambda: (nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(2), nn.Flatten()),
        lambda: (nn.Linear(128, 64), nn.ReLU(), nn.Dropout(0.3), nn.Linear(64, 10)),
    )


class Residual(nn.Module):
    """Two convolutions around a shortcut, and a ReLU behind the sum."""

    def __init__(self, inside, outside, norm, stride=1):
        super().__init__()
        self.branch = nn.Sequential(
            nn.Conv2d(inside, outside, 3, stride, padding=1, bias=False), norm(outside), nn.ReLU(),
            nn.Conv2d(outside, outside, 3, padding=1, bias=False), norm(outside),
        )  # fmt: skip
        self.shortcut = nn.Sequential()
        if stride > 1:
            self.shortcut.append(nn.Conv2d(inside, outside, 1, stride, bias=False))
            self.shortcut.append(norm(outside))

    def forward(self, x):
        return torch.relu(self.branch(x) + self.shortcut(x))


def resnet(norm):
    return stack(
        conv_block(3, 64, lambda: norm(64), nn.ReLU),
        lambda: (Residual(64, 64, norm), Residual(64, 64, norm)),
        lambda: (Residual(64, 64, norm, stride=2), Residual(64, 64, norm)),
        lambda: (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)),
    )


# name: builder, input, initialization, allowed error of the law itself: of order 1/width where a
# slope varies with its argument, of the copula for max pooling, of order r² for batch norm.
CASES = {
    "relu mlp": (
        stack(*[lambda: (nn.Linear(64, 64), nn.ReLU())] * 6), (16, 64), "kaiming_normal", 0.02,
    ),
    "tanh mlp": (
        stack(*[lambda: (nn.Linear(64, 64), nn.Tanh())] * 6), (16, 64), "xavier_normal", 0.05,
    ),
    "zero-padded conv": (
        stack(conv_block(3, 32, nn.ReLU), *[conv_block(32, 32, nn.ReLU)] * 4),
        (4, 3, 8, 8), "kaiming_normal", 0.03,
    ),
    "strided, grouped, transposed": (
        lambda: nn.Sequential(
            nn.Conv2d(4, 32, 3, stride=2, padding=1), nn.SiLU(),
            nn.Conv2d(32, 32, 3, padding=2, dilation=2, groups=4), nn.ReLU(),
            nn.ConvTranspose2d(32, 16, 4, stride=2, padding=1), nn.LeakyReLU(0.2),
        ),
        (4, 4, 8, 8), "kaiming_normal", 0.05,
    ),
    "one-dimensional": (
        lambda: nn.Sequential(
            nn.Conv1d(4, 32, 5, padding="same", padding_mode="reflect"), nn.GELU(),
            nn.AvgPool1d(2), nn.Conv1d(32, 32, 3), nn.PReLU(), nn.AdaptiveAvgPool1d(1),
            nn.Flatten(), nn.Linear(32, 8),
        ),
        (8, 4, 20), "kaiming_normal", 0.05,
    ),
    "batch norm, 8 samples": (
        stack(*[lambda: (nn.Linear(64, 64, bias=False), nn.BatchNorm1d(64), nn.ReLU())] * 4),
        (8, 64), "kaiming_normal", 0.05,
    ),
    "batch norm and tanh": (
        stack(*[lambda: (nn.Linear(64, 64, bias=False), nn.BatchNorm1d(64), nn.Tanh())] * 4),
        (16, 64), "kaiming_normal", 0.1,
    ),
    "layer norm": (
        stack(*[lambda: (nn.Linear(64, 64), nn.LayerNorm(64), nn.ReLU())] * 4),
        (16, 64), "kaiming_normal", 0.08,
    ),
    "rms norm": (
        stack(*[lambda: (nn.Linear(64, 64), nn.RMSNorm(64), nn.ReLU())] * 4),
        (16, 64), "kaiming_normal", 0.08,
    ),
    "group norm": (
        stack(
            conv_block(3, 32, lambda: nn.GroupNorm(2, 32), nn.ReLU),
            conv_block(32, 32, lambda: nn.GroupNorm(2, 32), nn.ReLU),
        ),
        (8, 3, 8, 8), "kaiming_normal", 0.12,
    ),
    "vgg": (vgg(False), (8, 3, 16, 16), "kaiming_normal", 0.12),
    "post-activation": (resnet(nn.Identity), (8, 3, 8, 8), "kaiming_normal", 0.1),
    "post-activation with batch norm": (
        resnet(nn.BatchNorm2d), (8, 3, 8, 8), "kaiming_normal", 0.1,
    ),
    "vgg with batch norm": (vgg(True), (8, 3, 16, 16), "kaiming_normal", 0.12),
}  # fmt: skip


def compare(build, x, init, draws):
    """Yield key, expectation and measured second moments of what is not zero by symmetry."""
    prediction = vp.predict(build, x, init=init)
    for (signal, name), moments in sample_second_moments(build, x, init, draws).items():
        module, _, output = name.rpartition(".") if "." in name else (name, "", "")
        row = prediction.find(Site(module=module, output=output, signal=signal))
        assert row.status in ("exact", "approximate"), row
        if moments.mean() < 1e-10:  # a bias before a norm, zero but for float32
            assert row.second_moment < 1e-4
            continue
        yield (signal, name), row, moments


@pytest.mark.parametrize("case", CASES)
def test_moments_agree(case):
    # Four standard errors of the mean over 60 draws, beside the error of the law itself.
    build, shape, init, error = CASES[case]
    draws = 60
    for key, row, moments in compare(build, torch.randn(shape), init, draws):
        noise = 4 * float(moments.std(ddof=1)) / math.sqrt(draws)
        assert abs(row.second_moment - moments.mean()) < noise + error * moments.mean(), key


@pytest.mark.slow
@pytest.mark.parametrize("net", ["mlp", "conv"])
def test_64_draws_of_30_layers_at_width_256(net):
    # One draw scatters by sqrt(5 l / n); the mean of ln over 64 draws within 4 standard errors.
    if net == "mlp":
        build = stack(*[lambda: (nn.Linear(256, 256), nn.ReLU())] * 30)
        x = torch.randn(32, 256)
    else:
        build = stack(conv_block(3, 256, nn.ReLU), *[conv_block(256, 256, nn.ReLU)] * 29)
        x = torch.randn(32, 3, 4, 4)
    draws = 64
    for key, row, moments in compare(build, x, "kaiming_normal", draws):
        if key[0] == "weight_gradient":
            continue
        deviation = np.log(moments).mean() - math.log(row.second_moment) + row.log_std**2 / 2
        assert abs(deviation) < 4 * row.log_std / math.sqrt(draws), key
