"""Where the laws of the parameters of a prediction come from, and in which order."""

from __future__ import annotations

import math
import threading

import pytest
import torch
from torch import nn

import varprobe as vp
from varprobe.initializers.laws import WeightLaw
from varprobe.theory import predict_silently, subject as subject_module
from varprobe.theory.parameters import read_parameters
from varprobe.theory.subject import take


class Scaled(nn.Module):
    """A linear layer with a parameter that only a constructor draws, and one that is numbers."""

    def __init__(self):
        super().__init__()
        self.linear, self.norm = nn.Linear(16, 12), nn.LayerNorm(12)
        self.token = nn.Parameter(nn.init.trunc_normal_(torch.empty(4, 12), std=0.02))
        self.decay = nn.Parameter(torch.arange(1.0, 13.0).log())

    def forward(self, x):
        return self.norm(self.linear(x)) * self.decay + self.token.mean(0)


class Curious(nn.Linear):
    """A layer whose constructor looks at what it has drawn."""

    def reset_parameters(self):
        super().reset_parameters()
        self.size = self.weight.abs().sum().item()


class Decided(nn.Linear):
    """A layer whose forward pass looks at what it has computed."""

    def forward(self, x):
        h = super().forward(x)
        return h * 2 if h.abs().sum().item() > 0 else h


def treble(module):
    if isinstance(module, nn.Linear):
        with torch.no_grad():
            module.weight.mul_(3)


def read(model, init=None):
    return {f"{p.module}.{p.name}".strip("."): p for p in read_parameters(take(model, init), init)}


@pytest.fixture(autouse=True)
def same_numbers():
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        yield


def test_a_builder_tells_what_it_draws() -> None:
    found = read(Scaled)
    assert found["linear.weight"].law.distribution == "uniform"
    assert found["linear.weight"].law.variance == pytest.approx(1 / 48)
    assert found["norm.weight"].law == WeightLaw.constant(1.0)
    assert found["token"].law.variance == pytest.approx(0.0004)
    assert found["token"].tensor.is_meta
    # Numbers that nobody draws are numbers: measured, and at hand.
    assert not found["decay"].drawn
    assert found["decay"].tensor.tolist() == Scaled().decay.tolist()
    assert not any(parameter.reason for parameter in found.values())


def test_a_named_initialization_comes_before_the_builder() -> None:
    found = read(Scaled, "kaiming_normal")
    assert found["linear.weight"].law.distribution == "normal"
    assert found["linear.weight"].law.variance == pytest.approx(2 / 16)
    assert found["linear.bias"].law == WeightLaw.constant(0.0)
    assert found["token"].law.variance == pytest.approx(0.0004)


def test_a_function_as_initialization_is_followed_on_top_of_the_builder() -> None:
    found = read(Scaled, treble)
    assert found["linear.weight"].law.variance == pytest.approx(9 / 48)
    assert found["linear.bias"].law.variance == pytest.approx(1 / 48)


def test_a_built_model_is_measured() -> None:
    model = Scaled()
    for init in (None, "kaiming_normal"):
        found = read(model, init)
        values = model.token.detach().double()
        assert found["token"].law.distribution == "measured"
        assert found["token"].law.variance == pytest.approx(float(values.var(correction=0)))
        assert not found["token"].drawn
    assert found["linear.weight"].law.variance == pytest.approx(2 / 16)


def test_what_an_initialization_makes_of_numbers_is_measured_and_says_so() -> None:
    model = nn.Linear(16, 12)
    weight = read(model, treble)["weight"]
    assert weight.law.variance == pytest.approx(9 * float(model.weight.detach().var(correction=0)))
    assert "numbers that were there before" in weight.reason
    row = vp.predict(model, torch.randn(4, 16), init=treble).find(
        vp.Site(module="", output="weight", signal="weight")
    )
    assert row.status == "approximate"
    assert "could not be followed" in row.reason
    with torch.device("meta"):
        empty = nn.Linear(16, 12)
    # Without numbers there is nothing to measure, and the default would be a guess.
    assert read(empty, treble)["weight"].law is None


def test_a_model_on_meta_has_the_laws_of_its_own_scheme() -> None:
    class Schemed(nn.Sequential):
        def _init_weights(self, module):
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.5)

    with torch.device("meta"):
        model = Schemed(nn.Linear(16, 12), nn.LayerNorm(12))
    found = read(model)
    assert found["0.weight"].law == WeightLaw.normal(0.25)
    assert found["0.bias"].law.distribution == "uniform"
    assert found["1.weight"].law == WeightLaw.constant(1.0)
    assert read(model, "orthogonal")["0.weight"].law.distribution == "orthogonal"


@pytest.mark.parametrize("init", [None, "kaiming_normal"])
def test_a_builder_that_looks_at_numbers_is_measured_and_says_so(init) -> None:
    before = torch.random.get_rng_state()
    found = read(lambda: Curious(16, 12), init)
    assert torch.equal(torch.random.get_rng_state(), before)
    expected = 1 / 48 if init is None else 2 / 16
    # 192 numbers of kurtosis 1.8: a standard error of 6 %.
    assert found["weight"].law.variance == pytest.approx(expected, rel=0.4)
    assert not found["weight"].tensor.is_meta
    assert "Curious.reset_parameters" in found["weight"].reason
    assert "_local_scalar_dense" in found["weight"].reason


def test_a_builder_that_looks_at_numbers_and_has_none_is_refused() -> None:
    def build():
        with torch.device("meta"):
            return Curious(16, 12)

    with pytest.raises(vp.errors.UnsupportedModelError, match=r"Curious\.reset_parameters"):
        take(build, None)


