from __future__ import annotations

import pytest
import torch
from torch import nn

from varprobe.initializers.seeding import seeded


def test_the_same_seed_gives_the_same_numbers_and_no_trace() -> None:
    model = nn.Linear(2, 2)
    before = torch.get_rng_state()
    with seeded(model, 3):
        first = torch.rand(4)
    with seeded(model, 3):
        second = torch.rand(4)
    with seeded(model, 4):
        third = torch.rand(4)
    assert torch.equal(first, second)
    assert not torch.equal(first, third)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_global_generator_comes_back_after_an_exception() -> None:
    model = nn.Linear(2, 2)
    before = torch.get_rng_state()

    def fail() -> None:
        with seeded(model, 3):
            torch.rand(4)
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        fail()
    assert torch.equal(torch.get_rng_state(), before)


def test_without_a_seed_the_global_generator_goes_on() -> None:
    model = nn.Linear(2, 2)
    torch.manual_seed(9)
    expected = torch.rand(4)
    torch.manual_seed(9)
    with seeded(model, None):
        assert torch.equal(torch.rand(4), expected)


def test_a_model_on_meta_or_without_parameters_can_be_seeded() -> None:
    for model in (nn.Linear(2, 2, device="meta"), nn.ReLU()):
        with seeded(model, 0):
            assert torch.initial_seed() == 0
