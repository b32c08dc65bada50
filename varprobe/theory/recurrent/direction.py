"""One direction of a recurrent layer with its parameters: what it shows, and what goes back.

Everything here is in the order of steps, then positions: pairs are `ExplicitPairs` over (T, L).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from varprobe.errors import MissingRuleError
from varprobe.theory.explicit import ExplicitPairs
from varprobe.theory.fluctuations import (
    GradientSpread,
    Spread,
    realize,
    scatter_products,
    scatter_units,
    sum_products,
)
from varprobe.theory.law import Weight, uniform_pairs
from varprobe.theory.pairs import Pairs, choose_dtype
from varprobe.theory.recurrent.cells import Cell
from varprobe.theory.recurrent.grid import Grid
from varprobe.theory.recurrent.layer import Layer, Variances
from varprobe.theory.recurrent.returning import Returned, send_back
from varprobe.theory.weight_means import significant_mean, zero_mean_variance


@dataclass(frozen=True, slots=True)
class Weights:
    """The parameters of one direction of one layer.

    Parameters
    ----------
    from_input, from_hidden : Weight
        The two matrices.
    biases : tuple of Weight
        Two, or none.
    projection : Weight or None
        That of the hidden state.
    """

    from_input: Weight
    from_hidden: Weight
    biases: tuple[Weight, ...]
    projection: Weight | None

    @property
    def listed(self) -> list[Weight]:
        """All of them, in torch's order."""
        last = [] if self.projection is None else [self.projection]
        return [self.from_input, self.from_hidden, *self.biases, *last]

    def find_variances(self, gates: int) -> Variances:
        """Return the variances of sums with these weights."""
        units, shown = self.from_hidden.shape[0] // gates, self.from_hidden.shape[1]
        variance = zero_mean_variance(self.from_hidden)
        if any(significant_mean(bias) for bias in self.biases):
            raise MissingRuleError("a bias of the recurrent layer has a mean")
        first, second = [bias.law.second_moment for bias in self.biases] or [0.0, 0.0]
        projected = None
        if self.projection is not None:
            each = zero_mean_variance(self.projection)
            projected = (each * units, each * shown)
        return Variances(variance * shown, (first, second), variance * units, projected)


@dataclass(frozen=True, slots=True)
class Reading:
    """What a layer reads.

    Parameters
    ----------
    pairs : Pairs
        Summed over equal weights, where a weight meets several positions.
    spread : Spread
        Of it, with the scatter that its number of units really has.
    fan_in : int
        Features.
    taps : int
        Positions that a weight meets at each step.
    """

    pairs: Pairs
    spread: Spread
    fan_in: int
    taps: int = 1


@dataclass(frozen=True, slots=True)
class Shown:
    """An array of states: its pairs, its means and its spread."""

    pairs: Pairs
    means: Tensor
    spread: Spread


@dataclass(frozen=True, slots=True)
class Descent:
    """What goes back from one direction: to what it read, and to its parameters."""

    signal: Pairs
    spread: GradientSpread
    start: Tensor
    weights: list[tuple[float, Spread]]


