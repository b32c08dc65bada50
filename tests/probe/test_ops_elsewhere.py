"""Operations in threads, checkpoints, transforms, compiled functions, copies, and trainings."""

from __future__ import annotations

import copy
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from tests.probe.operating import Block, Gelu, Net, depth_of_stack, find
from tests.probe.scenario import score
from tests.probe.test_scenarios import _read, assert_close
from tests.probe.untouched import describe_run, to_bytes
from varprobe import (
    Monitor,
    Probe,
)


class Residual(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + x * 2.0


class TestOtherPlaces:
    def test_two_probes_see_the_same(self) -> None:
        net, x = Net(), torch.randn(5, 6)
        with Probe(net, ops=True) as first, Probe(net, ops=True) as second:
            score(net(x)).backward()
            assert depth_of_stack() == 0
        with Probe(net, ops=True) as alone:
            score(net(x)).backward()
        for probe in (first, second):
            assert probe.recording.records == alone.recording.records

    def test_threads_have_their_own(self) -> None:
        class Slow(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.cell, self.barrier = nn.Linear(6, 6), threading.Barrier(2)

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                for _ in range(3):
                    self.barrier.wait(timeout=20)
                    x = F.relu(self.cell(x)) + 1.0
                return x * 1.0

        model, batches = Slow(), torch.randn(2, 5, 6)

        def work(x: torch.Tensor) -> int:
            score(model(x)).backward()
            return depth_of_stack()

        with Probe(model, ops=True) as probe, ThreadPoolExecutor(2) as pool:
            assert list(pool.map(work, batches)) == [0, 0]
        for signal in ("activation", "gradient"):
            records = [r for r in probe.recording.select(signal=signal) if r.site.is_operation]
            assert sorted(str(r.site) for r in records) == [
                f"(root).{name}(){number}"
                for name in ("add", "relu")
                for number in ("", ".1", ".2")
            ]
            assert {r.moments.numel for r in records} == {60}

    def test_what_a_helping_thread_computes_is_listed(self) -> None:
        class Parallel(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.cell = nn.Linear(6, 6)

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                with ThreadPoolExecutor(1) as pool:
                    return self.cell(pool.submit(F.relu, x).result())

        model = Parallel()
        with Probe(model, ops=True, signals=("activation",)) as probe:
            model(torch.randn(5, 6))
        assert find(probe.recording) == []
        (line,) = map(str, probe.recording.unobserved)
        assert line.startswith("(root): operations of its own")

    @pytest.mark.parametrize("reentrant", [False, True])
    def test_checkpoints_count_once(self, reentrant) -> None:
        class Model(nn.Module):
            def __init__(self, again: bool) -> None:
                super().__init__()
                self.block, self.again = Block(), again

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                if self.again:
                    return checkpoint(self.block, x, use_reentrant=reentrant) * 2.0
                return self.block(x) * 2.0

        recordings, results = [], []
        for again in (False, True):
            torch.manual_seed(0)
            model, x = Model(again), torch.randn(5, 6, requires_grad=True)
            with Probe(model, ops=True) as probe:
                score(model(x)).backward()
            recordings.append(probe.recording)
            results.append([to_bytes(p.grad) for p in (x, *model.parameters())])
        assert results[0] == results[1]
        plain, found = recordings
        assert_close(_read(found, "activation"), _read(plain, "activation"))
        if not reentrant:
            assert_close(_read(found, "gradient"), _read(plain, "gradient"))
            assert found.unobserved == ()
        else:
            assert find(found, "gradient") == []
            lines = [str(line) for line in found.unobserved]
            assert lines == [
                "block: gradient: 9 of its operations ran without a graph (checkpointing, a custom "
                "function, or torch.no_grad)"
            ]

    @pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
    @pytest.mark.parametrize("transform", ["grad", "vmap", "jvp", "jacrev"])
    def test_transforms(self, transform) -> None:
        model, x = nn.Sequential(Gelu(), nn.Linear(6, 6), Residual()), torch.randn(6)

        def drive() -> object:
            if transform == "vmap":
                return torch.vmap(model)(x.repeat(5, 1))
            if transform == "jvp":
                return torch.func.jvp(model, (x,), (torch.ones(6),))
            return getattr(torch.func, transform)(lambda v: score(model(v)))(x)

        expected = describe_run(model, drive)
        with Probe(model, ops=True) as probe:
            found = drive()
        assert describe_run(model, lambda: found) == expected
        assert find(probe.recording) == ["2.mul()"]

    @pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
    def test_a_compiled_function_inside(self) -> None:
        graphs = []

        def backend(graph: torch.fx.GraphModule, inputs: object) -> object:
            graphs.append(graph)
            return graph.forward

        compiled = torch.compile(lambda x: F.gelu(x) * 2.0, backend=backend)

        class Model(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.first = nn.Linear(6, 6)

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return compiled(self.first(x)) + 1.0

        model, x = Model(), torch.randn(5, 6)
        bare = model(x)
        assert len(graphs) == 1
        for _ in range(2):
            with Probe(model, ops=True):
                probed = model(x)
                probed.sum().backward()
            assert torch.equal(bare, probed)
        assert torch.equal(bare, model(x))
        # It is compiled once more for what calls it, and holds the same operations.
        assert len(graphs) == 2
        first, second = (len(graph.graph.nodes) for graph in graphs)
        assert first == second

    def test_a_compiled_model_runs_eagerly(self) -> None:
        net, x = Net(), torch.randn(5, 6)
        with Probe(net, ops=True) as plain:
            net(x)
        compiled = torch.compile(net, backend="eager")
        compiled(x)
        with Probe(compiled, ops=True, compiled="eager") as probe:
            compiled(x)
        assert find(probe.recording) == find(plain.recording)

    def test_a_copy_made_meanwhile_is_inert(self) -> None:
        net, x = Net(), torch.randn(5, 6)
        with Probe(net, ops=True) as probe:
            twin = copy.deepcopy(net)
            score(net(x)).backward()
            recording = probe.recording
            score(twin(x)).backward()
            assert probe.recording == recording

    def test_custom_functions_say_that_their_inside_has_no_gradient(self) -> None:
        class Double(torch.autograd.Function):
            @staticmethod
            def forward(ctx, x):
                return (x.exp() * 2.0).log()

            @staticmethod
            def backward(ctx, gradient):
                return gradient

        class Model(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.last = nn.Linear(6, 6)

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return self.last(Double.apply(x))

        model, x = Model(), torch.randn(5, 6, requires_grad=True)
        with Probe(model, ops=True) as probe:
            score(model(x)).backward()
        assert find(probe.recording) == [f"(root).{name}()" for name in ("exp", "mul", "log")]
        assert [str(line) for line in probe.recording.unobserved] == [
            "(root): gradient: 3 of its operations ran without a graph (checkpointing, a custom "
            "function, or torch.no_grad)"
        ]

    def test_a_monitor_sees_them_at_its_steps(self) -> None:
        net, x = Net(), torch.randn(5, 6)
        with Monitor(net, every=2, ops=True) as monitor:
            for _ in range(4):
                score(net(x)).backward()
                assert depth_of_stack() == 0
                with torch.no_grad():
                    net.eval()(x)
                net.train()
        with Probe(net, ops=True) as probe:
            score(net(x)).backward()
        for signal in ("activation", "gradient"):
            expected = find(probe.recording, signal)
            assert find(monitor.recording, signal) == 2 * expected
        numels = {r.moments.numel for r in monitor.recording if str(r.site) == "block.add()"}
        assert numels == {30}
