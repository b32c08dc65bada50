from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from tests.probe.untouched import describe_model, to_bytes
from tests.reference.moments import measure
from tests.strategies import describe_exactly
from varprobe import (
    InvalidArgumentError,
    NothingRecordedError,
    Recording,
    UnknownNameError,
    UnsupportedModelError,
    profile,
)


def build() -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(inplace=True), nn.Dropout(0.3), nn.Linear(8, 3)
    )


X = torch.randn(16, 6, generator=torch.Generator().manual_seed(1))


def read(recording: Recording, signal: str) -> dict[str, float]:
    """Return the second moments of the first draw by site."""
    return {
        f"{r.site.module}:{r.site.output}": r.moments.second_moment
        for r in recording.select(signal=signal, draw=0)
    }


def describe(recording: Recording) -> str:
    return describe_exactly(recording)


class TestWhatIsRecorded:
    def test_kept_weights_give_one_draw_of_all_signals(self) -> None:
        model = build().eval()
        recording = profile(model, X)
        assert recording.draws == 1
        assert read(recording, "activation")["0:"] == pytest.approx(
            measure(model[0](X)).second_moment, rel=1e-6
        )
        assert read(recording, "weight")["4:weight"] == pytest.approx(
            measure(model[4].weight).second_moment, rel=1e-6
        )
        assert set(read(recording, "weight_gradient")) == set(read(recording, "weight"))
        assert set(read(recording, "gradient")) == {"0:", "1:", "2:", "3:", "4:", ":"}
        assert recording.unobserved == ()

    def test_the_users_loss_gives_the_users_gradients(self) -> None:
        model = build().eval()
        recording = profile(model, X, loss=lambda output: output.square().sum())
        twin = copy.deepcopy(model)
        h = twin[0](X)
        twin[4](twin[1](h).relu()).square().sum().backward()
        for index, name in ((0, "weight"), (4, "bias"), (1, "weight")):
            expected = measure(getattr(twin[index], name).grad).second_moment
            found = read(recording, "weight_gradient")[f"{index}:{name}"]
            assert found == pytest.approx(expected, rel=1e-5)
        assert recording.meta["loss"] == "user"

    def test_the_cotangent_has_unit_variance(self) -> None:
        recording = profile(nn.Linear(4, 100), torch.randn(100, 4))
        # 10,000 squares of normal numbers: a standard error of sqrt(2 / 10,000) = 1.4 %.
        assert read(recording, "gradient")[":"] == pytest.approx(1.0, abs=0.07)
        assert recording.meta["loss"] == "random cotangent"

    def test_an_output_under_two_names_gets_one_cotangent(self) -> None:
        class Twice(nn.Module):
            def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
                return {"last": x, "states": (x,)}

        recording = profile(Twice(), torch.randn(100, 100, requires_grad=True))
        assert read(recording, "gradient") == {
            ":last": pytest.approx(1.0, abs=0.07),
            ":states.0": pytest.approx(1.0, abs=0.07),
        }

    def test_complex_outputs_get_a_complex_cotangent(self) -> None:
        class Transform(nn.Linear):
            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return torch.fft.fft(super().forward(x))

        recording = profile(Transform(100, 100), torch.randn(100, 100))
        # |z|² is 1, and its two parts are counted as two elements.
        assert read(recording, "gradient")[":"] == pytest.approx(0.5, abs=0.04)

    def test_forward_only(self) -> None:
        seen = []

        class Asks(nn.Linear):
            def forward(self, x: torch.Tensor) -> torch.Tensor:
                seen.append(torch.is_grad_enabled())
                return super().forward(x)

        recording = profile(Asks(6, 6), X, loss=False)
        assert seen == [False]
        assert recording.select(signal="gradient") == ()
        assert recording.meta["loss"] == "none"

    def test_without_a_differentiable_output_there_is_a_reason(self) -> None:
        recording = profile(nn.Sequential(nn.ReLU()), X)
        assert recording.select(signal="gradient") == ()
        reasons = [str(line) for line in recording.unobserved]
        assert "(root): gradient: no output is differentiable, so none was sent back" in reasons

    def test_outputs_without_dense_layout_are_listed(self) -> None:
        class Sparse(nn.Linear):
            def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
                h = super().forward(x)
                return h, h.to_sparse()

        recording = profile(Sparse(6, 6), X)
        assert any("without dense layout" in str(line) for line in recording.unobserved)
        assert read(recording, "gradient")[":0"] > 0

    def test_nan_weights_are_recorded(self) -> None:
        model = build()
        with torch.no_grad():
            model[0].weight[0, 0] = torch.nan
        recording = profile(model, X)
        (record,) = (r for r in recording.select(signal="activation") if r.site.module == "0")
        assert record.moments.nan == 16
        assert record.moments.finite == 16 * 7

    @pytest.mark.parametrize("training", [True, False])
    def test_the_models_own_mode_is_used(self, training) -> None:
        recording = profile(build().train(training), X)
        assert recording.meta["training"] is training
        (record,) = (r for r in recording.select(signal="activation") if r.site.module == "3")
        # ReLU makes about half of them zero; dropout 30 % of the rest.
        assert (record.moments.zero_fraction > 0.6) is training

    def test_the_callers_context_does_not_matter(self) -> None:
        model = build()
        expected = describe(profile(model, X))
        for context in (torch.no_grad(), torch.inference_mode(), torch.enable_grad()):
            with context:
                assert describe(profile(model, X + 0.0)) == expected

    @pytest.mark.parametrize(
        ("inputs", "kwargs"),
        [
            (X, None),
            ((X,), None),
            ({"input": X}, None),
            (lambda draw: X, None),
            (lambda draw: {"input": X}, None),
            ((), {"input": X}),
        ],
    )
    def test_inputs_come_in_several_forms(self, inputs, kwargs) -> None:
        model = nn.Linear(6, 3)
        first = profile(model, X)
        assert read(profile(model, inputs, kwargs=kwargs), "gradient") == read(first, "gradient")
        assert profile(model, inputs, kwargs=kwargs).meta["batch_size"] == 16

    def test_autocast_goes_on(self) -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            recording = profile(nn.Linear(6, 3), X)
        exact = measure(X).second_moment
        assert 0 < read(recording, "activation")[":"] != exact


