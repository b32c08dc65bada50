"""Looking at operations leaves no trace, whatever happens in the model."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from tests.probe.operating import Net, depth_of_stack, find
from tests.probe.scenario import score
from tests.probe.test_scenarios import SCENARIOS
from tests.probe.untouched import describe_model, describe_run
from varprobe import (
    Probe,
)


class TestNoTrace:
    @pytest.mark.parametrize("name", SCENARIOS)
    def test_scenarios_stay_bitwise_the_same(self, name) -> None:
        def build():
            torch.manual_seed(0)
            return SCENARIOS[name]()

        bare, probed, plain = build(), build(), build()
        expected = describe_run(bare.model, bare.drive)
        with Probe(plain.model, stats="full") as without:
            plain.drive()

        def drive() -> object:
            with Probe(probed.model, ops=True, stats="full") as probe:
                found = probed.drive()
            modules = {(r.site, r.backward): r for r in probe.recording if not r.site.is_operation}
            twins = {(r.site, r.backward): r for r in without.recording}
            assert modules.keys() == twins.keys()
            for key, record in modules.items():
                assert repr(record.moments) == repr(twins[key].moments), key
            return found

        assert describe_run(probed.model, drive) == expected

    def test_after_an_exception_in_the_model(self) -> None:
        class Fails(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.net, self.error = Net(), None

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                h = self.net(x) + 1.0
                if self.error is not None:
                    raise self.error
                return h

        model, x = nn.Sequential(Fails(), nn.ReLU()), torch.randn(5, 6)
        before = describe_model(model)
        for error in (ZeroDivisionError(), KeyboardInterrupt()):
            with Probe(model, ops=True) as probe:
                model[0].error = error
                with pytest.raises(type(error)):
                    model(x)
                model[0].error = None
                if isinstance(error, Exception):
                    # Torch tells of no other; then the next call, or the probe's end, cleans up.
                    assert depth_of_stack() == 0
                model(x)
                assert depth_of_stack() == 0
            assert describe_model(model) == before
            # Twice the same, and once what is the module's output where nothing is raised.
            assert find(probe.recording)[-2:] == ["0.net.sub()", "0.add()"]
            numels = {r.moments.numel for r in probe.recording if r.site.is_operation}
            assert numels == {2 * 30, 2 * 25, 2 * 6, 20}
            assert sum(r.moments.numel for r in probe.recording if str(r.site) == "1") == 20

    def test_interrupted_and_never_called_again(self) -> None:
        class Fails(nn.Module):
            def forward(self, x: torch.Tensor) -> torch.Tensor:
                raise KeyboardInterrupt

        def run() -> None:
            with Probe(Fails(), ops=True) as probe:
                probe.model(torch.randn(5, 6))

        with pytest.raises(KeyboardInterrupt):
            run()

    def test_an_exception_that_the_model_catches(self) -> None:
        class Part(nn.Module):
            def forward(self, x: torch.Tensor) -> torch.Tensor:
                raise ZeroDivisionError(x * 2.0)

        class Tries(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.part = Part()

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                try:
                    return self.part(x)
                except ZeroDivisionError:
                    return (x * 3.0).relu()

        model = Tries()
        with Probe(model, ops=True) as probe:
            model(torch.randn(5, 6))
        assert find(probe.recording) == ["part.mul()", "(root).mul()"]

    def test_modes_of_the_user_stay_where_they_are(self) -> None:
        class Count(TorchFunctionMode):
            seen = 0

            def __torch_function__(self, func, types, args=(), kwargs=None):
                self.seen += 1
                return func(*args, **(kwargs or {}))

        inner, outer = Count(), Count()

        class Model(nn.Module):
            def forward(self, x: torch.Tensor) -> torch.Tensor:
                with inner:
                    x = x * 2.0
                return x + 1.0 - 1.0

        model, x = Model(), torch.randn(5, 6)
        with outer:
            model(x)
            calls = outer.seen
            with Probe(model, ops=True) as probe:
                model(x)
                assert depth_of_stack() == 1
        assert outer.seen >= 2 * calls
        assert inner.seen == 2
        assert find(probe.recording) == ["(root).mul()", "(root).add()"]

    def test_a_default_device_set_in_the_forward(self) -> None:
        class Model(nn.Module):
            def forward(self, x: torch.Tensor) -> torch.Tensor:
                torch.set_default_device("cpu")
                return (x * 2.0).relu()

        try:
            with Probe(Model(), ops=True) as probe:
                probe.model(torch.randn(5, 6))
        finally:
            torch.set_default_device(None)
        assert find(probe.recording) == ["(root).mul()"]

    def test_memory_is_let_go_of(self) -> None:
        dead = []

        class Model(nn.Module):
            def forward(self, x: torch.Tensor) -> torch.Tensor:
                h = x * 2.0
                weakref.finalize(h, dead.append, 1)
                y = h.detach() + 1.0
                del h
                # Nothing but the operation that is looked at is held.
                z = y + 1.0
                assert dead
                return z - 1.0

        gc.collect()
        gc.disable()
        try:
            model = Model()
            probe = Probe(model, ops=True)
            gone = weakref.ref(probe)
            with probe:
                model(torch.randn(5, 6))
            del probe
        finally:
            gc.enable()
        gc.collect()
        assert gone() is None

    def test_the_books_do_not_grow_with_the_steps(self) -> None:
        net, counts = Net(), []
        with Probe(net, ops=True) as probe:
            for step in range(50):
                score(net(torch.randn(5, 6))).backward()
                if step in (1, 49):
                    counts.append(len(probe.recording))
        assert counts[0] == counts[1]

    @pytest.mark.parametrize("grad", [False, True])
    def test_attention_of_torch(self, grad) -> None:
        model, x = nn.MultiheadAttention(8, 2).eval(), torch.randn(5, 3, 8)
        with torch.set_grad_enabled(grad):
            bare = model(x, x, x)
            with Probe(model, ops=True) as probe:
                probed = model(x, x, x)
        for one, two in zip(bare, probed, strict=True):
            if grad:
                assert torch.equal(one, two)
            else:
                # A mode leads torch off its fast path, which rounds in another order.
                assert torch.allclose(one, two, atol=1e-6)
        assert find(probe.recording) == []
