"""What a monitor keeps, what it refuses, and that nothing is left behind."""

from __future__ import annotations

import copy
import gc
import threading
import tracemalloc
import weakref

import pytest
import torch
from torch import nn

from tests.monitoring.steps import ALL, numbers, steps, train_step
from tests.probe.scenario import mlp, score
from tests.probe.untouched import describe_model
from varprobe import (
    InvalidArgumentError,
    NothingRecordedError,
    ProbeStateError,
    Recording,
    UnknownNameError,
)
from varprobe.monitoring import Monitor


class TestMemory:
    @pytest.mark.parametrize(
        ("max_steps", "expected"),
        [(1, [0]), (2, [0, 64]), (3, [0, 64]), (4, [0, 32, 64, 96]), (100, [*range(100)])],
    )
    def test_steps_are_thinned_evenly(self, max_steps, expected) -> None:
        model = mlp()
        with Monitor(model, every=1, max_steps=max_steps, signals=("weight",)) as monitor:
            for _ in range(100):
                train_step(model)
                assert len(monitor._samples) <= max_steps
        assert steps(monitor.recording) == expected
        if max_steps > 1:
            assert monitor.every == monitor.recording.meta["every"] == expected[1]

    def test_it_stays_flat(self) -> None:
        model = mlp(inplace=True)
        with Monitor(model, every=1, max_steps=8, signals=ALL):

            def run(count: int) -> int:
                for _ in range(count):
                    train_step(model)
                gc.collect()
                return tracemalloc.get_traced_memory()[0]

            # 8, 16, 32, … steps are the full ones.
            tracemalloc.start()
            before = run(8)
            after = run(120)
            tracemalloc.stop()
        # Steps that were kept for good would be 120 times more than 20 records of 300 bytes.
        assert after < 1.5 * before

    def test_no_tensor_and_no_graph_is_kept(self) -> None:
        model, dead = mlp(), []
        with Monitor(model, every=1) as monitor:
            output = model(torch.randn(5, 6))
            weakref.finalize(output, dead.append, 1)
            loss = score(output)
            del output
            loss.backward()
            del loss
            gc.collect()
            assert dead == [1]
        assert len(monitor.recording) == 12


class TestConduct:
    def test_exceptions_inside_leave_no_hook(self) -> None:
        model, x = mlp(), torch.randn(5, 6)
        before = describe_model(model)

        def run_and_fail() -> None:
            with Monitor(model, signals=ALL):
                model(x)
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            run_and_fail()
        assert describe_model(model) == before

    def test_it_is_used_once(self) -> None:
        model = mlp()
        monitor = Monitor(model)
        with monitor:
            train_step(model)
            with pytest.raises(ProbeStateError, match="Make a new one"):
                monitor.start()
        monitor.stop()
        with pytest.raises(ProbeStateError):
            monitor.start()
        train_step(model)
        assert monitor.recording.meta["steps"] == 1

    def test_copies_are_not_watched(self) -> None:
        model = mlp()
        with Monitor(model, every=1) as monitor:
            train_step(copy.deepcopy(model))
            train_step(model)
            twin = copy.deepcopy(model)
            train_step(twin)
        assert monitor.recording.meta["steps"] == 1
        before = len(monitor.recording)
        train_step(twin)
        assert len(monitor.recording) == before

    def test_two_of_them(self) -> None:
        model, batches = mlp(), torch.randn(6, 5, 6)
        with Monitor(model, every=2) as outer, Monitor(model, every=3) as inner:
            for x in batches:
                train_step(model, x)
        assert steps(outer.recording) == [0, 2, 4]
        assert steps(inner.recording) == [0, 3]
        assert numbers(outer.recording) == numbers(inner.recording)

    def test_an_evaluation_in_another_thread_does_not_disturb(self) -> None:
        class Evaluating(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.a, self.b, self.evaluates = nn.Linear(6, 6), nn.Linear(6, 4), False

            def evaluate(self, x: torch.Tensor) -> None:
                with torch.no_grad():
                    self(x)

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                h = self.a(x)
                if self.evaluates and torch.is_grad_enabled():
                    thread = threading.Thread(target=self.evaluate, args=(x,))
                    thread.start()
                    thread.join()
                return self.b(h)

        model, x, found = Evaluating(), torch.randn(5, 6), []
        for model.evaluates in (False, True):
            with Monitor(model) as monitor:
                train_step(model, x)
            found.append(numbers(monitor.recording))
        assert found[0] == found[1]

    def test_weights_that_get_their_shape_in_the_first_step(self) -> None:
        model = nn.Sequential(nn.LazyLinear(6), nn.ReLU(), nn.LazyLinear(4))
        with Monitor(model, every=1, signals=ALL) as monitor:
            train_step(model)
            train_step(model)
        weights = [(r.step, str(r.site)) for r in monitor.recording.select(signal="weight")]
        names = ["0.weight", "0.bias", "2.weight", "2.bias"]
        assert sorted(weights) == sorted((step, name) for step in (0, 1) for name in names)

    def test_its_recording_can_be_saved(self, tmp_path) -> None:
        model = mlp()
        with Monitor(model, every=2, stats="full") as monitor:
            for _ in range(3):
                train_step(model)
        monitor.recording.save(tmp_path / "training.json")
        assert Recording.load(tmp_path / "training.json") == monitor.recording

    def test_it_shows_itself(self) -> None:
        model = mlp()
        with Monitor(model, every=2) as monitor:
            for _ in range(3):
                train_step(model)
        assert repr(monitor) == "<Monitor of Sequential: every 2, 2 of 3 steps kept>"

    @pytest.mark.parametrize(
        ("options", "error", "message"),
        [
            ({"every": 0}, InvalidArgumentError, "every is 0"),
            ({"max_steps": -1}, InvalidArgumentError, "max_steps is -1"),
            ({"stats": "all"}, UnknownNameError, "no stats named 'all'"),
            ({"signals": ("gradients",)}, UnknownNameError, "Did you mean 'gradient'"),
            ({"compiled": "yes"}, UnknownNameError, "no compiled named 'yes'"),
        ],
    )
    def test_wrong_options_are_refused_at_once(self, options, error, message) -> None:
        with pytest.raises(error, match=message):
            Monitor(mlp(), **options)

    def test_nothing_was_called(self) -> None:
        with Monitor(mlp()) as monitor:
            pass
        with pytest.raises(NothingRecordedError, match="VP001: Sequential was not called"):
            _ = monitor.recording

    def test_only_evaluations_were_seen(self) -> None:
        model = mlp().eval()
        with Monitor(model) as monitor:
            train_step(model)
        with pytest.raises(NothingRecordedError, match=r"called 1 times.*Call model\.train\(\)"):
            _ = monitor.recording
