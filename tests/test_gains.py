"""The gains of all layers of a net together: false alarms, and what is found."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict

import pytest
import torch
from scipy import stats
from torch import nn

import varprobe as vp
from varprobe.gains import Gain, adjust_holm
from varprobe.recording import Record


def build_net(width: int, depth: int) -> nn.Sequential:
    return nn.Sequential(*[m for _ in range(depth) for m in (nn.Linear(width, width), nn.ReLU())])


@pytest.mark.parametrize("z", [-4.0, -1.0, 0.0, 2.5])
def test_the_probability_counts_both_ways(z: float) -> None:
    gain = Gain(measured=1.0, predicted=1.0, z=z)
    assert gain.p == pytest.approx(2 * stats.norm.sf(abs(z)), rel=1e-12)


def test_holm_equals_its_definition() -> None:
    given = torch.rand(20, generator=torch.Generator().manual_seed(0), dtype=torch.float64).tolist()
    smallest = sorted(given)
    slow = [min(1.0, max((20 - r) * q for r, q in enumerate(smallest) if q <= p)) for p in given]
    assert adjust_holm(given) == slow
    assert adjust_holm([]) == []


@pytest.mark.parametrize("nets", [200, pytest.param(2000, marks=pytest.mark.slow)])
def test_right_nets_are_called_wrong_no_more_often_than_alpha(nets: int) -> None:
    alpha, chunk, alarms = 0.05, 200, 0
    inputs = torch.randn(16, 32, generator=torch.Generator().manual_seed(0))
    for seed in range(nets // chunk):
        recording = vp.profile(
            lambda: build_net(32, 10),
            inputs,
            init="kaiming_normal",
            draws=chunk,
            seed=seed,
            loss=False,
        )
        draws: defaultdict[int, list[Record]] = defaultdict(list)
        for record in recording:
            draws[record.draw].append(record)
        for records in draws.values():
            found = vp.analyze(vp.Recording(records=tuple(records))).test_gains()
            alarms += min(test.p_holm for test in found) < alpha
    # 3.9 standard errors of a share of this size: a right test passes with 1 - 5e-5.
    assert alarms / nets <= alpha + 3.9 * math.sqrt(alpha * (1 - alpha) / nets)


@pytest.mark.slow
def test_a_score_beyond_3_89_is_as_rare_as_a_normal_one_where_outputs_are_few() -> None:
    def build_conv_net() -> nn.Sequential:
        widths = [3, 16, 16, 16, 16, 16]
        layers = itertools.pairwise(widths)
        return nn.Sequential(
            *[m for i, o in layers for m in (nn.Conv2d(i, o, 3, padding=1), nn.ReLU())]
        )

    inputs = torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    scores = []
    for seed in range(20):
        recording = vp.profile(
            build_conv_net, inputs, init="kaiming_normal", draws=100, seed=seed, loss=False
        )
        draws: defaultdict[int, list[Record]] = defaultdict(list)
        for record in recording:
            draws[record.draw].append(record)
        for records in draws.values():
            found = vp.analyze(vp.Recording(records=tuple(records))).test_gains()
            scores += [abs(test.gain.z) for test in found]
    assert len(scores) == 10_000
    # One is to be expected; four or more of a Poisson variable with mean 1 have 2 %.
    assert sum(score > 3.89 for score in scores) <= 3


def test_ten_percent_too_much_gain_is_found_with_one_seed() -> None:
    # In a layer whose input still tells its samples apart: deeper behind ReLUs they are nearly
    # parallel, one eigenvalue of their Gram matrix has most of the energy, and the layer's output
    # scatters like that of a single sample. Over all six layers 64 of 72 are found.
    inputs = torch.randn(64, 512, generator=torch.Generator().manual_seed(0))
    found = 0
    for seed in range(20):
        torch.manual_seed(seed)
        model = vp.initialize(build_net(512, 3), "kaiming_normal")
        model[2].register_forward_hook(lambda module, args, output: 1.1 * output)
        gains = {t.site.module: t.gain for t in vp.analyze(vp.profile(model, inputs)).test_gains()}
        found += gains["2"].z > 3.89
    assert found >= 18