class TestDraws:
    def test_the_same_seed_gives_the_same_numbers(self) -> None:
        def run(seed: int) -> str:
            torch.rand(3)
            recording = profile(build, X, init="kaiming_normal", draws=3, seed=seed)
            return repr(recording.records)

        assert run(5) == run(5) != run(6)

    def test_draws_differ(self) -> None:
        recording = profile(build(), X, init="kaiming_normal", draws=3)
        firsts = [r.moments.mean for r in recording.select(signal="weight") if r.depth == 0]
        assert recording.draws == 3
        assert len(set(firsts)) > 3

    def test_a_draw_is_the_same_alone_and_among_others(self) -> None:
        one = profile(build, X, init="xavier_normal", draws=1)
        many = profile(build, X, init="xavier_normal", draws=3)
        assert one.records == tuple(r for r in many.records if r.draw == 0)

    def test_initializations_are_compared_under_the_same_masks_and_cotangent(self) -> None:
        recordings = [profile(build, X, init=init) for init in ("xavier_normal", "default")]
        first, second = (read(recording, "gradient")[":"] for recording in recordings)
        assert first == second

    def test_a_builder_makes_each_draw(self) -> None:
        recording = profile(build, X, draws=2)
        weights = [r for r in recording.select(signal="weight") if r.site.module == "0"]
        assert len({r.moments.mean for r in weights}) == len(weights)
        assert recording.meta["init"] is None

    def test_weights_are_drawn_from_the_named_law(self) -> None:
        recording = profile(nn.Linear(400, 100), torch.randn(2, 400), init="kaiming_normal")
        # 40,000 normal weights: a standard error of sqrt(2 / 40,000) = 0.7 %.
        assert read(recording, "weight")[":weight"] == pytest.approx(2 / 400, rel=0.035)
        assert recording.runs == ("kaiming_normal",)
        assert recording.meta["init"] == "kaiming_normal"

    def test_an_initialization_may_be_a_function_of_a_module(self) -> None:
        def fill(module: nn.Module) -> None:
            if isinstance(module, nn.Linear):
                nn.init.constant_(module.weight, 0.5)

        recording = profile(nn.Linear(6, 3), X, init=fill, draws=2)
        assert read(recording, "weight")[":weight"] == 0.25
        assert "fill" in str(recording.meta["init"])

    def test_each_draw_may_have_its_own_data(self) -> None:
        drawn = []

        def draw_inputs(draw: int) -> torch.Tensor:
            drawn.append(draw)
            return torch.randn(4, 6) + np.random.rand()

        first = profile(build, draw_inputs, draws=2, seed=3)
        torch.rand(1), np.random.rand()
        assert drawn == [0, 1]
        assert describe(profile(build, draw_inputs, draws=2, seed=3)) == describe(first)

    def test_progress_is_told(self) -> None:
        told: list[int] = []
        profile(build, X, draws=3, progress=told.append)
        assert told == [1, 2, 3]


class Boom(Exception):
    pass


class FailsOn(nn.Module):
    """A model that fails in its forward or backward pass."""

    def __init__(self, where: str) -> None:
        super().__init__()
        self.body, self.where = build(), where

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.body(x)
        if self.where == "forward":
            raise Boom
        if self.where == "backward":
            h.register_hook(_fail)
        return h


def _fail(*_: object) -> None:
    raise Boom


