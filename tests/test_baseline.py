from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

import varprobe as vp
from varprobe.baseline import name_site, refuse_in_ci

X = torch.randn(16, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def desk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sit at a desk, also when these tests run in CI."""
    monkeypatch.delenv("CI", raising=False)


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 10))


def measure(model: nn.Module, **options: object) -> vp.Analysis:
    return vp.analyze(vp.profile(model, X, **options))


def test_a_file_holds_what_was_measured_to_four_digits(tmp_path: Path) -> None:
    path = tmp_path / "new" / "net.json"
    analysis = measure(net())
    analysis.to_baseline().save(path)
    document = json.loads(path.read_text())
    assert list(document) == [
        "format", "version", "model", "parameters", "init", "loss", "draws", "input",
        "activation", "gradient", "weight",
    ]  # fmt: skip
    assert list(document["weight"]) == ["0.weight", "0.bias", "2.weight", "2.bias"]
    assert list(document["gradient"]) == list(document["activation"]) == ["0", "1", "2", "(root)"]
    first = analysis.select(signal="activation")[0]
    assert document["activation"]["0"] == float(f"{first.second_moment:.4g}")
    assert document["input"] == float(f"{X.double().square().mean():.4g}")
    # A number a line, so that a diff shows what moved.
    assert f'    "0": {document["activation"]["0"]},\n' in path.read_text()


def test_reading_gives_back_what_was_written(tmp_path: Path) -> None:
    path, again = tmp_path / "net.json", tmp_path / "again.json"
    model = net()
    nn.init.zeros_(model[2].weight)
    model[2].bias.data[0] = torch.inf
    measure(model).to_baseline().save(path)
    baseline = vp.Baseline.load(path)
    baseline.save(again)
    assert again.read_bytes() == path.read_bytes()
    assert baseline.path == str(path)
    assert vp.Baseline.load(again) == baseline
    assert baseline.find(vp.Site(module="2", output="weight", signal="weight")) == 0.0
    assert baseline.find(vp.Site(module="9")) is None
    assert baseline.find(vp.Site(module="9", output="weight", signal="weight_gradient")) is None


def test_sites_of_one_signal_have_names_of_their_own() -> None:
    sites = [
        vp.Site(module=module, call=call, output=output)
        for module in ("", "a", "a.0")
        for call in (0, 1)
        for output in ("", "0", "0.0")
    ]
    assert len({name_site(site) for site in sites}) == len(sites)
    assert name_site(vp.Site(module="a", call=1, output="h")) == "a@1[h]"
    assert name_site(vp.Site(module="", output="scale", signal="weight")) == "scale"


def test_several_runs_have_no_one_baseline() -> None:
    one, two = (vp.profile(net(), X, init=name) for name in ("default", "kaiming_normal"))
    with pytest.raises(vp.BaselineError, match="runs default, kaiming_normal, and a baseline is"):
        vp.analyze(one.merge(two)).to_baseline()


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (lambda: nn.Linear(32, 10), "of another model: model was 'Sequential' and is 'Linear'"),
        (
            lambda: nn.Sequential(nn.Linear(32, 8), nn.ReLU(), nn.Linear(8, 10)),
            "of another model: parameters was 2762 and is 354",
        ),
        (
            lambda: nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Dropout(), nn.Linear(64, 10)),
            "of another model: of its activations '3' is new",
        ),
        (
            lambda: nn.Sequential(nn.Linear(32, 64), nn.Linear(64, 10)),
            "of its activations '2' is gone",
        ),
    ],
)
def test_a_baseline_of_another_model_is_refused(other, message: str) -> None:
    baseline = replace(measure(net()).to_baseline(), path="net.json")
    with pytest.raises(vp.BaselineError, match=re.escape(message)) as caught:
        vp.analyze(vp.profile(other(), X), baseline=baseline)
    assert str(caught.value).startswith("The baseline net.json is of another model: ")
    assert "write it again with varprobe baseline TARGET" in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"init": "default"}, "of another experiment: init was None and is 'default'"),
        ({"loss": lambda y: y.sum()}, "loss was 'random cotangent' and is 'user'"),
    ],
)
def test_a_baseline_of_another_experiment_is_refused(options, message: str) -> None:
    baseline, recording = measure(net()).to_baseline(), vp.profile(net(), X, **options)
    with pytest.raises(vp.BaselineError, match=re.escape(message)):
        vp.analyze(recording, baseline=baseline)


@pytest.mark.parametrize(("scale", "comparable"), [(0.5, False), (0.9, True), (2.0, False)])
def test_a_baseline_on_inputs_of_another_scale_is_refused(scale: float, comparable: bool) -> None:
    model = net()
    baseline, recording = measure(model).to_baseline(), vp.profile(model, X * scale)
    if comparable:
        vp.analyze(recording, baseline=baseline)
        return
    with pytest.raises(vp.BaselineError, match=r"the input's second moment was 1.* and is "):
        vp.analyze(recording, baseline=baseline)


def damage(**fields: object) -> str:
    whole = {
        "format": "varprobe baseline", "version": 1, "model": "Net", "parameters": 3, "init": None,
        "loss": "none", "draws": 1, "input": 1.0, "activation": {"a": 1.0}, "gradient": {},
        "weight": {"a.weight": "inf"},
    }  # fmt: skip
    return json.dumps({**whole, **fields})


def test_the_pattern_of_the_damages_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text(damage())
    assert vp.Baseline.load(path).model == "Net"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is no baseline: "),
        ("[]", 'it has no "format": "varprobe baseline"'),
        ('{"format": "varprobe recording"}', 'it has no "format": "varprobe baseline"'),
        (damage(version=2), "has version 2, expected 1"),
        (damage(modell="x"), "no field of a baseline named 'modell'. Did you mean 'model'?"),
        (damage(draws=0), "is damaged: draws is 0"),
        (damage(parameters=True), "parameters is True"),
        (damage(input="1"), "input is '1'"),
        (damage(activation={"a": None}), "activation is {'a': None}"),
        (damage(gradient=[1.0]), "gradient is [1.0]"),
        (damage(weight={"a": -1.0}), "weight is {'a': -1.0}"),
        (damage().replace('"loss": "none", ', ""), "loss is missing"),
        ("\x80", "is no baseline: "),
    ],
)
def test_what_is_no_baseline_is_refused(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(vp.BaselineError, match=re.escape(message)) as caught:
        vp.Baseline.load(path)
    assert str(path) in str(caught.value)


def test_a_missing_file_says_how_it_comes_about(tmp_path: Path) -> None:
    with pytest.raises(
        vp.BaselineError, match=r"There is no baseline .*none\.json\. Write it with"
    ):
        vp.Baseline.load(tmp_path / "none.json")


@pytest.mark.parametrize(
    ("value", "refused"),
    [("true", True), ("1", True), ("jenkins", True), ("", False), ("0", False), ("False", False)],
)
def test_nothing_is_written_in_ci(
    value: str, refused: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CI", value)
    path = tmp_path / "net.json"
    if not refused:
        refuse_in_ci()
        return
    with pytest.raises(vp.BaselineError, match=f"CI={value} is set"):
        measure(net()).to_baseline().save(path)
    assert not path.exists()
