from __future__ import annotations

import contextlib
import copy
import random

import numpy as np
import pytest
import torch
from torch import nn

from tests.probe.untouched import describe_model
from varprobe.errors import UnsupportedModelError
from varprobe.observation.preservation import (
    copy_inputs,
    preserved,
    preserved_defaults,
    preserved_random_states,
    seed_generators,
)


class Careless(nn.Module):
    """A model whose forward changes everything that it can reach."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.second.weight = self.first.weight
        self.frozen = nn.Parameter(torch.ones(3, dtype=torch.int64), requires_grad=False)
        self.norm = nn.BatchNorm1d(4)
        self.second.norm = self.norm
        self.register_buffer("total", torch.zeros(4))
        self.register_buffer("absent", None)
        self.register_buffer("wide", torch.ones(1).expand(4))
        self.cache = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.cache = x * 2
        self.register_buffer("fresh", torch.ones(2), persistent=False)
        self.register_buffer("absent", torch.ones(1))
        self.total += x.mean(0)
        self.total = self.total * 2
        self.extra = nn.ReLU()
        self.second.bias = nn.Parameter(torch.zeros(4))
        with torch.no_grad():
            self.first.weight.mul_(3.0)
            self.frozen.add_(1)
        self.first.weight.requires_grad_(False)
        self.norm.eval()
        return self.second(self.norm.train()(self.first(x)))


def test_whatever_the_forward_changes_is_restored() -> None:
    model = Careless()
    model.first.bias.grad = gradient = torch.full((4,), 7.0)
    before = describe_model(model)
    with preserved(model):
        model(torch.randn(5, 4)).sum().backward()
        assert describe_model(model) != before
    assert describe_model(model) == before
    assert model.first.bias.grad is gradient
    assert model.second.weight is model.first.weight


def test_an_exception_changes_nothing_about_that() -> None:
    model = Careless()
    before = describe_model(model)

    def run_and_fail() -> None:
        with preserved(model):
            model(torch.randn(5, 4))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_and_fail()
    assert describe_model(model) == before


def test_inside_the_model_computes_what_it_did_outside() -> None:
    model, x = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)), torch.randn(5, 4)
    expected = copy.deepcopy(model)(x)
    with preserved(model):
        assert torch.equal(model(x), expected)


def test_a_graph_that_the_user_holds_stays_valid() -> None:
    model, x = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 4)), torch.randn(5, 4)
    twin = copy.deepcopy(model)
    output = model(x)
    with preserved(model):
        for parameter in model.parameters():
            nn.init.normal_(parameter)
        model(x).sum().backward()
    output.square().sum().backward()
    twin(x).square().sum().backward()
    for mine, other in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(mine.grad, other.grad)


def test_a_buffer_that_became_part_of_a_graph_leaves_it() -> None:
    class Running(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 3)
            self.register_buffer("mean", torch.zeros(3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = self.layer(x)
            self.mean += h.mean(0)
            return h - self.mean

    model = Running()
    with preserved(model):
        model(torch.randn(5, 3)).sum().backward()
    assert model.mean.grad_fn is None
    assert not model.mean.requires_grad
    model(torch.randn(5, 3)).sum().backward()


def test_tensors_that_share_memory_share_it_inside_too() -> None:
    flat = torch.randn(12)
    model = nn.ParameterList([flat[:4].view(2, 2), flat[4:], flat[2:6]])
    addresses = [parameter.data_ptr() for parameter in model]
    with preserved(model), torch.no_grad():
        model[2].fill_(1.0)
        assert model[0].tolist()[1] == [1.0, 1.0]
        assert model[1].tolist()[:2] == [1.0, 1.0]
    assert [parameter.data_ptr() for parameter in model] == addresses
    assert torch.equal(model[1].data, flat[4:])


def test_gradients_begin_from_nothing_inside() -> None:
    layer = nn.Linear(2, 1)
    layer.weight.grad = torch.ones(1, 2)
    with preserved(layer):
        assert layer.weight.grad is None


@pytest.mark.parametrize("lazy", [nn.LazyLinear(3), nn.Sequential(nn.LazyConv2d(3, 1))])
def test_a_lazy_module_without_shapes_is_refused(lazy) -> None:
    with pytest.raises(UnsupportedModelError, match="Run one forward of your own first"):
        preserved(lazy).__enter__()


def test_generators_are_restored_and_can_be_seeded() -> None:
    def draw() -> tuple[float, float, float]:
        return random.random(), float(np.random.rand()), float(torch.rand(()))

    def seed_twice_and_fail() -> None:
        with preserved_random_states():
            seed_generators(2**63 - 1)
            seeded = draw()
            seed_generators(2**63 - 1)
            assert draw() == seeded != expected
            raise ZeroDivisionError

    with preserved_random_states():
        expected = draw()
    with pytest.raises(ZeroDivisionError):
        seed_twice_and_fail()
    assert draw() == expected


def test_seeding_does_not_start_an_accelerator() -> None:
    waiting = len(torch.cuda._queued_calls)
    seed_generators(3)
    # A seed that waits for the start would change the user's numbers then.
    assert len(torch.cuda._queued_calls) == waiting


def test_inputs_are_copied_wherever_they_are() -> None:
    x = torch.randn(3, requires_grad=True)
    packed = nn.utils.rnn.pack_sequence([torch.ones(2, 1), torch.ones(1, 1)])
    inputs = {"x": x, "more": [(x * 2, 5, None)], "packed": packed, "index": torch.arange(3)}
    copies = copy_inputs(inputs)
    assert copies["x"] is not x
    assert copies["x"].requires_grad
    assert copies["more"][0][0].is_leaf
    assert copies["more"][0][1:] == (5, None)
    assert isinstance(copies["packed"], nn.utils.rnn.PackedSequence)
    copies["packed"].data.zero_()
    copies["index"].zero_()
    assert packed.data.sum() == 3.0
    assert inputs["index"].sum() == 3


@pytest.mark.parametrize("device", [None, "cpu", "meta"])
@pytest.mark.parametrize("fails", [False, True])
def test_defaults_are_restored(device, fails) -> None:
    torch.set_default_device(device)
    try:
        before = torch.get_default_dtype(), torch.get_default_device(), torch.is_grad_enabled()
        with contextlib.suppress(KeyError), preserved_defaults():
            torch.set_default_dtype(torch.float64)
            torch.set_default_device("cpu" if device == "meta" else "meta")
            torch.set_grad_enabled(False)
            if fails:
                raise KeyError
        after = torch.get_default_dtype(), torch.get_default_device(), torch.is_grad_enabled()
        assert after == before
    finally:
        torch.set_default_device(None)
