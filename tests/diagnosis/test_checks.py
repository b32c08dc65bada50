"""Each check by itself: what it must flag, and the near twin that it must not."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import varprobe as vp
from tests.diagnosis.cases import draw_weights, he, mlp, normal


def find(model: nn.Module, code: str, inputs: torch.Tensor | None = None) -> list[vp.Finding]:
    rows = torch.randn(32, 128, generator=torch.Generator().manual_seed(0))
    diagnosis = vp.check(model, rows if inputs is None else inputs, select=[code])
    return [finding for finding in diagnosis.findings if finding.code == code]


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


class Counts(nn.Module):
    def forward(self, x: torch.Tensor) -> int:
        return len(x)


@pytest.mark.parametrize("model", [nn.ReLU(), nn.Sequential(nn.Flatten(), nn.Tanh()), Counts()])
def test_a_model_without_parameters_is_never_a_pass(model: nn.Module) -> None:
    diagnosis = vp.check(model, torch.randn(4, 8))
    assert not diagnosis.healthy
    assert [finding.code for finding in diagnosis.findings] == ["VP001"]


def test_vp001_runs_even_if_another_check_is_selected() -> None:
    assert not vp.check(nn.ReLU(), torch.randn(4, 8), select=["VP901"]).healthy


def test_one_layer_is_enough_to_judge() -> None:
    assert vp.check(nn.Linear(8, 8), torch.randn(4, 8)).healthy


@pytest.mark.parametrize(("bias", "dead"), [(-3.0, True), (-0.5, False), (3.0, False)])
def test_dead_units(bias: float, dead: bool) -> None:
    findings = find(draw_weights(mlp(3, nn.ReLU), he, bias=bias), "VP103")
    assert bool(findings) == dead


def test_dead_units_are_named_and_counted() -> None:
    (finding,) = find(draw_weights(mlp(3, nn.ReLU), he, bias=-3.0), "VP103")
    assert finding.module == "1"
    # P(z > 3) for z ~ N(0, 2), the first layer's outputs under He on unit inputs; 4096 outputs.
    alive = 0.5 * math.erfc(3 / 2)
    assert 1 - finding.measured == pytest.approx(alive, abs=5 * math.sqrt(alive / 4096))
    assert "and so are 2 more rectifiers" in finding.message


def test_dropped_elements_are_not_dead_units() -> None:
    model = nn.Sequential(nn.Linear(128, 128), nn.ReLU(), nn.Dropout(0.95))
    assert find(model, "VP103") == []


def test_few_units_may_be_off_by_chance() -> None:
    # One unit is off for a whole batch with probability 1/2.
    model = nn.Sequential(nn.Linear(128, 1), nn.ReLU())
    with torch.no_grad():
        model[0].bias.fill_(-100.0)
    assert find(model, "VP103") == []


@pytest.mark.parametrize("signal", ["weight", "bias"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_nonfinite_weights_are_traced_to_their_layer(signal: str, value: float) -> None:
    model = mlp(4, nn.Tanh)
    with torch.no_grad():
        getattr(model[4], signal).view(-1)[0] = value
    (finding,) = find(model, "VP901")
    assert finding.module == "4"
    assert f"its weight '{signal}' are not finite" in finding.message
    assert finding.measured == 1


class Divides(nn.Module):
    def __init__(self, by: float) -> None:
        super().__init__()
        self.linear = nn.Linear(128, 128)
        self.by = by
        self.inner = nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(self.linear(x) / self.by)


@pytest.mark.parametrize(("by", "count"), [(0.0, 1), (1e-6, 0)])
def test_a_division_by_zero_is_found_where_it_first_shows(by: float, count: int) -> None:
    findings = find(Divides(by), "VP901")
    assert [finding.module for finding in findings] == ["inner"] * count


@pytest.mark.parametrize(
    ("value", "flagged"), [(0.01, True), (0.0, True), (-2.0, True), (None, False)]
)
def test_constant_weights(value: float | None, flagged: bool) -> None:
    model = mlp(3, nn.ReLU)
    if value is not None:
        draw_weights(model, lambda weight: nn.init.constant_(weight, value))
    assert bool(find(model, "VP302")) == flagged


def test_a_zero_layer_among_others_is_a_design() -> None:
    model = mlp(3, nn.ReLU)
    with torch.no_grad():
        model[-1].weight.zero_()
    assert find(model, "VP302") == []


def test_a_constant_layer_among_others_is_a_fault() -> None:
    model = mlp(3, nn.ReLU)
    with torch.no_grad():
        model[2].weight.fill_(0.1)
    (finding,) = find(model, "VP302")
    assert finding.module == "2"
    assert "all 16384 elements of its weight are 0.1" in finding.message


def test_a_misfit_is_named_with_its_law_and_cure() -> None:
    (finding,) = find(draw_weights(mlp(30, nn.ReLU), normal(0.01)), "VP301")
    assert finding.level == "warning"  # without the harm that `find` leaves out
    assert finding.module == "0"
    # fan_in · std² = 128 · 1e-4; 16,384 weights scatter by sqrt(2 / 16384).
    assert finding.measured == pytest.approx(0.0128, rel=4 * math.sqrt(2 / 16384))
    assert finding.expected == pytest.approx(2.0)
    assert finding.remedy == 'vp.initialize(model, "kaiming_normal", nonlinearity="relu")'


def test_a_misfit_without_harm_is_nobodys_business() -> None:
    assert find(draw_weights(mlp(2, nn.ReLU), normal(0.01)), "VP301") == []


@pytest.mark.parametrize("activation", [nn.ReLU, nn.LeakyReLU, nn.SELU, nn.Tanh, nn.GELU, nn.SiLU])
def test_the_remedy_of_a_misfit_cures_it(activation: type[nn.Module]) -> None:
    model = draw_weights(mlp(30, activation), normal(0.01))
    (finding,) = find(model, "VP301")
    exec(finding.remedy, {"vp": vp, "model": model})
    assert find(model, "VP301") == []


def test_ignored_findings_are_counted_not_hidden() -> None:
    model, inputs = draw_weights(mlp(30, nn.ReLU), normal(0.01)), torch.randn(32, 128)
    diagnosis = vp.check(model, inputs, ignore=["VP1", "VP2"])
    assert diagnosis.healthy
    assert dict(diagnosis.ignored) == {"VP101": 1, "VP201": 1}
    assert str(diagnosis).splitlines()[-1] == "ignored: VP101 (1), VP201 (1)"


def test_an_unknown_code_is_an_error_that_suggests() -> None:
    with pytest.raises(vp.UnknownNameError, match="no check named 'VP11'"):
        vp.check(nn.Linear(8, 8), torch.randn(4, 8), ignore=["VP11"])


def test_raising_carries_every_finding() -> None:
    model = draw_weights(mlp(30, nn.ReLU), normal(0.01))
    with pytest.raises(vp.PropagationError, match=r"UNHEALTHY(.|\n)*fix: (.|\n)*VP101(.|\n)*VP201"):
        vp.assert_healthy(model, torch.randn(32, 128))


def test_a_healthy_verdict_says_what_was_looked_at() -> None:
    diagnosis = vp.check(nn.Linear(8, 8), torch.randn(4, 8), init="default", draws=3)
    assert str(diagnosis) == "Linear is healthy: 1 layer, 3 draws checked."
    diagnosis.raise_for_findings()


def test_a_check_of_ones_own() -> None:
    from varprobe.diagnosis import RULES

    known = dict(RULES)
    try:

        @vp.check_rule(
            "VP451", name="biased", what="A bias.", why="House rule.", remedy="bias=False"
        )
        def find_bias(analysis: vp.Analysis, run: str):
            for site in analysis.select(signal="weight", run=run):
                if site.site.output == "bias":
                    yield RULES["VP451"].report(
                        site.site.module, "biased", run=run, measured=1, expected=0, threshold=0
                    )

        assert [f.code for f in find(nn.Linear(128, 8), "VP451")] == ["VP451"]
        assert find(nn.Linear(128, 8, bias=False), "VP451") == []
        with pytest.raises(vp.DuplicateNameError, match="VP451"):
            vp.check_rule("VP451", name="", what="", why="", remedy="")(find_bias)
        with pytest.raises(vp.InvalidArgumentError, match="is no code"):
            vp.check_rule("X1", name="", what="", why="", remedy="")
        with pytest.raises(vp.UnknownNameError, match="no level named 'fatal'"):
            vp.check_rule("VP452", name="", what="", why="", remedy="", level="fatal")
    finally:
        RULES._entries.clear()
        RULES._entries.update(known)
