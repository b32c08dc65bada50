"""A narrow net under He's law, and its neighbours: chance is told from fault over seeds."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import varprobe as vp
from tests.diagnosis.cases import draw_weights, he


def narrow_stack() -> nn.Sequential:
    layers = [layer for _ in range(30) for layer in (nn.Linear(64, 64), nn.ReLU())]
    return nn.Sequential(*layers)


def he_times_one_and_a_half(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        draw_weights(module, he)
        with torch.no_grad():
            module.weight.mul_(1.5)


def count_flagged(init: object, seeds: range) -> int:
    """Count the seeds on which a 30-layer ReLU net of width 64 is unhealthy."""
    model, flagged = narrow_stack(), 0
    for seed in seeds:
        inputs = torch.randn(32, 64, generator=torch.Generator().manual_seed(seed))
        recording = vp.profile(model, inputs, init=init, seed=seed)
        flagged += not vp.diagnose(vp.analyze(recording)).healthy
    return flagged


# At width 64 and depth 30 the log second moment of a right net scatters by sqrt(5 · 30 / 64) = 1.5:
# one draw in six has lost nine tenths of its second moment, and is healthy.
INITIALIZATIONS = {
    "he": ("kaiming_normal", 0.0),
    "xavier": ("xavier_normal", 1.0),
    "he_times_1.5": (he_times_one_and_a_half, 1.0),
}


@pytest.mark.parametrize("name", INITIALIZATIONS)
def test_tells_a_narrow_he_net_from_its_neighbours(name: str) -> None:
    init, share = INITIALIZATIONS[name]
    assert count_flagged(init, range(20)) == 20 * share


@pytest.mark.slow
@pytest.mark.parametrize("name", INITIALIZATIONS)
def test_tells_a_narrow_he_net_from_its_neighbours_on_200_seeds(name: str) -> None:
    init, share = INITIALIZATIONS[name]
    assert count_flagged(init, range(200)) == 200 * share
