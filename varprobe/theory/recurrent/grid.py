"""How the moments of one feature are laid out over steps, positions and samples."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Grid:
    """Steps, positions at one step, and samples.

    Of exchangeable samples two stand for all. Pairs are (2, P, P) over P = steps x lead; inside of
    a layer they are one matrix over steps x copies x lead.
    """

    steps: int
    lead: int
    samples: int

    @property
    def copies(self) -> int:
        """Samples that are drawn."""
        return 1 if self.samples == 1 else 2

    @property
    def width(self) -> int:
        """Numbers of one feature at one step."""
        return self.copies * self.lead

    @property
    def size(self) -> int:
        """Numbers of one feature."""
        return self.steps * self.width

    def join(self, pairs: Tensor) -> Tensor:
        """Return pairs of any number of steps as one matrix."""
        steps = pairs.shape[-1] // self.lead
        differ, same = pairs.double().view(2, steps, 1, self.lead, steps, 1, self.lead)
        own = torch.eye(self.copies, dtype=torch.float64)[:, None, None, :, None]
        joined = same * own + differ * (1 - own)
        found: Tensor = joined.reshape(steps * self.width, steps * self.width)
        return found

    def part(self, joined: Tensor) -> Tensor:
        """Return one matrix as pairs."""
        steps, copies = len(joined) // self.width, self.copies
        blocks = joined.view(steps, copies, self.lead, steps, copies, self.lead)
        same = torch.einsum("scltcm->sltm", blocks) / copies
        differ = torch.zeros_like(same)
        if copies > 1:
            differ = (blocks.sum((1, 4)) - same * copies) / (copies * (copies - 1))
        return torch.stack([differ, same]).flatten(3, 4).flatten(1, 2)

    def exchange(self, moments: Tensor) -> Tensor:
        """Return moments (width, n width) averaged over the order of the copies."""
        if self.copies == 1:
            return moments
        blocks = moments.view(self.copies, self.lead, -1, self.copies, self.lead)
        return ((blocks + blocks.flip(0, 3)) / 2).reshape(moments.shape)

    def vary(self, parts: Iterable[Tensor]) -> float:
        """Return the relative variance over particles of the mean square of several arrays.

        Each is (width, particles), and the mean is over all samples of a batch.
        """
        totals = sum(part.square().view(self.copies, self.lead, -1).sum(1) for part in parts)
        assert isinstance(totals, Tensor)
        found = totals.double()
        found = found / found.mean().clamp_min(1e-300) - 1
        own = float(found.square().mean())
        together = float(found.prod(0).mean()) if self.copies > 1 else own
        return max(0.0, own / self.samples + together * (1 - 1 / self.samples))


def multiply(first: Tensor, second: Tensor) -> Tensor:
    """Return the mean products over particles, float64."""
    return (first @ second.mT).double() / first.shape[-1]
