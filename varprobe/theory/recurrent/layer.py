"""One recurrent layer in one direction, as draws of a single feature over all steps.

In a wide layer all features are alike and independent, and what they have in common are second
moments: those of the hidden state at two steps make the covariance of the products with the
recurrent matrix at these steps. So one feature is drawn many times ("particles"), step by step: its
pre-activations from the Gaussian that the moments of the states so far ask for, and the next state
from the cell's own formula.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from varprobe.theory.recurrent.cells import Cell, State
from varprobe.theory.recurrent.family import Family, count_particles
from varprobe.theory.recurrent.grid import Grid, multiply

STRETCH = 1.05
"""Factor by which pre-activations are varied to see how the state follows."""

LEAST_DAMPING = 0.1
"""Of a fluctuation that feeds on itself through the steps: near zero the answer is no number."""


@dataclass(frozen=True, slots=True)
class Variances:
    """Variances of what is summed in a pre-activation.

    Parameters
    ----------
    hidden : float
        Of all weights that meet in a product with the hidden state, together.
    biases : pair of float
        Of the two biases, the input's and the hidden state's.
    back : float
        Of all weights that meet in one gate's part of the way back to the hidden state.
    shown : pair of float, or None
        Of the weights that meet in the projection of the hidden state, forward and back.
    """

    hidden: float
    biases: tuple[float, float]
    back: float
    shown: tuple[float, float] | None = None


class Layer:
    """One direction of one layer, drawn from the pairs of what its input matrix makes.

    Parameters
    ----------
    cell : Cell
        What it computes.
    grid : Grid
        Of what it reads.
    inputs : Tensor
        Pairs (2, P, P) of products with the input matrix, without bias.
    variances : Variances
        Of weights and biases.
    start : Tensor or None
        Pairs (2, 2 L, 2 L) of the state before the first step, the hidden state and then the cell;
        None for zero.
    seed : int
        Of the draws.
    """

    def __init__(
        self,
        cell: Cell,
        grid: Grid,
        inputs: Tensor,
        variances: Variances,
        start: Tensor | None,
        seed: int,
    ) -> None:
        self.cell = cell
        self.grid = grid
        self.variances = variances
        self.particles = count_particles(grid.size)
        self.generator = torch.Generator().manual_seed(seed)
        self.columns: list[list[Tensor]] = []
        self.states = [self.draw_state(start)]
        size = (grid.steps + 1) * grid.width
        self._moments = torch.zeros(size, size, dtype=torch.float64)
        self._hidden = torch.zeros(size, self.particles, dtype=torch.float32)
        self._run(grid.join(inputs))

    def draw_state(self, pairs: Tensor | None) -> State:
        """Return Gaussian draws of a state, or of its gradient, from pairs (2, 2 L, 2 L)."""
        if pairs is None:
            zero = torch.zeros(self.grid.width, self.particles, dtype=torch.float32)
            return State(zero, zero)
        covariances = self.grid.join(pairs)
        family = Family(1, len(covariances), self.particles, self.generator)
        return State(*family.draw(covariances)[0].chunk(2))

    def _run(self, inputs: Tensor) -> None:
        width, (bias_input, bias_hidden) = self.grid.width, self.variances.biases
        families = [
            Family(group.gates, self.grid.size, self.particles, self.generator)
            for group in self.cell.groups
        ]
        for step in range(self.grid.steps):
            self._measure(step)
            rows, until = slice(step * width, (step + 1) * width), (step + 1) * width
            from_input = inputs[rows, :until] + bias_input
            from_hidden = self._moments[rows, :until] * self.variances.hidden + bias_hidden
            columns = [
                family.draw(group.reads_input * from_input + group.reads_hidden * from_hidden)
                for family, group in zip(families, self.cell.groups, strict=True)
            ]
            self.columns.append(columns)
            self.states.append(self.cell.advance(columns, self.states[-1]))
        self._measure(self.grid.steps)
        self._drive = inputs.diagonal().mean() + bias_input + bias_hidden

    def _measure(self, step: int) -> None:
        """Take the moments of the state before a step with all before it."""
        width = self.grid.width
        rows, until = slice(step * width, (step + 1) * width), (step + 1) * width
        self._hidden[rows] = self.states[step].hidden
        moments = self.grid.exchange(multiply(self._hidden[rows], self._hidden[:until]))
        if self.variances.shown is not None and step:
            moments = moments * self.variances.shown[0]
            # A projection is independent of the state before the first step.
            moments[:, :width] = 0
        self._moments[rows, :until] = moments
        self._moments[:until, rows] = moments.mT

    @property
    def shown(self) -> Tensor:
        """Pairs of the hidden state after each step, (2, P, P)."""
        width = self.grid.width
        return self.grid.part(self._moments[width:, width:])

    @property
    def read(self) -> Tensor:
        """Pairs of the hidden state before each step, (2, P, P)."""
        width = self.grid.width
        return self.grid.part(self._moments[:-width, :-width])

    @property
    def last(self) -> Tensor:
        """Pairs of the state after the last step, hidden and then cell, (2, 2 L, 2 L)."""
        width, state = self.grid.width, self.states[-1]
        both = torch.cat([state.hidden, state.cell])
        moments = multiply(both, both)
        if self.variances.shown is not None:
            moments[:width] = moments[:, :width] = 0
        moments[:width, :width] = self._moments[-width:, -width:]
        return self.grid.part(moments)

    @property
    def means(self) -> Tensor:
        """Mean of the hidden state after each step, (P,); zero behind a projection."""
        hidden = torch.stack([state.hidden for state in self.states[1:]])
        means = hidden.double().mean(-1).view(-1, self.grid.copies, self.grid.lead).mean(1)
        known = self.cell.odd or self.variances.shown is not None
        return torch.zeros_like(means).flatten() if known else means.flatten()

    def follow(self) -> tuple[float, float]:
        """Return how the second moment of the state follows what scatters.

        By how much its logarithm follows that of the products with the input matrix; and what the
        scatter of the feature's own moments is multiplied with through the steps.
        """
        state, before, after = self.states[0], 0.0, 0.0
        for columns, plain in zip(self.columns, self.states[1:], strict=True):
            state = self.cell.advance([column * STRETCH for column in columns], state)
            before += float(plain.hidden.square().mean())
            after += float(state.hidden.square().mean())
        growth = math.log(max(after, 1e-300) / max(before, 1e-300)) / (2 * math.log(STRETCH))
        width = self.grid.width
        fed = self._moments.diagonal()[:-width].mean() * self.variances.hidden
        total = float(fed + self._drive)
        outside = float(self._drive) - sum(self.variances.biases)
        gain = 1 / max(LEAST_DAMPING, 1 - growth * float(fed) / total)
        return growth * outside / total * gain, gain
