"""What only a CUDA device can show: that nothing waits, on any stream, and nothing is lost.

`test_measure` runs its distributions there, too, wherever there is one.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import nn

from tests.reference import moments as numpy_reference
from tests.statistics.accuracy import assert_accurate
from tests.statistics.forms import CUDA
from varprobe import Probe, Recording
from varprobe.statistics import Sampler, device, masked, measure, read

pytestmark = CUDA

SIGNALS = ("activation", "gradient", "weight", "weight_gradient")


@contextmanager
def no_waiting() -> Iterator[None]:
    """Let whatever waits for the device raise."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.fixture(params=["chosen", "masked"])
def form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "masked":
        choice = masked.MAX_ELEMENTS, masked.measure
        monkeypatch.setattr(device, "_choose", lambda *_: choice)


def build() -> nn.Module:
    layers = [nn.Linear(32, 64), nn.LayerNorm(64), nn.GELU(), nn.Linear(64, 64), nn.ReLU(True)]
    return nn.Sequential(*layers, nn.Linear(64, 8))


def train(model: nn.Module, batch: torch.Tensor, steps: int = 2) -> None:
    for _ in range(steps):
        model(batch).square().mean().backward()


def assert_close(found: Recording, expected: Recording) -> None:
    assert len(found) == len(expected) > 0
    for one, other in zip(found.records, expected.records, strict=True):
        assert one.site == other.site
        # The devices round products of float32 differently; the statistics do not.
        assert one.moments.second_moment == pytest.approx(other.moments.second_moment, rel=1e-4)
        assert one.moments.numel == other.moments.numel


@pytest.mark.parametrize("full", [False, True])
def test_measuring_does_not_wait(form, full) -> None:
    values = torch.randn(300, 500, device="cuda")
    measure(values, full=full)  # compiles
    with no_waiting():
        reading = measure(values, full=full).merge(measure(values.t()[::2], full=full))
        reading = reading.divide(2.0)
        with pytest.raises(RuntimeError, match="synchroniz"):
            read(reading)
    assert read(reading).finite == 225_000


def test_sampling_does_not_wait(form) -> None:
    values = torch.randn(300, 500, device="cuda")
    Sampler(4096).measure(values, full=True)  # compiles, and makes its generator
    sampler = Sampler(4096)
    with no_waiting():
        sampler.measure(values, full=True)


@pytest.mark.parametrize("stats", ["moments", "full"])
def test_a_probed_step_does_not_wait_and_agrees_with_the_cpu(form, stats) -> None:
    model, batch = build(), torch.randn(16, 32)
    there, batch_there = copy.deepcopy(model).cuda(), batch.cuda()
    with Probe(model, stats=stats, signals=SIGNALS) as on_cpu:
        train(model, batch)
    train(copy.deepcopy(there), batch_there)  # what torch itself sets up
    with Probe(copy.deepcopy(there), stats=stats) as warm:  # compiles
        train(warm.model, batch_there)
    with no_waiting(), Probe(there, stats=stats, signals=SIGNALS) as probe:
        train(there, batch_there)
    assert_close(probe.recording, on_cpu.recording)


def test_training_is_bitwise_the_same(form) -> None:
    model, batch = build().cuda(), torch.randn(16, 32, device="cuda")
    watched = copy.deepcopy(model)
    state = torch.cuda.get_rng_state()
    with Probe(watched, stats="full", signals=SIGNALS):
        train(watched, batch)
    assert torch.equal(torch.cuda.get_rng_state(), state)
    train(model, batch)
    for one, other in zip(model.parameters(), watched.parameters(), strict=True):
        assert torch.equal(one.grad, other.grad)


def test_streams_run_side_by_side(form) -> None:
    values = torch.full((4096, 4096), 2.0, device="cuda")
    torch.cuda.synchronize()
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        torch.cuda._sleep(200_000_000)  # a tenth of a second or so
        late = values * 3.0
        reading = measure(late, full=True)
        del late
        # Would get the memory and overwrite it, if it were not in order.
        torch.zeros(4096, 4096, device="cuda")
    assert not side.query()
    first = measure(values, full=True)
    torch.cuda.current_stream().synchronize()
    assert not side.query()  # the side stream held nobody up
    found = read(first.merge(reading))
    assert found.mean == pytest.approx(4.0)
    assert found.exponents == {2: 2**24, 3: 2**24}


@pytest.mark.parametrize("extra", [0, 5])
def test_more_than_two_billion_elements(form, extra) -> None:
    numel = 2**31 + extra
    values = torch.ones(numel, dtype=torch.float16, device="cuda")
    values[-3:] = 3.0
    found = read(measure(values, full=True))
    assert (found.finite, found.abs_max) == (numel, 3.0)
    assert found.exponents == {1: numel - 3, 2: 3}
    assert found.m2 == pytest.approx(12.0, rel=1e-6)


def test_values_of_any_alignment_are_read(form) -> None:
    values = torch.randn(70_001, device="cuda").bfloat16()
    for start in range(9):
        part = values[start:]
        found = read(measure(part, full=True)).moments
        assert_accurate(found, numpy_reference.measure(part.cpu()))


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="there is one CUDA device at most")
def test_another_device_than_the_current_one(form) -> None:
    first, second = (torch.randn(100_000, device=f"cuda:{index}") for index in range(2))
    found = read(measure(first, full=True).merge(measure(second, full=True))).moments
    both = torch.cat([first.cpu(), second.cpu()])
    assert_accurate(found, numpy_reference.measure(both))
