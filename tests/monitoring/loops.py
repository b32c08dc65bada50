"""Training loops as people write them, and the comparison of one run watched with one that is not.

A loop builds its own model and data, enters ``watch(model)`` around its training, and returns the
model. ``watch`` gives the monitor, or a stand-in where nobody watches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import nn

from tests.monitoring.steps import ALL
from tests.probe.untouched import describe_values, to_bytes
from varprobe import Recording
from varprobe.monitoring import Monitor


class Nobody:
    """Stand in for a monitor where there is none."""

    def step(self) -> None:
        """Take note of nothing."""


Watch = Callable[..., AbstractContextManager[Monitor | Nobody]]
Loop = Callable[[Watch], nn.Module]


def run(loop: Loop, watch: Watch) -> dict[str, object]:
    """Run a loop from the seed on, and return all that must not depend on who watches."""
    torch.manual_seed(0)
    model = loop(watch)
    return {**describe_values(model), "generator": to_bytes(torch.get_rng_state())}


def compare_runs(loop: Loop, every: int = 2) -> Recording:
    """Assert that a loop ends bitwise alike with and without a monitor; return what that saw."""
    monitors: list[Monitor] = []

    @contextmanager
    def unwatched(model: nn.Module, **options: object) -> Iterator[Nobody]:
        yield Nobody()

    @contextmanager
    def watched(model: nn.Module, **options: object) -> Iterator[Monitor]:
        monitor = Monitor(model, every=every, signals=ALL, stats="full", **options)
        monitors.append(monitor)
        with monitor:
            yield monitor

    bare, seen = run(loop, unwatched), run(loop, watched)
    assert seen.keys() == bare.keys()
    assert [key for key in bare if seen[key] != bare[key]] == []
    (monitor,) = monitors
    return monitor.recording


def list_steps(recording: Recording, signal: str = "gradient") -> list[int]:
    """Return the steps with records of a signal."""
    return sorted({record.step for record in recording.select(signal=signal)})


def count_elements(recording: Recording, module: str, signal: str = "activation") -> set[int]:
    """Return how many elements of a module were pooled in a step; one number if all are alike."""
    records = recording.select(signal=signal)
    return {r.moments.numel for r in records if r.site.module == module}