class TestNoTrace:
    @pytest.mark.parametrize(
        ("model", "options"),
        [
            (FailsOn("nowhere"), {}),
            (FailsOn("nowhere"), {"init": "kaiming_normal", "draws": 2}),
            (FailsOn("nowhere"), {"init": "default"}),
            (FailsOn("nowhere"), {"loss": torch.sum}),
            (FailsOn("nowhere"), {"loss": False}),
            (FailsOn("forward"), {"init": "default"}),
            (FailsOn("backward"), {"init": "default"}),
            (FailsOn("nowhere"), {"init": "default", "loss": _fail}),
            (FailsOn("nowhere"), {"init": _fail}),
            (FailsOn("nowhere"), {"init": "default", "progress": _fail}),
        ],
    )
    def test_model_inputs_and_generators_are_as_before(self, model, options) -> None:
        for parameter in model.parameters():
            parameter.grad = torch.randn_like(parameter)
        model.body[0].bias.requires_grad_(False)
        x = X.clone().requires_grad_()
        before = describe_model(model)
        generators = torch.get_rng_state(), repr(np.random.get_state())
        failing = model.where != "nowhere" or _fail in options.values()
        if failing:
            with pytest.raises(Boom):
                profile(model, x, **options)
        else:
            profile(model, x, **options)
        assert describe_model(model) == before
        assert torch.equal(torch.get_rng_state(), generators[0])
        assert repr(np.random.get_state()) == generators[1]
        assert x.grad is None
        assert torch.equal(x, X)
        assert torch.is_grad_enabled()

    def test_a_failing_data_source_or_builder_leaves_the_generators(self) -> None:
        before = to_bytes(torch.get_rng_state())
        with pytest.raises(Boom):
            profile(build, _fail, draws=2)
        with pytest.raises(Boom):
            profile(lambda: _fail(), X)
        assert to_bytes(torch.get_rng_state()) == before

    def test_inputs_that_the_model_writes_into_stay(self) -> None:
        x = X.clone()
        profile(nn.Sequential(nn.ReLU(inplace=True), nn.Linear(6, 2)), x)
        assert torch.equal(x, X)


class Nothing(nn.Module):
    def forward(self, x: torch.Tensor) -> str:
        return "text"


class TestBadInput:
    def test_an_unknown_initialization_lists_and_suggests(self) -> None:
        with pytest.raises(UnknownNameError, match=r"Did you mean 'kaiming_normal'\?.*orthogonal"):
            profile(build(), X, init="kaming_normal")

    def test_the_models_own_exception_reaches_the_user(self) -> None:
        model = build()
        before = describe_model(model)
        with pytest.raises(RuntimeError, match="cannot be multiplied"):
            profile(model, torch.randn(2, 5), init="default")
        with pytest.raises(TypeError, match="unexpected keyword"):
            profile(model, {"nonsense": X})
        assert describe_model(model) == before

    def test_several_draws_of_kept_weights_would_be_one(self) -> None:
        with pytest.raises(InvalidArgumentError, match="Name the initialization"):
            profile(build(), X, draws=2)

    @pytest.mark.parametrize("draws", [0, -1])
    def test_there_is_at_least_one_draw(self, draws) -> None:
        with pytest.raises(InvalidArgumentError, match=f"draws={draws}"):
            profile(build(), X, draws=draws)

    @pytest.mark.parametrize(
        ("loss", "message"),
        [
            (lambda y: y, r"must be a scalar tensor, got shape \(16, 3\)"),
            (lambda y: 3.0, r"must be a scalar tensor, got 3\.0"),
            (lambda y: None, "must be a scalar tensor, got None"),
            (lambda y: y.detach().sum(), "does not depend on any parameter"),
            (lambda y: torch.ones(3, requires_grad=True).sum(), "does not depend on any parameter"),
            (lambda y: torch.ones((), requires_grad=True), "does not depend on any parameter"),
            (True, "loss=True: expected a function"),
            ("mse", "loss='mse': expected a function"),
        ],
    )
    def test_a_loss_is_a_differentiable_scalar(self, loss, message) -> None:
        with pytest.raises(InvalidArgumentError, match=message):
            profile(build(), X, loss=loss)

    def test_a_loss_may_change_the_output_in_place_or_leave_it_out(self) -> None:
        profile(build(), X, loss=lambda y: y.mul_(2).sum())
        model = build()
        penalty = profile(model, X, loss=lambda y: next(model.parameters()).square().sum())
        assert penalty.select(signal="weight_gradient")

    @pytest.mark.parametrize("model", [Nothing(), nn.Sequential(Nothing())])
    def test_a_model_without_a_recorded_layer_is_an_error(self, model) -> None:
        with pytest.raises(NothingRecordedError, match="VP001"):
            profile(model, X)

    @pytest.mark.parametrize(
        ("model", "message"),
        [
            (lambda: "model", "got str from the function"),
            (nn.Linear(6, 3, device="meta"), "on the meta device"),
            (nn.LazyLinear(3), "has no shapes yet"),
        ],
    )
    def test_models_that_cannot_run_are_refused(self, model: Callable, message: str) -> None:
        with pytest.raises(UnsupportedModelError, match=message):
            profile(model, X)

    def test_two_sets_of_keyword_arguments_are_one_too_many(self) -> None:
        with pytest.raises(TypeError, match="put the contents of kwargs"):
            profile(build(), {"input": X}, kwargs={"more": X})

    def test_an_unknown_statistic_is_named(self) -> None:
        with pytest.raises(UnknownNameError, match="stats"):
            profile(build(), X, stats="ful")
        with pytest.raises(UnknownNameError, match="compiled"):
            profile(build(), X, compiled="maybe")
