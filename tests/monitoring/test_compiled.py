"""Compiled models are sampled in eager mode, from outside of what is compiled."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from tests.monitoring.steps import count_hooks, numbers, steps, train_step
from tests.probe.scenario import mlp
from varprobe import (
    NothingRecordedError,
    UnsupportedModelError,
)
from varprobe.monitoring import Monitor


def compile_in_place(model: nn.Module) -> nn.Module:
    model.compile(backend="eager")
    return model


def compile_part(model: nn.Module) -> nn.Module:
    model[0].compile(backend="eager")
    return model


COMPILED = {
    "wrapped": lambda model: torch.compile(model, backend="eager"),
    "in place": compile_in_place,
    "in part": compile_part,
    "wrapped twice": lambda model: nn.DataParallel(torch.compile(model, backend="eager")),
    "around": lambda model: torch.compile(nn.DataParallel(model), backend="eager"),
}


class TestCompiled:
    @pytest.mark.parametrize("kind", COMPILED)
    @pytest.mark.parametrize("warm", [True, False])
    def test_sampled_steps_run_in_eager_mode(self, kind, warm) -> None:
        eager, batches = mlp(), torch.randn(4, 5, 6)
        with Monitor(eager, every=2) as expected:
            for x in batches:
                train_step(eager, x)
        model = COMPILED[kind](eager)
        if warm:
            model(batches[0])
        with Monitor(model, every=2, compiled="eager") as monitor:
            for x in batches:
                train_step(model, x)
                model.eval()
                model(x)
                model.train()
        assert steps(monitor.recording) == [0, 2]
        for step in (0, 2):
            assert numbers(monitor.recording, step) == numbers(expected.recording, step)
        assert count_hooks(model) == 0

    def test_they_are_refused_otherwise(self) -> None:
        with pytest.raises(UnsupportedModelError, match=r"compiled by torch\.compile"):
            Monitor(torch.compile(mlp(), backend="eager"))

    def test_a_step_compiled_around_the_model_is_not_seen_and_says_so(self) -> None:
        model = mlp()
        step = torch.compile(lambda x: model(x).sum(), backend="eager")
        with Monitor(model, every=1) as monitor:
            for _ in range(3):
                step(torch.randn(5, 6)).backward()
        with pytest.raises(NothingRecordedError, match="a compiled function around it"):
            _ = monitor.recording

    def test_a_copy_of_one_compiled_in_place_is_not_watched(self) -> None:
        model = compile_in_place(mlp())
        call = model._compiled_call_impl
        with Monitor(model, compiled="eager") as monitor:
            train_step(copy.deepcopy(model))
        assert model._compiled_call_impl is call
        with pytest.raises(NothingRecordedError, match="was not called"):
            _ = monitor.recording
