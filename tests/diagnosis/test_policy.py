from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

import varprobe as vp
from varprobe.diagnosis import RULES


def stack(depth: int = 30, gain: float = 1.0) -> nn.Sequential:
    """Return a ReLU net: Xavier's, whose gradients and activations vanish, or with its own gain."""
    layers: list[nn.Module] = []
    for _ in range(depth):
        linear = nn.Linear(64, 64, bias=False)
        nn.init.normal_(linear.weight, std=gain / 8)
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers)


def levels(policy: vp.Policy, model: nn.Module) -> dict[str, str]:
    diagnosis = vp.check(model, torch.randn(16, 64), policy=policy)
    return {finding.code: finding.level for finding in diagnosis.all_findings}


def departing() -> nn.Module:
    """Return a layer whose output something else scales: a warning (VP303)."""
    model = nn.Linear(64, 64)
    model.register_forward_hook(lambda _module, _inputs, output: 3.0 * output)
    return model


def test_presets_change_what_the_findings_weigh() -> None:
    assert levels(vp.Policy(), departing()) == {"VP303": "warning"}
    assert levels(vp.Policy(preset="strict"), departing()) == {"VP303": "error"}
    codes = ("VP301", "VP101", "VP201")
    assert levels(vp.Policy(), stack()) == dict.fromkeys(codes, "error")
    assert levels(vp.Policy(preset="lenient"), stack()) == dict.fromkeys(codes, "warning")


def test_lenient_keeps_what_nothing_trains() -> None:
    model = nn.Linear(64, 64)
    nn.init.constant_(model.weight, 0.1)
    assert levels(vp.Policy(preset="lenient", select=["VP302"]), model) == {"VP302": "error"}
    assert not vp.check(nn.ReLU(), torch.randn(4, 8), policy=vp.Policy(preset="lenient")).healthy


def test_the_longest_beginning_sets_the_level_and_wins_over_the_preset() -> None:
    policy = vp.Policy(preset="strict", levels={"vp2": "warning", "VP201": "info", "VP3": "info"})
    assert levels(policy, stack()) == {"VP101": "error", "VP201": "info", "VP301": "info"}


def test_findings_stay_in_the_order_of_their_levels() -> None:
    found = levels(vp.Policy(levels={"VP101": "info"}), stack())
    assert list(found) == ["VP301", "VP201", "VP101"]


def test_a_cause_weighs_as_much_as_the_worst_of_what_follows_from_it() -> None:
    found = levels(vp.Policy(levels={"VP301": "warning", "VP101": "info"}), stack())
    assert found == {"VP301": "error", "VP201": "error", "VP101": "info"}


def test_a_recognised_design_is_no_error_at_any_level(monkeypatch: pytest.MonkeyPatch) -> None:
    def find_design(analysis, run):
        found = rule.report("0", "by design", run=run, measured=0, expected=0, threshold=0)
        yield replace(found, level="info")

    rule = replace(RULES["VP302"], find=find_design)
    monkeypatch.setattr(RULES, "_entries", {**RULES, "VP302": rule})
    found = levels(vp.Policy(preset="strict", levels={"VP302": "error"}), nn.Linear(64, 64))
    assert found == {"VP302": "info"}


def dead() -> nn.Sequential:
    """Return two rectifiers that are off for every sample."""
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU())
    for index in (0, 2):
        nn.init.constant_(model[index].bias, -9.0)
    return model


def test_a_layer_is_spared_and_the_finding_moves_to_the_next() -> None:
    inputs = torch.randn(16, 64)
    (found,) = vp.check(dead(), inputs, select=["VP103"]).findings
    assert (found.module, "1 more" in found.message) == ("1", True)
    policy = vp.Policy(select=["VP103"], per_layer_ignores={"1": ["VP103"]})
    diagnosis = vp.check(dead(), inputs, policy=policy)
    assert [(f.module, "more" in f.message) for f in diagnosis.findings] == [("3", False)]
    assert dict(diagnosis.ignored) == {"VP103": 1}


def test_sparing_every_layer_ignores_the_code() -> None:
    policy = vp.Policy(select=["VP103"], per_layer_ignores={"[1-3]": ["VP1"]})
    diagnosis = vp.check(dead(), torch.randn(16, 64), policy=policy)
    assert diagnosis.healthy
    assert dict(diagnosis.ignored) == {"VP103": 1}


def test_a_pattern_spares_only_its_codes() -> None:
    policy = vp.Policy(select=["VP103"], per_layer_ignores={"*": ["VP2"]})
    assert not vp.check(dead(), torch.randn(16, 64), policy=policy).healthy


def test_arguments_replace_what_the_policy_says() -> None:
    policy, model, inputs = vp.Policy(ignore=["VP1"]), stack(), torch.randn(16, 64)
    assert dict(vp.check(model, inputs, policy=policy).ignored) == {"VP101": 1}
    assert dict(vp.check(model, inputs, policy=policy, ignore=["VP2"]).ignored) == {"VP201": 1}
    assert dict(vp.check(model, inputs, policy=policy, ignore=()).ignored) == {}


def test_codes_that_can_be_read_once_are_not_lost() -> None:
    policy = vp.Policy(select=(code for code in ["VP2"]), ignore=iter(["VP201"]))
    assert policy.checks == ("VP001", "VP201", "VP202", "VP203")
    assert dict(vp.check(stack(), torch.randn(16, 64), policy=policy).ignored) == {"VP201": 1}


@pytest.mark.parametrize("code", ["VP11", "VP9999", "VP", "", " ", "V", "201"])
@pytest.mark.parametrize("where", ["select", "ignore", "per_layer_ignores", "levels"])
def test_what_is_no_code_is_refused(code: str, where: str) -> None:
    value = {"per_layer_ignores": {"*": [code]}, "levels": {code: "error"}}.get(where, [code])
    with pytest.raises(vp.UnknownNameError, match="There is no check named"):
        vp.Policy(**{where: value})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"preset": "strikt"}, "no preset named 'strikt'. Did you mean 'strict'?"),
        ({"levels": {"VP1": "eror"}}, "no level named 'eror'. Did you mean 'error'?"),
        ({"select": ["VP302", "VP310"]}, "no check named 'VP310'. Did you mean"),
    ],
)
def test_an_unknown_name_has_a_suggestion(options: dict[str, object], message: str) -> None:
    with pytest.raises(vp.UnknownNameError, match=re.escape(message)):
        vp.Policy(**options)


@pytest.mark.parametrize(
    "options",
    [
        {"ignore": ["VP001"]},
        {"ignore": "VP0"},
        {"levels": {"VP001": "warning"}},
        {"levels": {"VP0": "info"}},
        {"per_layer_ignores": {"head": ["VP001"]}},
    ],
)
def test_a_gate_that_looks_at_nothing_cannot_be_opened(options: dict[str, object]) -> None:
    with pytest.raises(vp.InvalidArgumentError, match="VP001 cannot be"):
        vp.Policy(**options)


def test_a_project_has_a_policy(tmp_path: Path) -> None:
    path = tmp_path / "pyproject.toml"
    path.write_text('[tool.varprobe]\npreset = "strict"\nignore = ["VP3"]\n')
    assert vp.Policy.load(tmp_path) == vp.Policy(preset="strict", ignore=["VP3"])
    path.write_text('[tool.varprobe]\nignore = ["VP310"]\n')
    with pytest.raises(vp.SettingsError, match=r"pyproject.toml, .* no check named 'VP310'"):
        vp.Policy.load(tmp_path)
