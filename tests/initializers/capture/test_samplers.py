"""Functions that are made to speak, and only to whom they should."""

from __future__ import annotations

import threading
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn.init import orthogonal_, trunc_normal_

from varprobe.initializers.capture import capture_construction
from varprobe.initializers.laws import WeightLaw

TABLE = {"by name": trunc_normal_, "partial": partial(trunc_normal_, std=1.0)}
"""Held before any recording, as libraries hold them."""


@pytest.mark.parametrize("draw", TABLE.values(), ids=TABLE)
def test_a_function_is_diverted_however_it_is_held(draw) -> None:
    def build():
        layer = nn.Linear(30, 20)
        draw(layer.weight)
        return layer

    assert capture_construction(build).laws["weight"] == WeightLaw.trunc_normal(1.0)


def test_its_arguments_are_checked_as_ever() -> None:
    with pytest.raises(ValueError, match="2 or more dimensions"):
        capture_construction(lambda: orthogonal_(torch.empty(5)))
    with pytest.raises(TypeError):
        capture_construction(lambda: orthogonal_(torch.empty(5, 5), gian=2.0))


def test_other_threads_draw_while_a_model_is_recorded() -> None:
    drawn: list[torch.Tensor] = []

    def draw():
        generator = torch.Generator().manual_seed(0)
        drawn.append(orthogonal_(torch.empty(6, 6), generator=generator))

    def build():
        thread = threading.Thread(target=draw)
        thread.start()
        thread.join()
        return nn.Linear(3, 3)

    capture_construction(build)
    draw()
    assert torch.equal(*drawn)


def test_a_recording_within_a_recording_ends_alone() -> None:
    def build():
        inner = capture_construction(lambda: nn.Bilinear(3, 3, 3))
        assert inner.laws["weight"].distribution == "uniform"
        layer = nn.Linear(20, 20)
        orthogonal_(layer.weight)
        return layer

    assert capture_construction(build).laws["weight"].distribution == "orthogonal"
    matrix = orthogonal_(torch.empty(4, 4))
    assert torch.allclose(matrix @ matrix.T, torch.eye(4), atol=1e-6)
