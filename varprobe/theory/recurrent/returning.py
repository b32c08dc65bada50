"""Gradients through a recurrent layer: draws of a single feature, last step first.

What the transposed recurrent matrix makes of the gradients of pre-activations at several steps is a
family of its own, independent of the forward pass; between its products the cell is differentiated
as it is, on the particles of the forward pass.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from varprobe.theory.recurrent.cells import State
from varprobe.theory.recurrent.family import Family
from varprobe.theory.recurrent.grid import multiply
from varprobe.theory.recurrent.layer import Layer

NOTHING = 1e-9
"""Share of the largest covariance below which a gradient's numbers have nothing in common."""


@dataclass(frozen=True, slots=True)
class Returned:
    """Pairs (2, P, P) of gradients.

    Parameters
    ----------
    to_input, to_hidden : Tensor
        Of what the two matrices made, averaged over gates.
    shown : Tensor
        Of what each step showed, from above and from the next step together.
    first : Tensor
        Of the state before the first step, hidden and then cell, (2, 2 L, 2 L).
    noise : float
        Relative variance of the mean square over draws of one feature.
    """

    to_input: Tensor
    to_hidden: Tensor
    shown: Tensor
    first: Tensor
    noise: float


def send_back(layer: Layer, above: Tensor, last_cell: Tensor | None) -> Returned:
    """Return the gradients, given the pairs of those of what is shown and of the last cell.

    Parameters
    ----------
    layer : Layer
        After its forward pass.
    above : Tensor
        (2, P, P).
    last_cell : Tensor or None
        (2, L, L); None for zero.
    """
    return _Return(layer, above, last_cell).run()


class _Return:
    """One way back; steps are numbered in the order in which they are met, the last is 0."""

    def __init__(self, layer: Layer, above: Tensor, last_cell: Tensor | None) -> None:
        self.layer, self.grid = layer, layer.grid
        self.above = self._reverse(self.grid.join(above))
        self.cell = self._draw_cell(last_cell)
        self.direct = torch.zeros_like(self.cell)
        self.together = self._find_together(last_cell)
        self.totals = torch.zeros_like(self.above)
        shape = (layer.cell.gates, self.grid.size, layer.particles)
        self.to_input = torch.zeros(shape, dtype=torch.float32)
        self.to_hidden = torch.zeros(shape, dtype=torch.float32)

    def run(self) -> Returned:
        """Go through the steps."""
        layer, width = self.layer, self.grid.width
        shown = layer.variances.shown
        family = Family(1, self.grid.size, layer.particles, layer.generator)
        for met in range(self.grid.steps):
            rows, until = slice(met * width, (met + 1) * width), (met + 1) * width
            row = self.above[rows, :until].clone()
            if met:
                row[:, width:] += self._pass_matrix(met)
            self.totals[rows, :until], self.totals[:until, rows] = row, row.mT
            hidden = family.draw(row if shown is None else row * shown[1])[0] + self.direct
            self._differentiate(met, hidden)
        both = torch.cat([self.direct, self.cell])
        first = multiply(both, both) * self.together.repeat(2, 2)
        first[:width, :width] += self._pass_matrix(self.grid.steps)[:, -width:]
        return Returned(
            to_input=self._pool(self.to_input),
            to_hidden=self._pool(self.to_hidden),
            shown=self.grid.part(self._reverse(self.totals)),
            first=self.grid.part(first),
            noise=self.grid.vary(
                part for gate in self.to_input for part in gate.split(self.grid.width)
            ),
        )

    def _draw_cell(self, pairs: Tensor | None) -> Tensor:
        if pairs is None:
            return self.layer.draw_state(None).cell
        lead = self.grid.lead
        both = torch.zeros(2, 2 * lead, 2 * lead, dtype=torch.float64)
        both[:, lead:, lead:] = pairs
        return self.layer.draw_state(both).cell

    def _find_together(self, last_cell: Tensor | None) -> Tensor:
        """Return which numbers of a step have gradients in common, (width, width) of 0 and 1.

        Slopes never make independent gradients correlated: where nothing is in common above,
        nothing is below, and noise of the particles there would add up over a large batch.
        """
        width = self.grid.width
        blocks = self.above.view(-1, width, self.above.shape[0] // width, width)
        size = blocks.abs().amax((0, 2))
        if last_cell is not None:
            size = torch.maximum(size, self.grid.join(last_cell).abs())
        return (size > NOTHING * size.max()).double()

    def _keep(self, moments: Tensor) -> Tensor:
        """Return moments (width, n width) of gradients without what is noise."""
        return moments * self.together.repeat(1, moments.shape[1] // self.grid.width)

    def _pass_matrix(self, met: int) -> Tensor:
        """Return the covariances of the latest product with the transpose with those before it."""
        until, back = met * self.grid.width, self.layer.variances.back
        every = self.to_hidden[:, :until]
        gates = [multiply(gate[-self.grid.width :], gate) for gate in every]
        return self.grid.exchange(self._keep(torch.stack(gates).sum(0) * back))

    def _differentiate(self, met: int, hidden: Tensor) -> None:
        """Go back through the cell at one step."""
        step, width = self.grid.steps - 1 - met, self.grid.width
        cell, before = self.layer.cell, self.layer.states[step]
        with torch.enable_grad():
            columns = [c.detach().requires_grad_() for c in self.layer.columns[step]]
            state = State(
                *(part.detach().requires_grad_() for part in (before.hidden, before.cell))
            )
            after = cell.advance(columns, state)
            *found, self.direct, self.cell = torch.autograd.grad(
                [after.hidden, after.cell],
                [*columns, state.hidden, state.cell],
                [hidden, self.cell],
                allow_unused=True,
                materialize_grads=True,
            )
        pairs = list(zip(found, cell.groups, strict=True))
        rows = slice(met * width, (met + 1) * width)
        self.to_input[:, rows] = torch.cat([part for part, group in pairs if group.reads_input])
        self.to_hidden[:, rows] = torch.cat([part for part, group in pairs if group.reads_hidden])

    def _pool(self, gradients: Tensor) -> Tensor:
        """Return pairs (2, P, P), averaged over gates."""
        moments = torch.stack([multiply(gate, gate) for gate in gradients]).mean(0)
        kept = moments * self.together.repeat(self.grid.steps, self.grid.steps)
        return self.grid.part(self._reverse(kept))

    def _reverse(self, matrix: Tensor) -> Tensor:
        """Return a matrix over steps with the steps in reverse order."""
        blocks = matrix.view(self.grid.steps, self.grid.width, self.grid.steps, self.grid.width)
        return blocks.flip(0, 2).reshape(matrix.shape)
