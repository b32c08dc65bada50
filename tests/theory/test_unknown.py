"""Without draws, what no rule reaches says so: no number, no exception, no silent pass."""

import math
import warnings

import pytest
import torch
from torch import nn

import varprobe as vp
from varprobe.recording import Site
from varprobe.theory import predict_silently
from varprobe.theory.rules.registry import RULES, rule


class Cumulate(nn.Module):
    def forward(self, x):
        return torch.cumsum(x, 1)


def test_an_operation_without_a_rule_taints_what_follows():
    model = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), Cumulate(), nn.Linear(16, 4))
    prediction = predict_silently(model, torch.randn(4, 16), draws=0)
    before, at, after = (prediction.find(Site(module=m)) for m in ("1", "2", "3"))
    assert before.status == "exact"
    assert before.second_moment > 0
    assert at.status == "unknown"
    assert "aten.cumsum.default" in at.reason
    assert after.status == "tainted"
    assert "aten.cumsum.default" in after.reason
    assert math.isnan(after.second_moment)
    assert prediction.unsupported["aten.cumsum.default"] > 0
    assert prediction.find(Site(module="0", signal="gradient")).status == "tainted"


def test_rows_without_numbers_are_warned_of_once(recwarn):
    warnings.simplefilter("default")
    model, x = nn.Sequential(nn.Linear(16, 16), Cumulate(), nn.Linear(16, 4)), torch.randn(4, 16)
    for _ in range(2):
        prediction = vp.predict(model, x, draws=0)
    (warned,) = recwarn.list
    missing = sum(math.isnan(e.second_moment) for e in prediction)
    assert warned.category is vp.VarprobeWarning
    assert f"{missing} of {len(prediction)} rows have no numbers" in str(warned.message)
    assert "aten.cumsum.default for" in str(warned.message)
    assert warned.filename == __file__

    vp.predict(model[0], x, draws=0)  # complete
    vp.predict(model, x)  # estimated from draws
    vp.check(model, x, ignore=["VP103"])
    assert len(recwarn) == 1


def test_gradients_nearer_to_the_output_than_the_gap_are_known():
    model = nn.Sequential(nn.Linear(16, 32), Cumulate(), nn.Linear(32, 4), nn.Flatten())
    x = torch.randn(4, 16)
    prediction = predict_silently(model, x, init="kaiming_normal", draws=0)
    root, head, gap = (prediction.find(Site(module=m, signal="gradient")) for m in ("", "2", "1"))
    assert root.status == head.status == gap.status == "exact"
    assert root.second_moment == head.second_moment == pytest.approx(1.0)
    # The gradient of the gap's output has come back through the linear layer: 4 outputs, 2/32 each.
    assert gap.second_moment == pytest.approx(4 * 2 / 32)
    assert prediction.find(Site(module="0", signal="gradient")).status == "tainted"
    weight, bias = (
        prediction.find(Site(module="2", output=name, signal="weight_gradient"))
        for name in ("weight", "bias")
    )
    assert weight.status == "tainted"
    assert bias.second_moment == pytest.approx(4.0)


MODELS = {
    "recurrent by hand": (lambda: Loop(), (2, 5, 8)),
    "softmax": (lambda: nn.Sequential(nn.Linear(8, 8), nn.Softmax(1)), (4, 8)),
    "random slopes": (lambda: nn.Sequential(nn.Linear(8, 8), nn.RReLU()), (4, 8)),
    "constant weights": (lambda: fill(nn.Sequential(nn.Linear(8, 8), nn.ReLU())), (4, 8)),
    "product of branches": (lambda: Gated(), (4, 16)),
}


class Loop(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell = nn.LSTMCell(8, 8)

    def forward(self, x):
        state = None
        for step in x.unbind(1):
            state = self.cell(step, state)
        return state[0]


def fill(model):
    for parameter in model.parameters():
        nn.init.constant_(parameter, 0.01)
    return model


class Gated(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(16, 16), nn.Linear(16, 16)

    def forward(self, x):
        h = torch.relu(self.a(x))
        return torch.relu(h * self.b(h))


@pytest.mark.parametrize("name", MODELS)
def test_models_beyond_the_rules_have_rows_for_every_site(name):
    build, x = MODELS[name]
    model = build()
    x = x if isinstance(x, torch.Tensor) else torch.randn(x)
    prediction = predict_silently(model, x, draws=0)
    assert {e.site for e in prediction} == {record.site for record in vp.profile(model, x)}
    missing = [e for e in prediction if e.status in ("unknown", "tainted")]
    assert missing
    for row in missing:
        assert row.reason
        assert math.isnan(row.second_moment)
    assert prediction.unsupported


def test_a_weight_that_is_used_twice_is_only_approximate():
    layer = nn.Linear(16, 16)
    prediction = vp.predict(nn.Sequential(layer, nn.ReLU(), layer), torch.randn(4, 16))
    second = prediction.find(Site(module="0", call=1))
    assert second.status == "approximate"
    assert "more than once" in second.reason


def test_memory_written_through_another_view_is_not_trusted():
    class Sneaky(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.head = nn.Linear(16, 16), nn.Linear(16, 4)

        def forward(self, x):
            h = self.layer(x)
            h.view(-1).mul_(2)
            return self.head(h)

    prediction = predict_silently(Sneaky(), torch.randn(4, 16), draws=0)
    assert prediction.find(Site(module="layer")).status == "exact"
    assert prediction.find(Site(module="head")).status == "tainted"


@pytest.fixture
def registry():
    before = dict(RULES._entries)
    yield
    RULES._entries.clear()
    RULES._entries.update(before)


@pytest.mark.usefixtures("registry")
def test_a_rule_for_an_operation_fills_the_gap():
    @rule(torch.ops.aten.cumsum)
    def cumulate(x, dim):
        return x

    model = nn.Sequential(nn.Linear(16, 16), Cumulate(), nn.Linear(16, 4))
    prediction = vp.predict(model, torch.randn(4, 16))
    assert {e.status for e in prediction} == {"exact"}
    before, after = (prediction.find(Site(module=m, signal="gradient")) for m in ("0", "1"))
    assert before.second_moment == after.second_moment


@pytest.mark.usefixtures("registry")
def test_a_rule_for_a_module_replaces_what_happens_inside():
    @rule(Cumulate)
    def cumulate(module, x):
        assert isinstance(module, Cumulate)
        return x

    model = nn.Sequential(nn.Linear(16, 16), Cumulate(), nn.Linear(16, 4))
    prediction = vp.predict(model, torch.randn(4, 16))
    assert {e.status for e in prediction} == {"exact"}
    assert not prediction.unsupported
