"""Architectures that torch ships, examined as `make corpus` examines those of other libraries.

The other libraries are not among the test dependencies; `make corpus` brings them.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn

import varprobe as vp
from tests.corpus.examination import examine
from tests.corpus.subject import Subject
from tests.corpus.torch_models import MODELS
from tests.corpus.truth import observe_all


@pytest.mark.parametrize("name", MODELS)
def test_probe_sees_all_and_touches_nothing(name: str):
    result = examine(MODELS[name])
    assert not result.problems
    assert not result.failures
    assert result.modules
    assert result.records > result.modules


def build() -> Subject:
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 2))
    return Subject(model, (torch.randn(8, 4),))


def explain_problems(monkeypatch: pytest.MonkeyPatch, probe: type[vp.Probe]) -> str:
    monkeypatch.setattr(vp, "Probe", probe, raising=False)
    return "\n".join(examine(build).problems)


def test_sound_probe_has_no_problem(monkeypatch: pytest.MonkeyPatch):
    assert explain_problems(monkeypatch, vp.Probe) == ""


def test_probe_that_draws_a_number_is_noticed(monkeypatch: pytest.MonkeyPatch):
    class Gambler(vp.Probe):
        def start(self) -> None:
            torch.rand(1)
            super().start()

    found = explain_problems(monkeypatch, Gambler)
    assert "stats=moments changes loss" in found
    assert "stats=full changes loss" in found


def test_probe_that_leaves_a_hook_is_noticed(monkeypatch: pytest.MonkeyPatch):
    class Litterer(vp.Probe):
        def stop(self) -> None:
            super().stop()
            self.model[0].register_forward_hook(lambda *_: None)

    assert "changes hooks 0" in explain_problems(monkeypatch, Litterer)


def test_probe_that_moves_a_buffer_is_noticed(monkeypatch: pytest.MonkeyPatch):
    class Mover(vp.Probe):
        def stop(self) -> None:
            super().stop()
            self.model[1].running_mean.mul_(1 + 2**-20)

    assert "changes buffer 1.running_mean" in explain_problems(monkeypatch, Mover)


def test_probe_that_loses_records_is_noticed(monkeypatch: pytest.MonkeyPatch):
    class Forgetter(vp.Probe):
        @property
        def recording(self) -> vp.Recording:
            whole = super().recording
            kept = tuple(record for record in whole if record.site.module != "2")
            return vp.Recording(records=kept, meta=whole.meta, unobserved=whole.unobserved)

    found = explain_problems(monkeypatch, Forgetter)
    assert "neither recorded nor listed: 2 (activation), 2 (gradient)" in found


def test_model_that_is_not_repeatable_is_no_proof():
    counter = iter(range(1, 100))

    def drift() -> Subject:
        subject = build()
        subject.inputs[0].mul_(next(counter))
        return subject

    (problem,) = examine(drift).problems
    assert "two bare runs differ in loss" in problem


def test_model_without_a_finite_loss_is_no_proof():
    def overflow() -> Subject:
        subject = build()
        nn.init.constant_(subject.model[3].weight, torch.inf)
        return subject

    (problem,) = examine(overflow).problems
    assert "the loss is not finite" in problem


def test_truth_counts_calls_and_follows_gradients():
    layer = nn.Linear(3, 3, bias=False)
    nn.init.eye_(layer.weight)
    model = nn.Sequential(layer, layer)
    with observe_all(model) as found:
        model(torch.full((1, 3), 2.0)).sum().backward()
    assert {(str(site), site.signal): number for site, number in found.items()} == {
        ("0", "activation"): 4.0,
        ("0", "gradient"): 1.0,
        ("0@1", "activation"): 4.0,
        ("0@1", "gradient"): 1.0,
        ("(root)", "activation"): 4.0,
        ("(root)", "gradient"): 1.0,
    }