class Direction:
    """One direction of one layer, after its forward pass.

    Parameters
    ----------
    cell : Cell
        What it computes.
    weights : Weights
        Its parameters.
    reading : Reading
        What it reads.
    grid : Grid
        Of that.
    start : Tensor or None
        Pairs of the state before its first step, as of `Layer`.
    backward : bool
        Whether it goes through the steps from the last to the first.
    """

    def __init__(
        self,
        cell: Cell,
        weights: Weights,
        reading: Reading,
        grid: Grid,
        start: Tensor | None,
        *,
        backward: bool,
    ) -> None:
        self.weights = weights
        self.reading = reading
        self.gates = cell.gates
        self.units = weights.from_hidden.shape[0] // self.gates
        self.features = weights.from_hidden.shape[1]
        self._flipped = torch.arange(grid.steps * grid.lead)
        if backward:
            self._flipped = self._flipped.view(grid.steps, grid.lead).flip(0).flatten()
        self._variance = zero_mean_variance(weights.from_input)
        inputs = self._flip(reading.pairs.values) * (self._variance * reading.fan_in)
        self.layer = Layer(
            cell,
            grid,
            inputs,
            weights.find_variances(self.gates),
            start,
            seed=weights.from_hidden.bit.bit_length(),
        )
        self._follow = self.layer.follow()
        self.shown = self._show()

    def _show(self) -> Shown:
        """Return the states after all steps."""
        pairs = self._make(self._flip(self.layer.shown))
        vary = self.layer.grid.vary(state.hidden for state in self.layer.states[1:])
        spread = self._scatter(vary, pairs, projected=self.weights.projection is not None)
        return Shown(pairs, self.layer.means[self._flipped], spread)

    @property
    def last(self) -> tuple[Shown, Shown]:
        """The state after the last step, hidden and cell."""
        layer, lead = self.layer, self.layer.grid.lead
        both, state = layer.last, layer.states[-1]
        shown, inside = self._make(both[:, :lead, :lead]), self._make(both[:, lead:, lead:])
        projected = self.weights.projection is not None
        hidden, cell = (layer.grid.vary([part]) for part in (state.hidden, state.cell))
        return (
            Shown(shown, layer.means[-lead:], self._scatter(hidden, shown, projected=projected)),
            Shown(inside, torch.zeros(lead).double(), self._scatter(cell, inside, projected=False)),
        )

    def _flip(self, values: Tensor) -> Tensor:
        """Turn pairs from the order of time to that of this direction, or back."""
        return values[:, self._flipped][:, :, self._flipped]

    def _make(self, values: Tensor) -> ExplicitPairs:
        return make_pairs(values, self.layer.grid.samples)

    def _scatter(self, vary: float, pairs: Pairs, *, projected: bool) -> Spread:
        """Return the spread of states, given the scatter of a feature's mean square."""
        below = self.reading.spread
        growth, gain = self._follow
        kernel, own = growth**2 * below.kernel, gain**2 * vary / self.units
        if projected:
            kernel = (1 + kernel) * (1 + own) - 1
            own = scatter_units(pairs, below.gram, self.features)
        return Spread(kernel=kernel, own=own, gram=growth**2 * below.gram)

    def send_back(
        self, above: Pairs, spread: GradientSpread, last: tuple[Pairs | None, Pairs | None]
    ) -> Descent:
        """Return what goes back, given the gradients of what is shown and of the last state."""
        values = self._flip(above.values).double()
        hidden, cell = (None if pairs is None else pairs.values for pairs in last)
        if hidden is not None:
            lead = self.layer.grid.lead
            values[:, -lead:, -lead:] += hidden
        found = send_back(self.layer, values, cell)
        noise = found.noise / self.units
        inner = GradientSpread(
            kernel=(1 + spread.relative_variance) * (1 + noise) - 1,
            gram=spread.gram + 1 / self.units,
        )
        signal = self._make(self._flip(found.to_input))
        return Descent(
            signal=signal * (self._variance * self.units * self.gates),
            spread=inner,
            start=found.first,
            weights=self._multiply(signal, found, inner),
        )

    def _multiply(
        self, signal: Pairs, found: Returned, spread: GradientSpread
    ) -> list[tuple[float, Spread]]:
        """Return second moment and spread of the gradient of each parameter, in torch's order."""
        below, read = self.reading, self._make(self.layer.read)
        to_hidden = self._make(found.to_hidden)
        hidden = realize(self.shown.spread, self.shown.pairs, self.features)
        ones = uniform_pairs(read)
        wanted = [(signal, below.pairs, below.spread), (to_hidden, read, hidden)]
        wanted += [(part, ones, Spread()) for part in (signal, to_hidden)][
            : len(self.weights.biases)
        ]
        if self.layer.variances.shown is not None:
            inside = self._make(self.layer.shown / self.layer.variances.shown[0])
            wanted.append((self._make(found.shown), inside, hidden))
        totals = [sum_products(gradient, inputs) for gradient, inputs, _ in wanted]
        spreads = [
            scatter_products(gradient, spread, inputs, scatter, total)
            for total, (gradient, inputs, scatter) in zip(totals, wanted, strict=True)
        ]
        totals[0] /= below.taps
        return list(zip(totals, spreads, strict=True))


def make_pairs(values: Tensor, samples: int) -> ExplicitPairs:
    """Return pairs (2, P, P) in the precision that their number asks for."""
    return ExplicitPairs(values.to(choose_dtype(values.shape[-1])), samples)
