"""A sampled step: the probe that is on while it lasts, and what is kept of it."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from varprobe.probe import Probe
from varprobe.recording import Recording, Unobserved


class StepProbe(Probe):
    """A probe that leaves out forwards, and may be started when the root's call has begun."""

    def __init__(self, model: nn.Module, **options: Any) -> None:
        super().__init__(model, **options)
        self._of_thread = threading.local()

    @property
    def is_listening(self) -> bool:
        """Whether the forwards that this thread runs are recorded; gradients always are."""
        # A thread that never ran the root helps one that does.
        value: bool = getattr(self._of_thread, "is_listening", True)
        return value

    @is_listening.setter
    def is_listening(self, value: bool) -> None:
        self._of_thread.is_listening = value

    def begin_forward(self, inputs: tuple[Any, ...]) -> None:
        """Begin the forward of a root that has been called with these inputs."""
        self._on_root(inputs)

    def _on_root(self, inputs: tuple[Any, ...]) -> None:
        if self.is_listening:
            super()._on_root(inputs)

    def _on_output(self, name: str, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        # What is called inside a backward pass is a checkpoint of a step that is recorded.
        if self.is_listening or torch._C._current_graph_task_id() != -1:
            super()._on_output(name, module, args, output)


@dataclass(slots=True)
class Sample:
    """A sampled step. Its numbers stay on their device until they are read."""

    step: int
    probe: StepProbe


def summarize(recordings: Sequence[Recording]) -> Iterator[Unobserved]:
    """List what was not seen, and in how many of the steps if it was seen in others."""
    counts = Counter(
        line for recording in recordings for line in dict.fromkeys(recording.unobserved)
    )
    for line, count in counts.items():
        part = f" (in {count} of {len(recordings)} steps)" if count < len(recordings) else ""
        yield replace(line, reason=line.reason + part)
