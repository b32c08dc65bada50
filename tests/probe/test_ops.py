"""Operations between modules: each with the value and the gradient of its twin."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.probe.operating import Block, Gelu, Net, find, see_net
from tests.probe.scenario import Twin, score
from tests.probe.test_scenarios import _read, assert_close
from tests.reference.moments import measure
from varprobe import (
    Probe,
)


class TestTwin:
    @pytest.mark.parametrize("stats", ["moments", "full"])
    def test_every_operation_is_recorded_with_its_gradient(self, stats) -> None:
        net, x = Net(), torch.randn(5, 6)
        with Probe(net, ops=True, stats=stats) as probe:
            score(net(x)).backward()
        twin = Twin()
        twin.backward(score(see_net(net, x, twin)))
        activations = {(k, 0): measure(v) for k, v in twin.activations.items()}
        assert_close(_read(probe.recording, "activation"), activations)
        assert_close(
            _read(probe.recording, "gradient"), {k: measure(v) for k, v in twin.gradients.items()}
        )
        assert probe.recording.unobserved == ()
        assert probe.recording.meta["ops"] is True

    def test_they_stand_in_the_order_in_which_they_ran(self) -> None:
        net = Net()
        twin = Twin()
        x = torch.randn(5, 6)
        see_net(net, x, twin)
        with Probe(net, ops=True) as probe:
            net(x)
        found = probe.recording.select(signal="activation")
        expected = [*twin.activations]
        assert [(r.site.module, r.site.call, r.site.output) for r in found] == expected
        assert {r.kind for r in found if r.site.output == "matmul().1"} == {"matmul"}

    def test_in_inference_and_without_gradients(self) -> None:
        net, x = Net(), torch.randn(5, 6)
        for off in (torch.no_grad, torch.inference_mode):
            with off(), Probe(net, ops=True) as probe:
                net(x)
            twin = Twin()
            see_net(net, x, twin)
            activations = {(k, 0): measure(v) for k, v in twin.activations.items()}
            assert_close(_read(probe.recording, "activation"), activations)
            assert probe.recording.unobserved == ()

    def test_under_autocast(self) -> None:
        net, x = Net(), torch.randn(5, 6)
        with torch.autocast("cpu", torch.bfloat16):
            bare = net(x)
            with Probe(net, ops=True) as probe:
                probed = net(x)
        assert torch.equal(bare, probed)
        assert "block.matmul()" in find(probe.recording)


class TestWhatIsRecorded:
    def run(self, function, *, train: bool = True, **options: object) -> list[str]:
        class Model(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.first, self.last = nn.Linear(6, 6), nn.Linear(6, 6)

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return self.last(function(self.first(x)))

        model = Model().train(train)
        with Probe(model, ops=True, **options) as probe:
            score(model(torch.randn(5, 6))).backward()
        assert not any("operations of its own" in str(u) for u in probe.recording.unobserved)
        return [name.removeprefix("(root).") for name in find(probe.recording)]

    @pytest.mark.parametrize(
        "function",
        [
            lambda x: x,
            lambda x: x.t().t(),
            lambda x: x[:, [0, 1, 2, 3, 4, 5]],
            lambda x: x.T.T.contiguous().clone(),
            lambda x: torch.stack([x, x]).unbind(0)[0],
            lambda x: torch.cat([x[:2], x[2:]]),
            lambda x: x.double().float(),
            lambda x: F.dropout(x, 0.5, training=False),
        ],
    )
    def test_nothing_of_what_makes_no_numbers_is(self, function) -> None:
        assert self.run(function) == []

    @pytest.mark.parametrize(
        ("function", "expected"),
        [
            (F.relu, ["relu()"]),
            (F.relu_, ["relu()"]),
            (torch.tanh_, ["tanh()"]),
            (lambda x: 2.0 - x, ["rsub()"]),
            (lambda x: 1.0 / x.exp() ** 2, ["exp()", "pow()", "div()"]),
            (lambda x: x.mul_(2.0), ["mul()"]),
            (lambda x: torch.add(x, 1.0, out=None), ["add()"]),
            (lambda x: F.scaled_dot_product_attention(x, x, x), ["scaled_dot_product_attention()"]),
            (lambda x: torch.einsum("ij,ij->ij", x, x), ["einsum()"]),
            (lambda x: torch.var_mean(x, 1)[0][:, None] + x, [
                "var_mean()[0]", "var_mean()[1]", "add()"]),
            (lambda x: x.max(0).values + x, ["max()[0]", "add()"]),
            (lambda x: torch.ops.aten.relu(x), ["relu()"]),
            (lambda x: torch.ops.aten.relu.default(x), ["relu()"]),
            (lambda x: F.dropout(x, 0.5), ["dropout()"]),
            (lambda x: x * torch.randn_like(x), ["mul()"]),
            (lambda x: F.linear(x, torch.eye(6)), ["linear()"]),
            (lambda x: nn.Linear(6, 6)(x), ["linear()"]),
            (lambda x: x + x + x, ["add()", "add().1"]),
        ],
    )  # fmt: skip
    def test_everything_else_is_by_its_name(self, function, expected) -> None:
        found = self.run(function)
        assert [name.replace("rsub", "sub") for name in found] == [
            name.replace("rsub", "sub") for name in expected
        ]

    def test_what_is_written_into_a_part(self) -> None:
        def clip(x: torch.Tensor) -> torch.Tensor:
            h = x * 1.0
            h[:, :2] = 0.0
            return h

        assert self.run(clip) == ["mul()", "setitem()"]

    def test_a_layer_of_torchs_own_is_one_operation(self) -> None:
        encoder = nn.TransformerEncoderLayer(6, 2, 8, dropout=0.1, activation=F.gelu)
        with Probe(encoder, ops=True) as probe:
            score(encoder(torch.randn(5, 3, 6))).backward()
        assert find(probe.recording) == ["(root).add()", "(root).gelu()", "(root).add().1"]

    def test_a_layer_of_ones_own_is_looked_into(self) -> None:
        class Scaled(nn.Linear):
            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return F.linear(x, self.weight * 0.5) * 2.0

        model = nn.Sequential(Scaled(6, 6), nn.ReLU())
        with Probe(model, ops=True) as probe:
            model(torch.randn(5, 6))
        assert find(probe.recording) == ["0.mul()", "0.linear()"]

    def test_parametrizations_are_not_operations_of_the_model(self) -> None:
        class Double(nn.Module):
            def forward(self, weight: torch.Tensor) -> torch.Tensor:
                return weight * 2.0

        layer = nn.Linear(6, 6)
        nn.utils.parametrize.register_parametrization(layer, "weight", Double())
        with Probe(nn.Sequential(layer), ops=True) as probe:
            probe.model(torch.randn(5, 6))
        assert find(probe.recording) == []

    def test_signals_and_large_tensors_are_as_for_modules(self) -> None:
        net, x = Net(), torch.randn(500, 6)
        with Probe(net, ops=True, signals=("gradient",), max_elements=256) as probe:
            score(net(x)).backward()
        assert {r.site.signal for r in probe.recording} == {"gradient"}
        (record,) = (r for r in probe.recording if str(r.site) == "block.add()")
        assert record.sampling.numel == 256

    def test_scaled_gradients_are_divided(self) -> None:
        net, x = Net(), torch.randn(5, 6)
        with Probe(net, ops=True) as plain:
            score(net(x)).backward()
        with Probe(net, ops=True, grad_scale=64.0) as probe:
            (64.0 * score(net(x))).backward()
        assert probe.recording.records == plain.recording.records

    def test_only_those_of_the_modules_that_are_watched(self) -> None:
        net, x = nn.Sequential(Block(), Gelu(), Block()), torch.randn(5, 6)
        with Probe(net, ops=True) as whole:
            score(net(x)).backward()
        with Probe(net, ops=True, include=("2", "")) as probe:
            score(net(x)).backward()
        found = {r.site: r.moments for r in probe.recording}
        assert found == {r.site: r.moments for r in whole.recording if r.site in found}
        assert find(probe.recording) == [s for s in find(whole.recording) if s.startswith("2.")]
