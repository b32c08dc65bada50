"""What the probe cannot see it lists, and it lists nothing else."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.probe.scenario import mlp, score
from varprobe import Probe
from varprobe.modules import is_lazy

OWN = "operations of its own (functions, additions, views) have no record"


def list_unobserved(model: nn.Module, x: torch.Tensor, **options: object) -> list[str]:
    with Probe(model, signals=("activation",), **options) as probe:
        model(x)
    return [str(line) for line in probe.recording.unobserved]


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(mlp()[:2] for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = x + block(x)
        return x


class Between(nn.Module):
    """Something happens between two layers, and nothing after them."""

    def __init__(self, operation) -> None:
        super().__init__()
        self.first, self.second, self.operation = nn.Linear(6, 6), nn.Linear(6, 6), operation

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.operation(self.first(x)))


class Heads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.used, self.unused = nn.Linear(6, 6), nn.Linear(6, 6)
        self.spare = nn.ModuleDict({"act": nn.ReLU()})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.used(x)


class TestOwnOperations:
    def test_a_chain_of_modules_has_none(self) -> None:
        deep = nn.Sequential(mlp(inplace=True), nn.Sequential(nn.Identity(), nn.Dropout(0.5)))
        assert list_unobserved(deep, torch.randn(5, 6)) == []

    def test_additions_belong_to_the_module_that_makes_them(self) -> None:
        assert list_unobserved(Residual(), torch.randn(5, 6)) == [f"(root): {OWN}"]
        outer = nn.Sequential(Residual(), nn.Linear(6, 2))
        assert list_unobserved(outer, torch.randn(5, 6)) == [f"0: {OWN}"]

    @pytest.mark.parametrize("operation", [F.relu, F.relu_, lambda x: x.t().t(), lambda x: x * 2])
    def test_functions_between_layers_are_seen_by_the_next(self, operation) -> None:
        assert list_unobserved(Between(operation), torch.randn(5, 6)) == [f"(root): {OWN}"]

    def test_no_function_no_line(self) -> None:
        assert list_unobserved(Between(nn.ReLU()), torch.randn(5, 6)) == []
        assert list_unobserved(Between(lambda x: x), torch.randn(5, 6)) == []

    def test_weights_and_buffers_are_no_results(self) -> None:
        class Position(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.norm = nn.LayerNorm(6)
                self.weight = nn.Parameter(torch.ones(5, 6))
                self.register_buffer("table", torch.ones(5, 6))

            def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
                return self.norm(self.weight), self.norm(self.table), self.norm(x)

        assert list_unobserved(Position(), torch.randn(5, 6)) == []

    def test_it_costs_the_first_forward_only(self) -> None:
        model = Between(lambda x: x)
        with Probe(model) as probe:
            model(torch.randn(5, 6))
            model.operation = F.relu
            model(torch.randn(5, 6))
        assert not any(OWN in str(line) for line in probe.recording.unobserved)


class TestCalls:
    def test_modules_that_are_never_called_are_listed(self) -> None:
        assert list_unobserved(Heads(), torch.randn(5, 6)) == [
            "unused: never called; its weights may be used without it, as a function's arguments",
            "spare.act: never called",
        ]

    def test_a_module_that_runs_in_a_custom_backward_only(self) -> None:
        layer = nn.Linear(6, 6)

        class Strange(torch.autograd.Function):
            @staticmethod
            def forward(ctx, x):
                return x * 1.0

            @staticmethod
            def backward(ctx, gradient):
                return layer(gradient)

        class Model(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.first, self.layer = nn.Linear(6, 6), layer

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return Strange.apply(self.first(x))

        model = Model()
        with Probe(model) as probe:
            score(model(torch.randn(5, 6))).backward()
        lines = [str(line) for line in probe.recording.unobserved]
        assert any(line.startswith("layer: called inside a backward pass only") for line in lines)
        assert probe.recording.meta["recomputed_calls"] == 1
        assert "layer" not in probe.recording.modules

    def test_outputs_without_tensors_are_listed_by_class(self) -> None:
        class Cache:
            pass

        class Part(nn.Module):
            def forward(self, x: torch.Tensor) -> Cache:
                return Cache()

        class Quiet(nn.Module):
            def forward(self, x: torch.Tensor) -> None:
                return None

        class Model(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.part, self.quiet = Part(), Quiet()

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                self.part(x)
                self.quiet(x)
                return x

        lines = list_unobserved(Model(), torch.randn(5, 6))
        assert lines == ["part: output: no tensor was found in what it returns, a Cache"]

    def test_one_of_two_results_of_a_function_may_get_no_gradient(self) -> None:
        class Spread(nn.Module):
            def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
                return torch.var_mean(x, 1)

        model = nn.Sequential(nn.Linear(6, 6), Spread())
        with Probe(model, signals=("gradient",)) as probe:
            score(model(torch.randn(5, 6))[0]).backward()
        assert {str(r.site) for r in probe.recording} == {"0", "1.0", "(root).0"}
        missing = {str(u).split(": none")[0] for u in probe.recording.unobserved}
        assert missing == {"1.1: gradient", "(root).1: gradient"}

    def test_gradients_that_never_arrive_are_listed(self) -> None:
        class Model(Heads):
            def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
                return self.used(x), self.unused(x)

        model = Model()
        with Probe(model, signals=("gradient", "weight_gradient")) as probe:
            score(model(torch.randn(5, 6))[0]).backward()
        missing = {str(u).split(": none")[0] for u in probe.recording.unobserved}
        assert {
            "unused: gradient",
            "(root).1: gradient",
            "unused.weight: weight_gradient",
            "unused.bias: weight_gradient",
        } <= missing
        assert not any(line.startswith("used") for line in missing)


class TestTensors:
    def test_tensors_without_numbers_are_listed_and_the_run_goes_on(self) -> None:
        class Shape(nn.Module):
            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return torch.empty_like(x, device="meta")

        class Model(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.shape = Shape()

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return x * self.shape(x).shape[0]

        lines = list_unobserved(Model(), torch.randn(5, 6))
        assert "shape: activation: a meta tensor has no values" in lines

    def test_gradients_taken_through_the_base_are_named(self) -> None:
        class Slice(nn.Module):
            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return x[:, 1:]

        model = nn.Sequential(nn.Linear(6, 6), Slice(), nn.ReLU(inplace=True))
        with Probe(model) as probe:
            score(model(torch.randn(5, 6))).backward()
        assert probe.recording.meta["gradients_through_base"] == ["1"]
        probe.recording.save("/dev/null")

    def test_a_parametrized_weight_is_listed_and_not_read(self) -> None:
        layer = nn.utils.parametrizations.spectral_norm(nn.Linear(6, 6))
        state = {name: buffer.clone() for name, buffer in layer.named_buffers()}
        with Probe(layer, signals=("activation", "weight")) as probe:
            assert all(torch.equal(b, state[name]) for name, b in layer.named_buffers())
            layer(torch.randn(5, 6))
        (line,) = (str(line) for line in probe.recording.unobserved)
        assert line == "(root): weight: it is parametrized, and reading it could change it"
        assert [r.site.output for r in probe.recording.select(signal="weight")] == ["bias"]

    def test_weights_of_lazy_modules_are_measured_when_they_come(self) -> None:
        model = nn.Sequential(nn.LazyLinear(4), nn.ReLU(), nn.LazyLinear(2, bias=False))
        signals = ("activation", "gradient", "weight", "weight_gradient")
        with Probe(model, signals=signals) as probe:
            assert all(map(is_lazy, model.parameters()))
            for _ in range(2):
                score(model(torch.randn(5, 6))).backward()
        recording = probe.recording
        for signal in ("weight", "weight_gradient"):
            found = sorted(str(r.site) for r in recording.select(signal=signal))
            assert found == ["0.bias", "0.weight", "2.weight"]
        assert recording.select(signal="weight")[0].fan_in == 6
        assert recording.unobserved == ()
