"""What a fix is predicted to do, and that it does it."""

from __future__ import annotations

import math
import re

import pytest
import torch
from torch import nn

import varprobe as vp
from tests.diagnosis.cases import Case, draw_weights, encoder, he, make, mlp
from varprobe.diagnosis import effects
from varprobe.theory import predict_silently
from varprobe.theory.parameters import measure_law

DEPTH, BAD = 10, "8.weight"


def he_net(factor: float) -> tuple[nn.Sequential, torch.Tensor]:
    """Return a stack of which one layer is scaled, and inputs."""
    case = Case(lambda: draw_weights(mlp(DEPTH, nn.ReLU, width=128), he), (32, 128))
    model, inputs = make(case, seed=0)
    assert isinstance(model, nn.Sequential)
    with torch.no_grad():
        model.get_parameter(BAD).mul_(factor)
    return model, inputs


def measure_ends(model: nn.Module, inputs: torch.Tensor) -> tuple[float, float]:
    """Return gradient of the first over the last layer but the head, and outputs vice versa."""
    analysis = vp.analyze(vp.profile(model, inputs))
    gradients = [s.second_moment for s in analysis.select_weighted(signal="gradient")][:-1]
    outputs = [s.second_moment for s in analysis.select_weighted(signal="activation")][:-1]
    return gradients[0] / gradients[-1], outputs[-1] / outputs[0]


TOLD = re.compile(
    r"gradient at 0 from (\S+) to (\S+) ×/÷ (\S+) of that at 18; "
    r"output at 18 from (\S+) to (\S+) ×/÷ (\S+) of that at 0 \(second moments; .*\)"
)


@pytest.mark.parametrize("factor", [1e-3, 1e3])
def test_a_repair_does_what_was_predicted_of_it(factor: float) -> None:
    model, inputs = he_net(factor)
    before = measure_ends(model, inputs)
    diagnosis = vp.check(model, inputs)
    told = TOLD.fullmatch(diagnosis.findings[0].effect)
    assert told is not None, diagnosis.findings[0].effect
    numbers = [float(number) for number in told.groups()]
    assert numbers[0] == pytest.approx(before[0], rel=0.05)  # two digits
    assert numbers[3] == pytest.approx(before[1], rel=0.05)
    for seed in range(3):
        vp.repair(model, diagnosis.findings, seed=seed)
        for after, (_, mean, scatter) in zip(
            measure_ends(model, inputs), (numbers[:3], numbers[3:]), strict=True
        ):
            # The log of a log-normal's draw lies about ln(mean) - s²/2; two digits of s are known.
            spread = math.log(scatter) + 0.05
            assert abs(math.log(after / mean) + spread**2 / 2) < 4 * spread


def test_a_law_of_one_parameter_is_what_the_model_with_it_would_be_predicted() -> None:
    model, inputs = he_net(1.0)
    twin, _ = he_net(1e-3)
    laws = {BAD: measure_law(twin.get_parameter(BAD))}
    changed, expected = vp.predict(model, inputs, laws=laws), vp.predict(twin, inputs)
    for one, other in zip(changed, expected, strict=True):
        # Of a law by name, how far a sample scatters about it is known, too.
        if str(one.site) != BAD:
            assert one == other


def test_a_law_of_a_parameter_that_is_not_there_is_refused() -> None:
    with pytest.raises(vp.UnknownNameError, match="no parameter named 'wait'"):
        vp.predict(nn.Linear(4, 4), torch.randn(2, 4), laws={"wait": vp.WeightLaw.normal(1.0)})


def spoiled_encoder() -> tuple[nn.Module, torch.Tensor]:
    model, inputs = make(Case(lambda: encoder(width=16), (4, 8, 16)), seed=0)
    nn.init.constant_(model.layers[2].linear1.weight, 0.1)
    return model, inputs


def test_what_theory_does_not_reach_is_left_out_with_its_reason() -> None:
    model, inputs = spoiled_encoder()
    diagnosis = vp.diagnose(vp.analyze(vp.profile(model, inputs)))
    cause = diagnosis.findings[0]
    assert cause.effect == ""
    told = effects.add_effects(diagnosis, lambda _: predict_silently(model, inputs, draws=0))
    cause = told.findings[0]
    assert re.match(r"gradient at layers\.0\.linear1 unknown \(.+\); output at", cause.effect)
    failed = effects.add_effects(diagnosis, _refuse)
    assert failed.findings[0].effect == "nothing, for it is too hard"


def _refuse(finding: vp.Finding) -> vp.Prediction:
    raise vp.MissingRuleError("it is too hard")


def test_only_the_first_fixes_are_predicted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(effects, "MOST_PREDICTED", 1)
    model, inputs = he_net(1e-3)
    with torch.no_grad():
        model[12].weight.view(-1)[0] = math.nan
    first, second = vp.check(model, inputs).findings
    assert first.fixes
    assert second.fixes
    assert first.effect
    assert second.effect == ""


def test_a_layer_alone_has_no_ratio() -> None:
    layer = nn.Linear(8, 4)
    nn.init.constant_(layer.weight, 0.5)
    (cause,) = vp.check(layer, torch.randn(4, 8)).findings
    assert cause.effect == "nothing: a ratio takes two layers"


def test_predicting_leaves_no_trace() -> None:
    model, inputs = he_net(1e-3)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    random_state = torch.get_rng_state()
    assert vp.check(model, inputs).findings[0].effect
    assert torch.equal(random_state, torch.get_rng_state())
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