def test_errors_of_the_builder_are_its_own() -> None:
    def build():
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        take(build, None)


class Unfollowed(nn.Module):
    """A module with one weight that is followed, and one that is not."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(16, 12), nn.Linear(12, 12)
        self.second.weight = nn.Parameter(torch.randn(12, 12) @ torch.randn(12, 12))

    def forward(self, x):
        return self.second(self.first(x))


def test_only_parameters_without_a_law_are_measured(monkeypatch) -> None:
    found = read(Unfollowed)
    assert found["first.weight"].law.distribution == "uniform"
    assert found["first.weight"].drawn
    # A sum of 12 products of standard normals; 144 such sums.
    assert found["second.weight"].law.second_moment == pytest.approx(12, rel=0.6)
    assert "aten.mm" in found["second.weight"].reason
    monkeypatch.setattr(subject_module, "MOST_BUILT", 10)
    found = read(Unfollowed)
    assert found["second.weight"].law is None
    assert found["second.weight"].tensor.is_meta
    prediction = predict_silently(Unfollowed, torch.randn(4, 16), loss=False)
    unknown = prediction.find(vp.Site(module="second", output="weight", signal="weight"))
    assert (unknown.status, "aten.mm" in unknown.reason) == ("unknown", True)
    assert prediction.find(vp.Site(module="")).status in ("unknown", "tainted")


def test_parametrizations_are_built_and_never_passed_over(monkeypatch) -> None:
    class Doubled(nn.Module):
        def forward(self, weight):
            return 2 * weight

    def build():
        layer = nn.Linear(16, 12)
        nn.utils.parametrize.register_parametrization(layer, "weight", Doubled())
        return layer

    x = torch.randn(4, 16)
    output = predict_silently(build, x).find(vp.Site(module=""))
    assert output.status in ("exact", "approximate")
    monkeypatch.setattr(subject_module, "MOST_BUILT", 10)
    output = predict_silently(build, x).find(vp.Site(module=""))
    assert output.status in ("unknown", "tainted")


def test_a_model_that_needs_numbers_to_run_is_built_and_keeps_its_laws(monkeypatch) -> None:
    x = torch.randn(8, 16)
    prediction = vp.predict(lambda: Decided(16, 12), x)
    weight = prediction.find(vp.Site(module="", output="weight", signal="weight"))
    assert weight.second_moment == pytest.approx(1 / 48)
    output = prediction.find(vp.Site(module=""))
    expected = 4 * (16 / 48 * float(x.square().mean()) + 1 / 48)
    assert output.second_moment == pytest.approx(expected)
    monkeypatch.setattr(subject_module, "MOST_BUILT", 10)
    with pytest.raises(vp.errors.UnsupportedModelError, match=r"Decided\.forward .*looks at"):
        vp.predict(lambda: Decided(16, 12), x)


def test_tensors_that_hide_from_the_modules_are_found_by_building(monkeypatch) -> None:
    class Table:
        def __init__(self):
            self.values = torch.arange(12.0)

    class Hiding(nn.Linear):
        def __init__(self):
            super().__init__(16, 12)
            self.table = Table()

        def forward(self, x):
            return super().forward(x) * self.table.values

    x = torch.randn(8, 16)
    real = vp.predict(Hiding(), x, init="kaiming_normal").find(vp.Site(module=""))
    built = vp.predict(Hiding, x, init="kaiming_normal").find(vp.Site(module=""))
    assert built.second_moment == pytest.approx(real.second_moment)
    monkeypatch.setattr(subject_module, "MOST_BUILT", 10)
    with pytest.raises(vp.errors.UnsupportedModelError, match="not in its modules"):
        vp.predict(Hiding, x)


def test_a_prediction_from_a_builder_is_that_of_its_average_draw() -> None:
    x = torch.randn(32, 64)

    def build():
        return nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 64))

    captured, named = (vp.predict(build, x, init=init) for init in (None, "default"))
    for row, twin in zip(captured, named, strict=True):
        assert row.second_moment == pytest.approx(twin.second_moment, rel=1e-9)
        assert row.log_std == pytest.approx(twin.log_std, rel=1e-9)
    logs = [math.log(float(build()(x).detach().square().mean())) for _ in range(30)]
    output = captured.find(vp.Site(module=""))
    mean = sum(logs) / 30
    # ln of a draw scatters by log_std about ln(second moment) - log_std² / 2.
    expected = math.log(output.second_moment) - output.log_std**2 / 2
    assert abs(mean - expected) < 4 * output.log_std / math.sqrt(30) + 0.02


def test_a_model_that_cannot_be_copied_is_looked_up_module_by_module() -> None:
    model = nn.Sequential(nn.Linear(16, 12), nn.LayerNorm(12))
    model.lock = threading.Lock()
    found = read(model, "kaiming_normal")
    assert found["0.weight"].law.variance == pytest.approx(2 / 16)
    assert found["1.weight"].law == WeightLaw.constant(1.0)
    assert "cannot pickle" in found["0.weight"].reason
    empty = nn.Sequential(nn.Linear(16, 12, device="meta"))
    empty.lock = threading.Lock()
    assert read(empty)["0.weight"].law.variance == pytest.approx(1 / 48)


@pytest.mark.parametrize("model", [Scaled, nn.Linear(3, 4)])
def test_an_initialization_that_does_not_exist_is_no_reason_to_build(model) -> None:
    with pytest.raises(vp.errors.UnknownNameError, match="kaiming_normal"):
        take(model, "kaiming_norml")
