"""A probe keeps numbers, never tensors, and as many of them after a thousand steps as after one."""

from __future__ import annotations

import gc
import tracemalloc
import weakref

import pytest
import torch
from torch import nn

from tests.probe.scenario import mlp, score
from varprobe import Probe

ALL = ("activation", "gradient", "weight", "weight_gradient")


class Keeps(nn.Module):
    """A model that hands out every intermediate result, views and leaves among them."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.view, self.act = mlp(), nn.Flatten(), nn.ReLU(inplace=True)
        self.token = nn.Parameter(torch.ones(4))

    def forward(self, x: torch.Tensor) -> dict[str, object]:
        h = self.body(x)
        flat = self.act(self.view(h + self.token))
        return {"h": (h, flat), "token": self.token}


@pytest.fixture
def no_collector():
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize("probed", [False, True])
def test_outputs_die_when_the_user_lets_go_of_them(probed) -> None:
    model, dead = Keeps(), []
    probe = Probe(model, stats="full", signals=ALL)
    if probed:
        probe.start()
    output = model(torch.randn(5, 6))
    h, flat = output["h"]
    for tensor in (h, flat):
        weakref.finalize(tensor, dead.append, 1)
        weakref.finalize(tensor.untyped_storage(), dead.append, 2)
    del output, h, flat, tensor
    # Nothing but reference counts is at work here: there is no cycle, either.
    assert dead.count(1) == 2
    assert dead.count(2) >= 1
    probe.stop()


@pytest.mark.usefixtures("no_collector")
def test_outputs_die_with_the_graph_after_a_backward_pass() -> None:
    model, dead = Keeps(), []
    with Probe(model, signals=ALL):
        output = model(torch.randn(5, 6))
        weakref.finalize(output["h"][0], dead.append, 1)
        loss = score(output["h"][1])
        del output
        loss.backward()
        del loss
        assert dead == [1]


@pytest.mark.usefixtures("no_collector")
def test_a_probe_that_nobody_needs_dies() -> None:
    model = mlp()
    probe = Probe(model)
    gone = weakref.ref(probe)
    with probe:
        output = model(torch.randn(5, 6))
    del probe
    gc.collect()
    assert gone() is None
    score(output).backward()


def test_a_thousand_steps_make_no_more_records_than_one() -> None:
    model = Keeps()
    with Probe(model, signals=ALL) as probe:
        counts = []
        for index in range(1000):
            score(model(torch.randn(2, 6))["h"][1]).backward()
            if index in (9, 999):
                gc.collect()
                counts.append(
                    (
                        len(probe.recording),
                        len(probe.recording.unobserved),
                        [len(f._handles) for f in probe._forwards._alive.values()],
                        len(model.token._backward_hooks),
                    )
                )
    assert counts[0] == counts[1]


def test_memory_stays_flat() -> None:
    model = mlp(inplace=True)
    with Probe(model, signals=ALL) as probe:

        def run(steps: int) -> None:
            for _ in range(steps):
                score(model(torch.randn(2, 6))).backward()

        run(20)
        gc.collect()
        tracemalloc.start()
        run(20)
        gc.collect()
        before = tracemalloc.get_traced_memory()[0]
        run(200)
        gc.collect()
        after = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
    # A record kept for each step would be 200 times at least 100 bytes.
    assert after - before < 10_000
    assert probe.recording.meta["batch_size"] == 2


def test_forwards_without_backward_keep_nothing() -> None:
    model = mlp()
    with Probe(model) as probe:
        for _ in range(50):
            model(torch.randn(2, 6))
        assert len(probe._forwards._alive) == 1
