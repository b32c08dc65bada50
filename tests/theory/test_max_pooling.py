import math

import numpy as np
import pytest
import torch
from torch import nn

from tests.reference.random_networks import sample_second_moments
from varprobe.recording import Site
from varprobe.theory.prediction import predict
from varprobe.theory.rules.max_pooling import Largest

# The tables have 401 nodes over ±9 deviations and 31 for the common part.
TABLE = 2e-3


def test_largest_of_four_independent_normals():
    # Expected maximum of four: Harter 1961, table 1; variance 0.49172.
    largest = Largest((1.0,) * 4, 0.0)
    assert largest.mean == pytest.approx(1.02938, rel=TABLE)
    assert largest.spread**2 == pytest.approx(0.49172, rel=TABLE)
    assert largest.shares.tolist() == pytest.approx([0.25] * 4)


def test_a_common_part_moves_the_maximum_and_shrinks_its_gain():
    # max(√ρ c + √(1-ρ) e_j) = √ρ c + √(1-ρ) max e_j.
    alone, together = Largest((1.0,) * 4, 0.0), Largest((1.0,) * 4, 0.36)
    assert together.mean == pytest.approx(0.8 * alone.mean, rel=TABLE)
    assert together.spread**2 == pytest.approx(0.36 + 0.64 * alone.spread**2, rel=TABLE)


def test_narrow_elements_win_less_often():
    generator = np.random.default_rng(0)
    spreads = np.array([1.0, 0.8, 0.5])
    draws = spreads * generator.standard_normal((400_000, 3))
    shares = np.bincount(draws.argmax(1), minlength=3) / len(draws)
    largest = Largest(tuple(spreads), 0.0)
    # 4 standard errors of a share: 4 sqrt(0.25 / 400,000) = 0.003.
    assert largest.shares.tolist() == pytest.approx(shares.tolist(), abs=0.003)
    assert largest.mean == pytest.approx(draws.max(1).mean(), rel=0.01)


@pytest.mark.parametrize("shift", [0.0, 1.0])
def test_pooling_of_a_wide_layer(shift):
    # 2,048 feature maps are as many samples of each window; the positions are 16 and depend on each
    # other, which leaves a scatter of sqrt(5 / 2,048) = 5 % at most in one of them, 1 % on average.
    x = torch.randn(4, 64, 4, 4) + shift * torch.randn(4, 64, 1, 1)

    def build():
        return nn.Sequential(
            nn.Conv2d(64, 2048, 3, padding=1, bias=False), nn.ReLU(), nn.MaxPool2d(2)
        )

    measured = sample_second_moments(build, x, "kaiming_normal", draws=2)
    prediction = predict(build, x, init="kaiming_normal")
    for (signal, name), moments in measured.items():
        module, _, output = name.partition(".")
        expected = prediction.find(Site(module=module, output=output, signal=signal))
        assert expected.second_moment == pytest.approx(moments.mean(), rel=0.03)
    assert math.isclose(prediction.find(Site(module="2")).log_std, 0, abs_tol=0.05)


def test_behind_weights_of_zero_nothing_is_expected():
    # No element is larger than the others, and there is no chance of it to tabulate.
    model = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.ReLU(), nn.MaxPool2d(2))
    nn.init.zeros_(model[0].weight)
    prediction = predict(model, torch.randn(2, 3, 8, 8))
    assert prediction.find(Site(module="2")).second_moment == 0.0
