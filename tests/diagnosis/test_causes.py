"""What is a cause, what follows from it, and what stays apart."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import varprobe as vp
from tests.diagnosis.cases import ROWS, draw_weights, he, mlp, residual_mlp
from varprobe.analysis import Analysis, analyze
from varprobe.diagnosis import RULES
from varprobe.diagnosis.causes import EFFECTS, attribute
from varprobe.moments import Moments
from varprobe.recording import Record, Recording, Site

LAYERS = ("a", "b", "c", "d", "e")


def analysis(*runs: str) -> Analysis:
    """Return five layers in a row, whose numbers do not matter."""
    moments = Moments(numel=1, mean=0.0, m2=1.0, abs_max=1.0)
    records = (
        Record(run=run, depth=depth, site=Site(module=name), kind="Linear", moments=moments)
        for run in runs or ("",)
        for depth, name in enumerate(LAYERS)
    )
    return analyze(Recording(records=tuple(records), meta={}))


def found(
    code: str,
    module: str,
    measured: float = math.nan,
    *,
    at: tuple[str, ...] = (),
    level: str = "error",
    run: str = "",
) -> vp.Finding:
    return vp.Finding(
        code=code,
        name="a fault",
        level=level,
        module=module,
        run=run,
        measured=measured,
        expected=1.0,
        threshold=1.0,
        message="something",
        remedy="something else",
        parameters=tuple(f"{layer}.weight" for layer in at),
    )


def tell(*findings: vp.Finding, runs: tuple[str, ...] = ()) -> list[str]:
    """Return causes with their consequences: "VP301 c: VP101 e, VP201 a"."""
    return [
        f"{cause.code} {cause.module}: "
        + ", ".join(f"{c.code} {c.module}" for c in cause.consequences)
        for cause in attribute(findings, analysis(*runs))
    ]


def test_one_bad_layer_is_one_cause_in_any_order() -> None:
    bad = found("VP301", "c", 1e-6, at=("c",), level="warning")
    after, before = found("VP101", "e", 1e-6), found("VP201", "a", 1e-6)
    for findings in ((bad, after, before), (before, after, bad), (after, bad, before)):
        assert tell(*findings) == ["VP301 c: VP101 e, VP201 a"]
    (cause,) = attribute((bad, after, before), analysis())
    assert cause.level == "error"  # it weighs as much as what it leads to


@pytest.mark.parametrize(
    "symptom",
    [
        found("VP101", "b", 1e-6),  # activations that vanish before the layer
        found("VP201", "d", 1e-6),  # gradients that vanish behind it
        found("VP102", "e", 1e6),  # the other direction
        found("VP101", "e", 1e-20),  # more than a factor of 10⁻⁶ can do
        found("VP101", "e", 1e-6, run="another"),
        found("VP203", "a"),  # no scale detaches anything
        found("VP301", "e", 1e-6, at=("e",)),  # weights are what they are drawn as
        found("VP901", "e", 1.0, at=("e",)),
        found("VP101", "e", 1e-6, level="info"),
    ],
    ids=lambda f: f"{f.code}-{f.module}-{f.measured:g}-{f.level}",
)
def test_what_a_small_weight_does_not_explain_stands_alone(symptom: vp.Finding) -> None:
    bad = found("VP301", "c", 1e-6, at=("c",))
    assert sorted(tell(bad, symptom, runs=("", "another"))) == sorted(
        ["VP301 c: ", f"{symptom.code} {symptom.module}: "]
    )


def test_two_bad_layers_share_what_follows_by_direction() -> None:
    small = found("VP301", "b", 1e-6, at=("b",))
    large = found("VP301", "d", 1e8, at=("d",))
    after = [found("VP101", "c", 1e-6), found("VP102", "e", 1e2), found("VP202", "a", 1e2)]
    # The larger departure comes first.
    assert tell(small, large, *after) == ["VP301 d: VP102 e, VP202 a", "VP301 b: VP101 c"]


def test_many_small_departures_add_up() -> None:
    bad = found("VP301", "a", 0.5, at=LAYERS)
    assert tell(bad, found("VP101", "e", 0.5**5)) == ["VP301 a: VP101 e"]
    assert len(tell(bad, found("VP101", "e", 0.5**11))) == 2  # less than half of it


def test_without_a_bad_weight_the_activations_come_first() -> None:
    # Growth of the residual stream: no layer is wrong, and both directions grow.
    assert tell(found("VP202", "a", 1e6), found("VP102", "e", 1e6)) == ["VP102 e: VP202 a"]
    # Layers of another role grow with it.
    assert tell(found("VP102", "e", 1e6), found("VP102", "d", 1e6)) == ["VP102 d: VP102 e"]
    assert tell(found("VP202", "a", 1e6), found("VP202", "b", 1e6)) == ["VP202 b: VP202 a"]


def test_what_is_not_finite_spoils_everything() -> None:
    sick = found("VP901", "c", 1.0, at=("c",))
    assert tell(found("VP102", "a", 1e6), found("VP202", "e", 1e6), sick) == [
        "VP901 c: VP102 a, VP202 e"
    ]
    # Values that overflow on the way follow from the explosion instead.
    assert tell(found("VP901", "e"), found("VP102", "d", 1e30)) == ["VP102 d: VP901 e"]


def test_one_weight_is_one_fault() -> None:
    # Constants have a scale, too, and it may be a wrong one: that is no second fault.
    constant = found("VP302", "b", at=("b", "c"))
    assert tell(found("VP301", "b", 1e3, at=("b",)), constant) == ["VP302 b: VP301 b"]
    assert tell(found("VP301", "b", 1e3, at=("b",), level="info"), constant) == ["VP302 b: VP301 b"]
    # Of two faults the misfit comes first.
    assert tell(constant, found("VP301", "d", 1e3, at=("d",))) == ["VP301 d: ", "VP302 b: "]


def test_chains_are_told_from_their_beginning() -> None:
    chain = found("VP302", "b", at=("b",)), found("VP104", "c"), found("VP201", "a", 1e-9)
    assert tell(*chain) == ["VP302 b: VP104 c, VP201 a"]


def test_causes_have_known_codes() -> None:
    assert set(EFFECTS) <= set(RULES)


@pytest.fixture
def inputs() -> torch.Tensor:
    return torch.randn(ROWS, generator=torch.Generator().manual_seed(0))


def he_net() -> nn.Sequential:
    torch.manual_seed(0)
    model = draw_weights(mlp(12, nn.ReLU), he)
    assert isinstance(model, nn.Sequential)
    return model


def test_a_stack_with_one_bad_layer_names_it(inputs: torch.Tensor) -> None:
    model = he_net()
    with torch.no_grad():
        model[8].weight.mul_(1e-3)
    diagnosis = vp.check(model, inputs)
    (cause,) = diagnosis.findings
    assert (cause.code, cause.module, cause.level) == ("VP301", "8", "error")
    assert {c.code for c in cause.consequences} == {"VP101", "VP201"}
    assert diagnosis.all_findings == (cause, *cause.consequences)
    assert str(diagnosis).count("\n    hence VP") == 2


def test_growth_without_a_bad_weight_is_still_an_error(inputs: torch.Tensor) -> None:
    torch.manual_seed(0)
    (cause,) = vp.check(residual_mlp(40, 1.0), inputs).findings
    assert (cause.code, [c.code for c in cause.consequences]) == ("VP102", ["VP202"])
    assert cause.fixes == ()  # no weight is wrong: the branches want a scale


def test_what_is_ignored_explains_nothing(inputs: torch.Tensor) -> None:
    model = he_net()
    with torch.no_grad():
        model[8].weight.mul_(1e-3)
    (cause,) = vp.check(model, inputs, ignore=["VP301"]).findings
    assert (cause.code, [c.code for c in cause.consequences]) == ("VP101", ["VP201"])
