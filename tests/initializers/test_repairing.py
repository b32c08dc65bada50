"""What a repair changes, that it heals, and what it refuses."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

import varprobe as vp
from tests.diagnosis.cases import conv_net, draw_weights, encoder, he, mlp, resnet8

Damage = Callable[[nn.Module], object]

MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], str]] = {
    "mlp": (lambda: draw_weights(mlp(12, nn.ReLU, width=64), he), (32, 64), "8"),
    "cnn": (lambda: draw_weights(conv_net(8, channels=16), he), (4, 3, 12, 12), "6"),
    "resnet": (lambda: resnet8(zero_init=False), (4, 3, 12, 12), "4.conv2"),
    "transformer": (lambda: encoder(width=32), (4, 8, 32), "layers.2.linear1"),
}


def fill(value: float) -> Damage:
    return lambda layer: nn.init.constant_(layer.weight, value)


def scale(factor: float) -> Damage:
    return lambda layer: layer.weight.mul_(factor)


def spoil(layer: nn.Module) -> None:
    layer.weight.view(-1)[3] = math.nan


def deaden(layer: nn.Module) -> None:
    nn.init.constant_(layer.bias, -100.0)


FAULTS: dict[str, tuple[str, Damage, tuple[str, ...]]] = {
    "tiny": ("VP301", scale(1e-3), ("mlp", "cnn", "transformer")),
    "huge": ("VP301", scale(1e3), ("mlp", "cnn", "transformer")),
    "constant": ("VP302", fill(0.1), tuple(MODELS)),
    "nan": ("VP901", spoil, tuple(MODELS)),
    "bias": ("VP103", deaden, ("mlp",)),
}

CASES = [(model, fault) for fault, (_, _, models) in FAULTS.items() for model in models]


def make(name: str, fault: str | None = None) -> tuple[nn.Module, torch.Tensor, str]:
    """Return a model with one bad layer, its inputs, and the layer's name."""
    build, shape, layer = MODELS[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model, inputs = build(), torch.randn(shape)
    if fault is not None:
        with torch.no_grad():
            FAULTS[fault][1](model.get_submodule(layer))
    return model, inputs, layer


def list_faults(diagnosis: vp.Diagnosis) -> list[vp.Finding]:
    return [finding for finding in diagnosis.findings if finding.level != "info"]


def find_changed(model: nn.Module, state: dict[str, torch.Tensor]) -> set[str]:
    return {k for k, v in model.state_dict().items() if not torch.equal(v, state[k])}


@pytest.mark.parametrize(("name", "fault"), CASES)
def test_one_bad_layer_is_named_repaired_and_healthy_again(name: str, fault: str) -> None:
    model, inputs, layer = make(name, fault)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    diagnosis = vp.check(model, inputs)
    (cause,) = list_faults(diagnosis)
    parameter = "bias" if fault == "bias" else "weight"
    assert cause.code == FAULTS[fault][0]
    assert [fix.parameter for fix in cause.fixes] == [f"{layer}.{parameter}"]
    random_state = torch.get_rng_state()
    done = vp.repair(model, diagnosis.findings)
    assert torch.equal(random_state, torch.get_rng_state())
    assert [change.parameter for change in done.changes] == [f"{layer}.{parameter}"]
    assert find_changed(model, state) == {f"{layer}.{parameter}"}
    assert list_faults(vp.check(model, inputs)) == []


@pytest.mark.parametrize("name", MODELS)
def test_before_the_damage_all_was_well(name: str) -> None:
    model, inputs, _ = make(name)
    diagnosis = vp.check(model, inputs)
    assert list_faults(diagnosis) == []
    assert vp.repair(model, diagnosis.findings).changes == ()


def test_a_repaired_layer_has_the_scale_of_its_peers() -> None:
    model, inputs, _ = make("transformer", "constant")
    vp.repair(model, vp.check(model, inputs).findings)
    second_moments = [
        block.linear1.weight.detach().double().square().mean() for block in model.layers
    ]
    # 4096 weights: the second moment of uniform ones scatters by 1.4 %, of normal ones by 2.2 %.
    assert second_moments[2] / second_moments[1] == pytest.approx(1.0, abs=5 * 0.026)


def test_the_seed_makes_the_numbers_and_each_parameter_has_its_own() -> None:
    def draw(*layers: int, seed: int = 0) -> list[torch.Tensor]:
        model, _, _ = make("mlp")
        fixes = tuple(
            vp.Fix(parameter=f"{layer}.weight", init="kaiming_normal") for layer in layers
        )
        vp.repair(model, [dataclasses.replace(ANY, fixes=fixes)], seed=seed)
        return [model[layer].weight.detach() for layer in layers]

    first, second = draw(2, 4)
    assert torch.equal(draw(4)[0], second)
    assert not torch.equal(draw(4, seed=1)[0], second)
    # 64 × 64 independent pairs: their correlation scatters by 1/64.
    assert abs(torch.corrcoef(torch.stack([first.flatten(), second.flatten()]))[0, 1]) < 5 / 64


ANY = vp.Finding(
    code="VP301",
    name="",
    level="error",
    module="8",
    measured=1.0,
    expected=1.0,
    threshold=1.0,
    message="it is off",
    remedy="Set it right.",
)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(32, 4)
        self.embedding = nn.Embedding(50, 8, padding_idx=0)
        self.norm = nn.BatchNorm1d(8)
        self.scale = nn.Parameter(torch.ones(3))


@pytest.mark.parametrize(
    ("parameter", "init", "second_moment"),
    [
        ("attention.in_proj_weight", "normal(std=0.5)", 0.25),
        ("attention.in_proj_weight", "kaiming_normal", 2 / 32),
        ("attention.in_proj_weight", "default", 2 / (32 + 96)),  # Glorot's, as its parent has it
        ("embedding.weight", "default", 1.0 * 49 / 50),
        ("norm.weight", "default", 1.0),
        ("norm.bias", "constant(value=0.0)", 0.0),
    ],
)
def test_what_is_no_weight_of_a_layer_is_drawn_as_well(
    parameter: str, init: str, second_moment: float
) -> None:
    model = Attention()
    fixes = (vp.Fix(parameter=parameter, init=init),)
    (change,) = vp.repair(model, [dataclasses.replace(ANY, fixes=fixes)]).changes
    # At least 400 numbers: second moments of normal ones scatter by 7 %.
    assert change.after == pytest.approx(second_moment, rel=5 * 0.07)
    assert change.after == model.get_parameter(parameter).double().square().mean()
    assert not model.embedding.weight[0].any()


@pytest.mark.parametrize(
    ("finding", "error", "message"),
    [
        (ANY, vp.UnsupportedModelError, "VP301 at 8 is not cured .*Set it right.*if f.fixes"),
        (("nope.weight", "default"), vp.UnknownNameError, "no parameter named 'nope.weight'"),
        (("scale", "default"), vp.UnsupportedModelError, "scale of a Attention has no law"),
        (("norm.weight", "xavier"), vp.UnknownNameError, "no initialization named 'xavier'"),
    ],
)
def test_what_cannot_be_repaired_is_refused_before_anything_changes(
    finding: vp.Finding | tuple[str, str], error: type[Exception], message: str
) -> None:
    model = Attention()
    state = {key: value.clone() for key, value in model.state_dict().items()}
    if isinstance(finding, tuple):
        fixes = (vp.Fix(parameter=finding[0], init=finding[1]),)
        finding = dataclasses.replace(ANY, fixes=fixes)
    good = (vp.Fix(parameter="attention.out_proj.weight", init="default"),)
    with pytest.raises(error, match=message):
        vp.repair(model, [dataclasses.replace(ANY, fixes=good), finding])
    assert find_changed(model, state) == set()


def test_a_hook_that_undoes_a_repair_is_refused() -> None:
    model = nn.Sequential(nn.Linear(4, 4))
    prune.random_unstructured(model[0], "weight", 0.5)
    fixes = (vp.Fix(parameter="0.bias", init="constant(value=0.0)"),)
    with pytest.raises(vp.UnsupportedModelError, match="would not last"):
        vp.repair(model, [dataclasses.replace(ANY, fixes=fixes)])


def test_a_design_is_left_as_it_is() -> None:
    model, _, _ = make("mlp")
    assert vp.repair(model, [dataclasses.replace(ANY, level="info")]).changes == ()


def test_a_diagnosis_is_no_list_of_findings() -> None:
    model, inputs, _ = make("mlp")
    with pytest.raises(vp.InvalidArgumentError, match=r"got Diagnosis\. Pass diagnosis\.findings"):
        vp.repair(model, vp.check(model, inputs))


def test_a_repair_tells_what_it_did() -> None:
    model, _, _ = make("mlp")
    fixes = (vp.Fix(parameter="8.weight", init="normal(std=0.0)"),)
    done = vp.repair(model, [dataclasses.replace(ANY, fixes=fixes)])
    assert str(done).startswith("8.weight (VP301): drawn from a normal law, second moment 0.03")
    assert str(done).endswith("-> 0")
    assert str(vp.repair(model, [])) == "nothing to repair"
