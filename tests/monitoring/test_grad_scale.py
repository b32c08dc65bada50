"""Gradients of a scaled loss are recorded as those of the loss itself."""

from __future__ import annotations

import pytest
import torch

from tests.monitoring.steps import ALL, train_step
from tests.probe.scenario import mlp, score
from tests.probe.untouched import describe_model
from varprobe import (
    InvalidArgumentError,
)
from varprobe.monitoring import Monitor


class TestGradScale:
    @pytest.mark.parametrize("scale", [1024.0, 3.0])
    @pytest.mark.parametrize("form", [float, lambda s: lambda: s, lambda s: Scaler(s)])
    def test_gradients_are_divided_by_it(self, scale, form) -> None:
        model, x = mlp(), torch.randn(5, 6)
        with Monitor(model, stats="full", signals=ALL) as plain:
            train_step(model, x)
        with Monitor(model, stats="full", signals=ALL, grad_scale=form(scale)) as monitor:
            (scale * score(model(x))).backward()
        for found, expected in zip(monitor.recording, plain.recording, strict=True):
            assert found.site == expected.site
            for name in ("mean", "variance", "second_moment", "abs_max"):
                # Both are sums of float32 numbers that were rounded apart, relative 2**-24 each.
                close = pytest.approx(getattr(expected.moments, name), rel=1e-5, abs=1e-6)
                assert getattr(found.moments, name) == close
            assert found.moments.zeros == expected.moments.zeros
            exact = scale == 1024 or "gradient" not in found.site.signal
            assert found.exponents == (expected.exponents if exact else None)

    def test_of_every_step_the_one_in_force(self) -> None:
        model, x, scaler = mlp(), torch.randn(5, 6), Scaler(1.0)
        with Monitor(model, every=1, grad_scale=scaler) as monitor:
            for scaler.scale in (4.0, 2.0, 8.0):
                (scaler.scale * score(model(x))).backward()
        first, second, third = (
            [r.moments for r in monitor.recording.select(signal="gradient") if r.step == step]
            for step in range(3)
        )
        assert first == second == third

    @pytest.mark.parametrize("scale", [0, -1.0, float("nan"), float("inf")])
    def test_what_cannot_be_divided_by_is_refused(self, scale) -> None:
        with pytest.raises(InvalidArgumentError, match="grad_scale is"):
            Monitor(mlp(), grad_scale=scale)
        model = mlp()
        before = describe_model(model)
        with Monitor(model, grad_scale=lambda: scale):
            with pytest.raises(InvalidArgumentError, match="cannot be divided"):
                train_step(model)
            train_step(model)
        for parameter in model.parameters():
            parameter.grad = None
        assert describe_model(model) == before


class Scaler:
    def __init__(self, scale: float) -> None:
        self.scale = scale

    def get_scale(self) -> float:
        return self.scale
