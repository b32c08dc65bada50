"""A scaled loss gives the gradients of the loss itself, whatever the scale was at that time."""

from __future__ import annotations

import pytest
import torch

from tests.probe.scenario import mlp, score
from tests.probe.untouched import describe_model
from varprobe import InvalidArgumentError, Probe
from varprobe.statistics import cpu, device
from varprobe.statistics.reading import HostReading

ALL = ("activation", "gradient", "weight", "weight_gradient")


class Scaler:
    def __init__(self, scale: float) -> None:
        self.scale = scale
        self.asked = 0

    def get_scale(self) -> float:
        self.asked += 1
        return self.scale


def test_passes_with_different_scales_are_pooled() -> None:
    model, batches, scaler = mlp(), torch.randn(3, 5, 6), Scaler(1.0)
    with Probe(model, stats="full", signals=ALL) as plain:
        for x in batches:
            score(model(x)).backward()
    with Probe(model, stats="full", signals=ALL, grad_scale=scaler) as probe:
        for x, scaler.scale in zip(batches, (4.0, 2.0**16, 0.5), strict=True):
            (scaler.scale * score(model(x))).backward()
    assert scaler.asked == 3
    # Powers of two change no digit of a float32 gradient, and none of its moments.
    assert probe.recording.records == plain.recording.records


def test_the_scale_is_that_of_the_backward_pass() -> None:
    model, x, scaler = mlp(), torch.randn(5, 6), Scaler(1.0)
    with Probe(model, grad_scale=scaler) as probe:
        loss = score(model(x))
        scaler.scale = 8.0
        (scaler.scale * loss).backward()
    with Probe(model) as plain:
        score(model(x)).backward()
    assert probe.recording.records == plain.recording.records


def test_a_real_scaler() -> None:
    model, x = mlp(), torch.randn(5, 6)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    with Probe(model) as plain:
        score(model(x)).backward()
    with Probe(model, grad_scale=scaler) as probe:
        scaler.scale(score(model(x))).backward()
    assert probe.recording.records == plain.recording.records


def test_a_scale_that_is_no_power_of_two() -> None:
    model, x = mlp(), torch.randn(5, 6)
    with Probe(model, stats="full") as plain:
        score(model(x)).backward()
    with Probe(model, stats="full", grad_scale=3) as probe:
        (3 * score(model(x))).backward()
    for found, expected in zip(probe.recording, plain.recording, strict=True):
        # Float32 gradients that were rounded apart, relative 2**-24 each.
        close = pytest.approx(expected.moments.second_moment, rel=1e-6)
        assert found.moments.second_moment == close
        is_gradient = found.site.signal == "gradient"
        assert found.exponents == (None if is_gradient else expected.exponents)


@pytest.mark.parametrize("scale", [0, -1.0, float("nan"), float("inf")])
def test_what_cannot_be_divided_by_is_refused(scale) -> None:
    with pytest.raises(InvalidArgumentError, match="grad_scale is"):
        Probe(mlp(), grad_scale=scale)
    model = mlp()
    before = describe_model(model)

    def train() -> None:
        with Probe(model, grad_scale=lambda: scale):
            score(model(torch.randn(5, 6))).backward()

    with pytest.raises(InvalidArgumentError, match="cannot be divided"):
        train()
    model.zero_grad()
    assert describe_model(model) == before


@pytest.mark.parametrize("scale", [4.0, 2.0**-20, 3.0, 1e-300])
@pytest.mark.parametrize("full", [False, True])
def test_readings_are_divided_alike_on_the_host_and_on_the_device(scale, full) -> None:
    values = torch.cat([torch.randn(100), torch.zeros(3), torch.tensor([torch.nan, torch.inf])])
    on_host: HostReading = cpu.measure(values.double(), full=full).divide(scale)
    divided = device.measure(values, implicit_zeros=0, full=full).divide(scale).read()
    assert (divided.zeros, divided.nan, divided.inf) == (on_host.zeros, 1, 1)
    for name in ("mean", "m2", "abs_max"):
        assert getattr(divided, name) == pytest.approx(getattr(on_host, name), rel=1e-12)
    assert divided.exponents == on_host.exponents
    exact = cpu.measure(values.double() / scale, full=full)
    assert on_host.m2 == pytest.approx(exact.m2, rel=1e-12)
    if scale in (4.0, 2.0**-20):
        assert on_host.exponents == exact.exponents
