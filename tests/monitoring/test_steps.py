"""Which forwards are a step, which steps are sampled, and what of them is pooled."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.monitoring.steps import ALL, count_hooks, numbers, steps, train_step
from tests.probe.scenario import mlp, score
from tests.probe.untouched import describe_model
from tests.reference.moments import measure
from varprobe import (
    Probe,
    ProbeStateError,
)
from varprobe.monitoring import Monitor


class TestSteps:
    @pytest.mark.parametrize(
        ("every", "expected"), [(1, [0, 1, 2, 3, 4]), (2, [0, 2, 4]), (9, [0])]
    )
    def test_every_kth_training_forward_is_sampled(self, every, expected) -> None:
        model = mlp()
        with Monitor(model, every=every, run="he") as monitor:
            for _ in range(5):
                train_step(model)
        assert steps(monitor.recording) == expected
        assert monitor.recording.runs == ("he",)
        assert monitor.recording.meta["steps"] == 5
        assert monitor.recording.meta["every"] == every

    def test_a_sampled_step_is_what_a_probe_records(self) -> None:
        model, batches = mlp(), torch.randn(3, 5, 6)
        with Monitor(model, every=2, stats="full", signals=ALL) as monitor:
            for x in batches:
                train_step(model, x)
        for step in (0, 2):
            with Probe(model, stats="full", signals=ALL) as probe:
                train_step(model, batches[step])
            assert numbers(monitor.recording, step) == numbers(probe.recording)

    def test_weights_are_those_before_the_step(self) -> None:
        model = mlp()
        means = []
        with Monitor(model, every=1, signals=("weight",)) as monitor:
            for _ in range(3):
                means.append(model[0].weight.double().mean().item())
                train_step(model)
                with torch.no_grad():
                    model[0].weight.add_(1.0)
        records = [r for r in monitor.recording if str(r.site) == "0.weight"]
        assert [r.moments.mean for r in records] == pytest.approx(means)

    def test_hooks_exist_only_during_sampled_steps(self) -> None:
        model, counts = mlp(), []
        before = describe_model(model)
        with Monitor(model, every=3):
            counts.append(count_hooks(model))
            for _ in range(7):
                model(torch.randn(5, 6))
                counts.append(count_hooks(model))
        during = len(list(model.modules())) + 2
        assert counts == [1, during, 1, 1, during, 1, 1, during]
        assert describe_model(model) == before

    def test_the_backward_pass_may_come_any_time_before_the_next_step(self) -> None:
        model = mlp()
        with Monitor(model, every=1) as monitor:
            first = score(model(torch.randn(5, 6)))
            first.backward(retain_graph=True)
            second = score(model(torch.randn(5, 6)))
            first.backward()  # too late: its step is over
            second.backward()
        gradients = monitor.recording.select(signal="gradient")
        assert {(r.step, r.backward, r.moments.numel) for r in gradients if not r.depth} == {
            (0, 0, 30),
            (1, 0, 30),
        }

    def test_the_batch_is_that_of_its_own_step(self) -> None:
        model = mlp()
        with Monitor(model, every=2) as monitor:
            train_step(model, torch.randn(5, 6))
            train_step(model, torch.randn(2, 6))
        assert monitor.recording.meta["batch_size"] == 5

    def test_a_forward_that_fails_is_a_step_without_records(self) -> None:
        model = mlp()
        with Monitor(model, every=1) as monitor:
            train_step(model)
            with pytest.raises(RuntimeError, match="cannot be multiplied"):
                model(torch.randn(5, 7))
            train_step(model)
        assert steps(monitor.recording) == [0, 2]
        lines = [str(line) for line in monitor.recording.unobserved]
        assert lines == ["(root): step 1: its forward came to nothing"]

    def test_what_is_missing_in_some_steps_says_so(self) -> None:
        model = mlp()
        with Monitor(model, every=1) as monitor:
            train_step(model)
            model(torch.randn(5, 6))
        missing = {line.reason for line in monitor.recording.unobserved}
        assert {reason.partition(" (")[2] for reason in missing} == {"in 1 of 2 steps)"}

    def test_it_may_be_read_in_the_middle_of_a_step(self) -> None:
        model = mlp()
        with Monitor(model, every=1) as monitor:
            loss = score(model(torch.randn(5, 6)))
            assert not monitor.recording.select(signal="gradient")
            loss.backward()
            assert len(monitor.recording.select(signal="gradient")) == 4


class TestEvaluation:
    def evaluate(self, model: nn.Module, how: str) -> None:
        x = torch.randn(9, 6)
        if how == "eval":
            model.eval()
            model(x)
            model.train()
        else:
            with torch.no_grad() if how == "no_grad" else torch.inference_mode():
                model(x)

    @pytest.mark.parametrize("how", ["eval", "no_grad", "inference"])
    def test_it_is_no_step_and_leaves_no_record(self, how) -> None:
        model, batches = mlp(), torch.randn(3, 5, 6)
        with Monitor(model, every=2, stats="full") as watched:
            for x in batches:
                train_step(model, x)
        with Monitor(model, every=2, stats="full") as monitor:
            self.evaluate(model, how)
            for x in batches:
                self.evaluate(model, how)
                loss = score(model(x))
                self.evaluate(model, how)
                loss.backward()
                self.evaluate(model, how)
        assert monitor.recording == watched.recording

    def test_between_the_forwards_of_a_step(self) -> None:
        model = mlp()
        with Monitor(model) as monitor:
            monitor.step()
            for _ in range(2):
                train_step(model)
                self.evaluate(model, "eval")
        (record,) = (r for r in monitor.recording.select(signal="gradient") if r.depth == 0)
        assert record.moments.numel == 2 * 30

    def test_checkpoints_are_computed_again_while_it_looks_away(self) -> None:
        from torch.utils.checkpoint import checkpoint

        class Checkpointed(nn.Module):
            def __init__(self, mode: bool | None) -> None:
                super().__init__()
                self.body, self.head, self.mode = mlp(), nn.Linear(4, 2), mode

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                if self.mode is None:
                    return self.head(self.body(x))
                return self.head(checkpoint(self.body, x, use_reentrant=self.mode))

        x, found = torch.randn(5, 6, requires_grad=True), []
        model = Checkpointed(None)
        for mode in (None, True, False):
            model.mode = mode
            with Monitor(model) as monitor:
                loss = score(model(x))
                with torch.no_grad():
                    model(x)
                loss.backward()
            gradients = monitor.recording.select(signal="gradient")
            found.append([(r.site, r.moments) for r in gradients])
        assert found[0] == found[1] == found[2]


class TestStepsByHand:
    @pytest.mark.parametrize("first", [True, False])
    def test_all_forwards_of_a_step_are_pooled(self, first) -> None:
        model, batches = mlp(), torch.randn(3, 4, 5, 6)
        with Monitor(model, every=2, signals=ALL) as monitor:
            if not first:
                monitor.step()
            for micro_batches in batches:
                if first:
                    monitor.step()
                for x in micro_batches:
                    train_step(model, x)
                if not first:
                    monitor.step()
        assert steps(monitor.recording) == [0, 2]
        (record,) = (
            r
            for r in monitor.recording.select(signal="activation")
            if r.step == 0 and r.site.module == "0"
        )
        exact = measure([model[0](x) for x in batches[0]])
        assert record.moments.numel == exact.numel
        assert record.moments.second_moment == pytest.approx(exact.second_moment, rel=1e-5)
        assert monitor.recording.meta["steps"] == 3

    def test_after_single_forwards_no_announcement_is_needed(self) -> None:
        model = mlp()
        with Monitor(model, every=1) as monitor:
            for _ in range(3):
                train_step(model)
                monitor.step()
                monitor.step()
        assert steps(monitor.recording) == [0, 1, 2]

    def test_a_first_call_that_comes_too_late_is_refused(self) -> None:
        model = mlp()
        with Monitor(model) as monitor:
            train_step(model)
            train_step(model)
            with pytest.raises(ProbeStateError, match=r"after 2 forwards.* once before the first"):
                monitor.step()
