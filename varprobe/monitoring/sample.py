"""A sampled step: the probe that is on while it lasts, and what is kept of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from varprobe.probe import Probe
from varprobe.recording import Recording, Unobserved


class StepProbe(Probe):
    """A probe that hears only the forwards which are steps of a training."""

    def hears_forward(self) -> bool:
        """Tell whether the root is in training mode, and gradients are enabled."""
        return self._root.training and torch.is_grad_enabled()


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
