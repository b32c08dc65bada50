from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import varprobe as vp
from varprobe.diagnosis.drift import SIGNIFICANCE


def net() -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(128, 128), nn.ReLU(), nn.LayerNorm(128), nn.Linear(128, 128), nn.Linear(128, 8)
    )


def make(seed: int) -> tuple[nn.Sequential, torch.Tensor]:
    """Return a model and inputs of this seed."""
    torch.manual_seed(seed)
    return net(), torch.randn(16, 128)


def check(model: nn.Module, inputs: torch.Tensor, baseline: vp.Baseline) -> vp.Diagnosis:
    return vp.check(model, inputs, baseline=baseline, select=["VP305"])


@pytest.fixture(scope="module")
def baseline() -> vp.Baseline:
    return vp.check(*make(0)).analysis.to_baseline()


@pytest.mark.parametrize("seed", range(4))
def test_other_draws_of_weights_and_inputs_are_no_drift(seed: int, baseline: vp.Baseline) -> None:
    assert check(*make(seed), baseline).findings == ()


def test_ten_percent_of_gain_in_one_layer_are_drift_and_it_is_named(baseline: vp.Baseline) -> None:
    model, inputs = make(1)
    with torch.no_grad():
        model[3].weight.mul_(1.1)
    (finding,) = check(model, inputs, baseline).findings
    assert (finding.module, finding.level) == ("3", "error")
    assert finding.measured / finding.expected == pytest.approx(1.21, rel=0.03)
    # Two measurements of 128² normal weights, and the floor of the theory.
    error = math.hypot(math.sqrt(4 / 128**2), 0.005)
    assert finding.threshold == pytest.approx(math.exp(SIGNIFICANCE * error))
    assert "the second moment of its weight 'weight' was 0.002" in finding.message


def test_weights_that_are_not_drawn_have_no_scatter(baseline: vp.Baseline) -> None:
    model, inputs = make(0)
    nn.init.constant_(model[2].weight, 1.02)
    (finding,) = check(model, inputs, baseline).findings
    assert finding.module == "2"
    assert "was 1 and is 1.04 (×1.04); chance allows a factor of 1.03" in finding.message


def test_zeros_are_like_zeros_only(baseline: vp.Baseline) -> None:
    model, inputs = make(0)
    nn.init.constant_(model[2].bias, 1e-6)
    (finding,) = check(model, inputs, baseline).findings
    assert (finding.module, finding.expected) == ("2", 0.0)
    assert "(×inf)" in finding.message


def test_what_is_no_number_is_drift_from_a_number() -> None:
    model, inputs = make(0)
    nn.init.constant_(model[4].bias, torch.nan)
    broken = vp.check(model, inputs).analysis.to_baseline()
    assert check(model, inputs, broken).findings == ()
    (finding,) = check(*make(0), broken).findings
    assert finding.module == "4"


def test_without_a_weight_to_blame_the_first_activation_is_named(baseline: vp.Baseline) -> None:
    model, inputs = make(0)
    model[1].forward = lambda x: x  # type: ignore[method-assign]
    (finding,) = check(model, inputs, baseline).findings
    assert (finding.module, "its activation was" in finding.message) == ("1", True)


def test_a_drift_of_gradients_alone_is_named_where_it_begins(baseline: vp.Baseline) -> None:
    model, inputs = make(0)
    model[3].register_full_backward_hook(lambda m, before, after: (before[0] * 3,))
    (finding,) = check(model, inputs, baseline).findings
    assert (finding.module, "its gradient was" in finding.message) == ("2", True)


def test_more_draws_see_smaller_drifts() -> None:
    inputs = make(0)[1]
    before = vp.check(net, inputs, draws=4).analysis.to_baseline()
    after = vp.check(net, inputs, draws=4, seed=1, baseline=before, init=None)
    assert after.healthy
    wider = lambda: nn.Sequential(*net()[:4], nn.Linear(128, 8))  # noqa: E731
    assert check(wider(), inputs, before).findings == ()


def test_what_has_no_error_bar_is_said(baseline: vp.Baseline) -> None:
    model, inputs = make(1)
    bare = vp.analyze(vp.profile(model, inputs), baseline=baseline)
    (finding,) = vp.diagnose(bare, select=["VP305"]).findings
    assert finding.level == "info"
    assert finding.message == (
        # Outputs of 0, 1, 3, 4 and the whole, gradients of 0 to 3: a norm keeps its output.
        "9 second moments have changed and have no error bar that says whether by chance "
        "(no prediction was made)"
    )
    same = vp.analyze(vp.profile(*make(0)), baseline=baseline)
    assert vp.diagnose(same, select=["VP305"]).findings == ()


def test_a_layer_may_drift_if_the_project_says_so(baseline: vp.Baseline) -> None:
    model, inputs = make(0)
    nn.init.constant_(model[2].weight, 1.02)
    policy = vp.Policy(select=["VP305"], per_layer_ignores={"2": ["VP305"]})
    assert vp.check(model, inputs, baseline=baseline, policy=policy).healthy


def test_a_baseline_is_compared_with_whatever_else_is_selected(baseline: vp.Baseline) -> None:
    model, inputs = make(0)
    nn.init.constant_(model[2].weight, 1.02)
    diagnosis = vp.check(model, inputs, baseline=baseline, select=["VP9"])
    assert [finding.code for finding in diagnosis.findings] == ["VP305"]


def test_without_a_baseline_nothing_drifts() -> None:
    assert vp.check(*make(0), select=["VP305"]).findings == ()
