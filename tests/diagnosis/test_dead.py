from __future__ import annotations

import pytest
import torch
from scipy import stats
from torch import nn

from tests.diagnosis.cases import draw_weights, he
from tests.diagnosis.judging import judge
from varprobe.diagnosis.dead import MANY_COINS, MAX_ZERO_FRACTION, SIGNIFICANCE, bound_zeros


def test_the_bound_is_the_binomials() -> None:
    for coins in range(1, MANY_COINS + 1):
        expected = stats.binom.isf(SIGNIFICANCE, coins, 0.5) / coins
        assert bound_zeros(coins) == pytest.approx(expected, abs=1e-12)
    assert pytest.approx(stats.norm.sf(6.0), rel=0.02) == SIGNIFICANCE


def test_more_coins_are_bound_by_the_share_that_is_allowed_to_all() -> None:
    shares = stats.binom.isf(SIGNIFICANCE, range(MANY_COINS, 2048), 0.5)
    assert all(x / n < MAX_ZERO_FRACTION for n, x in enumerate(shares, MANY_COINS))


def narrow(units: int, bias: float) -> nn.Module:
    layers = nn.Sequential(nn.Linear(16, units), nn.ReLU(), nn.Linear(units, 16))
    return draw_weights(layers, he, bias=bias)


@pytest.mark.parametrize(("units", "count"), [(29, 0), (30, 1), (48, 1)])
def test_a_narrow_layer_that_is_off_is_told_from_thirty_units_on(units: int, count: int) -> None:
    found = judge(narrow(units, bias=-20.0), torch.randn(32, 16), "VP103")
    assert len(found) == count


@pytest.mark.parametrize("seed", range(20))
def test_a_layer_whose_samples_are_all_alike_is_no_dead_one(seed: int) -> None:
    torch.manual_seed(seed)
    assert judge(narrow(32, bias=0.0), torch.ones(32, 16), "VP103") == []
