"""Models that torch would run past the hooks, and wrappers that must not show."""

from __future__ import annotations

import os

import pytest
import torch
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.nn.parallel import DistributedDataParallel

from tests.probe.scenario import mlp, score
from varprobe import NothingRecordedError, Probe, Recording, UnsupportedModelError

pytestmark = [
    pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning"),
]


def describe(recording: Recording) -> list[tuple[str, str, str, float]]:
    return [
        (r.site.signal, str(r.site), r.kind, r.moments.second_moment)
        for r in recording
        if r.site.signal in ("activation", "gradient")
    ]


def run(model: nn.Module, x: torch.Tensor, **options: str) -> Recording:
    with Probe(model, **options) as probe:
        score(model(x)).backward()
    return probe.recording


class TestRefused:
    @pytest.mark.parametrize("convert", [torch.jit.script, lambda m: torch.jit.trace(m, X)])
    def test_torchscript(self, convert) -> None:
        with pytest.raises(UnsupportedModelError, match="The model is a TorchScript module"):
            Probe(convert(mlp()))
        with pytest.raises(UnsupportedModelError, match="'1' is a TorchScript module"):
            Probe(nn.Sequential(mlp(), convert(mlp())))

    def test_data_parallel_on_several_devices(self) -> None:
        model = nn.Sequential(nn.DataParallel(mlp()))
        model[0].device_ids = [0, 1]
        with pytest.raises(UnsupportedModelError, match="'0' is DataParallel on several devices"):
            Probe(model)

    def test_compiled_models(self) -> None:
        whole, part = mlp(), mlp()
        part[2].compile(backend="eager")
        for model, name in ((torch.compile(whole, backend="eager"), "The model"), (part, "'2'")):
            with pytest.raises(UnsupportedModelError, match=f"{name} is compiled by torch.compile"):
                Probe(model)
        assert stance() == "default"


class TestForcedEager:
    @pytest.mark.parametrize("warm", [True, False])
    def test_a_compiled_model_is_recorded_as_the_eager_one(self, warm) -> None:
        eager = mlp()
        compiled, calls = count_compilations(eager)
        if warm:
            compiled(X)
        before = calls.copy()
        assert describe(run(compiled, X, compiled="eager")) == describe(run(eager, X))
        assert calls == before
        if warm:
            compiled(X)
            assert calls == before
        assert stance() == "default"

    def test_a_model_that_compiled_itself(self) -> None:
        eager = mlp()
        expected = describe(run(eager, X))
        eager.compile(backend="eager")
        eager(X)
        assert describe(run(eager, X, compiled="eager")) == expected

    def test_the_stance_is_that_of_before_when_probes_overlap(self) -> None:
        model, _ = count_compilations(mlp())
        first, second = (Probe(model, compiled="eager") for _ in range(2))
        assert stance() == "default"
        first.start()
        second.start()
        first.stop()
        assert stance() == "force_eager"
        second.stop()
        assert stance() == "default"

    def test_an_exception_does_not_keep_it(self) -> None:
        model, _ = count_compilations(mlp())
        with pytest.raises(RuntimeError, match="cannot be multiplied"):
            run(model, torch.randn(2, 3), compiled="eager")
        assert stance() == "default"

    def test_a_compiled_function_around_the_model_records_nothing_and_says_so(self) -> None:
        model = mlp()
        step = torch.compile(lambda x: model(x).sum(), backend="eager")
        step(X)
        with Probe(model) as probe:
            step(X)
        with pytest.raises(NothingRecordedError, match="a compiled function around it"):
            _ = probe.recording


class TestWrappers:
    """A wrapper has the name of what it wraps and no record of its own."""

    def test_checkpoint_wrapper(self) -> None:
        plain = nn.Sequential(nn.Linear(6, 6), mlp())
        expected = run(plain, X)
        wrapped = nn.Sequential(plain[0], checkpoint_wrapper(plain[1]))
        found = run(wrapped, X)
        assert describe(found) == describe(expected)
        assert [str(r.site) for r in found] == [str(r.site) for r in expected]

    @pytest.mark.parametrize("kind", ["distributed", "data parallel"])
    def test_parallel_wrappers(self, kind, one_process) -> None:
        plain = mlp()
        expected = run(plain, X)
        wrap = DistributedDataParallel if kind == "distributed" else nn.DataParallel
        found = run(wrap(plain), X)
        assert describe(found) == describe(expected)
        assert found.meta["model"] == "Sequential"
        assert [str(r.site) for r in found] == [str(r.site) for r in expected]


X = torch.randn(5, 6, generator=torch.Generator().manual_seed(0))


def stance() -> str:
    import torch._dynamo.eval_frame as eval_frame

    return eval_frame._stance.stance


def count_compilations(model: nn.Module) -> tuple[nn.Module, list[object]]:
    graphs: list[object] = []

    def backend(graph: torch.fx.GraphModule, inputs: object) -> object:
        graphs.append(graph)
        return graph.forward

    return torch.compile(model, backend=backend), graphs


@pytest.fixture
def one_process(tmp_path):
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1
    )
    yield
    torch.distributed.destroy_process_group()
