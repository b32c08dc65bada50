"""The probe's own conduct: when it records, what it refuses to say, and that it lets go."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.probe.scenario import mlp, score
from tests.probe.untouched import describe_model
from tests.reference.moments import measure
from varprobe import NothingRecordedError, Probe, ProbeStateError, Recording, UnknownNameError

ALL = ("activation", "gradient", "weight", "weight_gradient")


def sites(recording: Recording, signal: str) -> list[str]:
    return [str(record.site) for record in recording.select(signal=signal)]


def step(model: nn.Module) -> None:
    score(model(torch.randn(5, 6))).backward()


class TestSignals:
    def test_records_come_in_order_of_depth(self) -> None:
        model = mlp()
        with Probe(model, signals=ALL) as probe:
            step(model)
        recording = probe.recording
        assert sites(recording, "activation") == ["0", "1", "2", "(root)"]
        assert sites(recording, "gradient") == ["0", "1", "2", "(root)"]
        assert sites(recording, "weight") == ["0.weight", "0.bias", "2.weight", "2.bias"]
        assert sorted(sites(recording, "weight_gradient")) == sorted(sites(recording, "weight"))
        depths = [record.depth for record in recording]
        assert depths == sorted(depths)
        assert {r.depth for r in recording if r.site.module == "2"} == {2}

    def test_labels_shapes_fans_and_facts(self) -> None:
        model = mlp().double()
        with Probe(model, run="he", draw=3, step=7, stats="full") as probe:
            step_input = torch.randn(5, 6).double()
            model(step_input)
        recording = probe.recording
        record = recording.select(signal="weight")[0]
        assert (record.run, record.draw, record.step) == ("he", 3, 7)
        assert (record.shape, record.fan_in, record.fan_out) == ((6, 6), 6, 6)
        bias = recording.select(signal="weight")[1]
        assert (bias.kind, bias.fan_in, bias.fan_out) == ("Linear", None, None)
        activation = recording.select(signal="activation")[0]
        assert activation.linear_input is not None
        assert activation.exponents is not None
        assert recording.meta["model"] == "Sequential"
        assert recording.meta["parameters"] == 70
        assert recording.meta["dtype"] == "float64"
        assert recording.meta["batch_size"] == 5
        assert recording.meta["training"] is True

    @pytest.mark.parametrize("signal", ["gradient", "weight", "weight_gradient"])
    def test_one_signal_alone(self, signal) -> None:
        model = mlp()
        with Probe(model, signals=(signal,)) as probe:
            step(model)
        assert {record.site.signal for record in probe.recording} == {signal}

    def test_weight_gradients_are_pooled_over_passes(self) -> None:
        model, twin_gradients = mlp(), []
        batches = torch.randn(3, 5, 6)
        with Probe(model, signals=("weight_gradient",)) as probe:
            for x in batches:
                score(model(x)).backward()
        for x in batches:
            loss = score(model(x))
            twin_gradients += torch.autograd.grad(loss, [model[0].weight])
        (record,) = (r for r in probe.recording if str(r.site) == "0.weight")
        exact = measure(twin_gradients)
        assert record.moments.numel == exact.numel
        assert record.moments.second_moment == pytest.approx(exact.second_moment, rel=1e-5)

    def test_a_shared_weight_is_recorded_once(self) -> None:
        model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6))
        model[1].weight = model[0].weight
        with Probe(model, signals=ALL) as probe:
            step(model)
        for signal in ("weight", "weight_gradient"):
            assert sorted(sites(probe.recording, signal)) == ["0.bias", "0.weight", "1.bias"]

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"stats": "all"}, "There is no stats named 'all'.*full, moments"),
            ({"signals": ("gradients",)}, "Did you mean 'gradient'"),
            ({"compiled": "yes"}, "There is no compiled named 'yes'.*eager, error"),
        ],
    )
    def test_unknown_options_are_refused(self, options, message) -> None:
        with pytest.raises(UnknownNameError, match=message):
            Probe(mlp(), **options)


class TestNothingRecorded:
    def test_the_model_was_not_called(self) -> None:
        with Probe(mlp()) as probe:
            pass
        with pytest.raises(NothingRecordedError, match="VP001: Sequential was not called"):
            _ = probe.recording

    def test_a_copy_was_called(self) -> None:
        import copy

        model = mlp()
        with Probe(model) as probe:
            step(copy.deepcopy(model))
        with pytest.raises(NothingRecordedError, match="a copy"):
            _ = probe.recording

    @pytest.mark.parametrize("call", [lambda m, x: m.forward(x), lambda m, x: m[0](x)])
    def test_only_parts_were_called(self, call) -> None:
        model = mlp()
        with Probe(model) as probe:
            call(model, torch.randn(5, 6))
        with pytest.raises(NothingRecordedError, match=r"Only parts of it were.*not its \.forward"):
            _ = probe.recording

    @pytest.mark.parametrize("signal", ALL)
    def test_also_if_only_one_signal_was_asked_for(self, signal) -> None:
        with Probe(mlp(), signals=(signal,)) as probe:
            pass
        with pytest.raises(NothingRecordedError):
            _ = probe.recording

    def test_parts_that_were_called_too_early_are_listed(self) -> None:
        model = mlp()
        with Probe(model) as probe:
            model[0](torch.randn(9, 6))
            model(torch.randn(5, 6))
        lines = [str(line) for line in probe.recording.unobserved]
        assert "0: called before the model itself was; that call was not measured" in lines
        assert probe.recording.select(signal="activation")[0].moments.numel == 30


class TestStartAndStop:
    def test_a_probe_is_used_once(self) -> None:
        model = mlp()
        probe = Probe(model)
        with probe:
            with pytest.raises(ProbeStateError, match="Make a new one"):
                probe.start()
            step(model)
        with pytest.raises(ProbeStateError):
            probe.start()
        probe.stop()
        assert len(probe.recording.select(signal="activation")) == 4

    def test_the_recording_may_be_read_at_any_time(self) -> None:
        model = mlp()
        with Probe(model) as probe:
            model[2](model[0](torch.randn(5, 6)))
            step(model)
            first = probe.recording
            assert probe.recording == first
            step(model)
            second = probe.recording
        assert second.records[0].moments.numel == first.records[0].moments.numel
        numels = [r.select(signal="activation")[0].moments.numel for r in (first, second)]
        assert numels == [30, 60]

    def test_depths_do_not_depend_on_when_the_recording_is_read(self) -> None:
        class Late(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.a, self.b, self.use_b = nn.Linear(6, 6), nn.Linear(6, 6), False
                self.act = nn.ReLU()

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return self.b(self.act(self.a(x))) if self.use_b else self.a(x)

        model = Late()
        with Probe(model) as probe:
            step(model)
            _ = probe.recording
            model.use_b = True
            step(model)
        depths = {r.site.signal: r.depth for r in probe.recording if r.site.module == "b"}
        assert depths["weight"] == depths["activation"]

    def test_exceptions_inside_leave_no_hook(self) -> None:
        model, x = mlp(), torch.randn(5, 6)
        before = describe_model(model)

        def run_and_fail() -> None:
            with Probe(model, signals=ALL):
                model(x)
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            run_and_fail()
        assert describe_model(model) == before

    def test_an_exception_while_starting_leaves_no_hook(self, monkeypatch) -> None:
        model = mlp()
        before = describe_model(model)

        def refuse(*args: object, **kwargs: object) -> None:
            raise ZeroDivisionError

        monkeypatch.setattr(model[1], "register_forward_hook", refuse)
        with pytest.raises(ZeroDivisionError):
            Probe(model, signals=ALL).start()
        monkeypatch.undo()
        assert describe_model(model) == before

    def test_stopped_between_forward_and_backward(self) -> None:
        model, x = mlp(inplace=True), torch.randn(5, 6)
        with Probe(model, signals=ALL) as probe:
            output = model(x)
        hooks = list((output._backward_hooks or {}).values())
        assert hooks == []
        score(output).backward()
        assert probe.recording.select(signal="gradient") == ()
        missing = [line for line in probe.recording.unobserved if "none arrived" in line.reason]
        assert len(missing) == 4 + 4

    def test_hooks_leave_a_graph_that_is_still_alive(self) -> None:
        class Views(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.scale = nn.Parameter(torch.ones(6))

            def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
                h = x * self.scale
                return h, h[:, :3], self.scale

        model = Views()
        x = torch.randn(5, 6, requires_grad=True)
        with Probe(model, signals=ALL) as probe:
            outputs = model(x)
        assert all(not output._backward_hooks for output in outputs)
        sum(output.sum() for output in outputs).backward()
        assert probe.recording.select(signal="gradient") == ()
