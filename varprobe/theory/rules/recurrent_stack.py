"""A whole recurrent operation: its layers above each other, and the laws that it shows.

Outside the batch comes first and then the steps; inside of the layers the steps come first.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce

import torch
from torch import Tensor

from varprobe.errors import MissingRuleError
from varprobe.theory.expectations import Field
from varprobe.theory.explicit import ExplicitPairs
from varprobe.theory.fluctuations import (
    GradientSpread,
    Spread,
    join_spreads,
    realize,
    scatter_units,
)
from varprobe.theory.grouped import GroupedPairs, group
from varprobe.theory.law import Downstream, Gradient, Known, Law, Value, Weight, WeightGradient
from varprobe.theory.layout import Axis, Dim, Layout, Role
from varprobe.theory.pairs import MOST_EXPLICIT, Pairs
from varprobe.theory.recurrent.cells import Cell
from varprobe.theory.recurrent.direction import (
    Descent,
    Direction,
    Reading,
    Shown,
    Weights,
    make_pairs,
)
from varprobe.theory.recurrent.grid import Grid
from varprobe.theory.rules.contraction import Contraction, realize_gradient
from varprobe.theory.standing import Standing

SAMPLED = "recurrent layer: averaged over particles of one feature"

SHARED = "weights are used more than once"


@dataclass(frozen=True)
class Call:
    """The arguments of one recurrent operation."""

    cell: Cell
    weights: list[list[Weights]]
    start: Sequence[Value]
    keep: float


class Stack:
    """All layers of one operation.

    Parameters
    ----------
    call : Call
        The operation.
    x : Law
        Its input, (batch, time, features).
    shape : Contraction
        The product with the input matrices of the first layer.
    """

    def __init__(self, call: Call, x: Law, shape: Contraction) -> None:
        self.call, self.x, self.shape = call, x, shape
        dims = x.layout.dims
        steps = x.layout.shape[1]
        if x.layout.positions_of(1) != steps:
            raise MissingRuleError("steps that are not told apart")
        if not x.layout.only(1, Role.POSITION) or any(a.role is Role.FEATURE for a in dims[0]):
            raise MissingRuleError("the dimensions are not samples, steps and features")
        pairs = self.shape.forward(x.pairs)
        if isinstance(pairs, GroupedPairs):
            pairs = pairs.to_explicit()
        if not isinstance(pairs, ExplicitPairs) or pairs.positions > MOST_EXPLICIT:
            raise MissingRuleError("more steps than can be told apart in pairs")
        lead = pairs.positions // steps
        self.grid = Grid(steps, lead, pairs.samples)
        # Steps come first inside of the layers.
        self.order = torch.arange(pairs.positions).view(lead, steps).mT.flatten()
        self.back = torch.argsort(self.order)
        self.start = self._read_start()
        self.directions = self._build(pairs)
        self.standing = self._stand(call.weights[-1])
        self.shown = self._show()
        self.last = self._finish()

    def _read_start(self) -> list[Tensor | None]:
        """Return the pairs (2, 2 L, 2 L) of the first state of every direction; None for zero."""
        count, lead, values = self.count, self.grid.lead, self.call.start
        if all(isinstance(value, Known) and not bool(value.tensor.any()) for value in values):
            return [None] * count
        before = _find_origin(values)
        if before is not None and before.count == count and before.fits(self.grid):
            return [direction.layer.last for layer in before.directions for direction in layer]
        found = torch.zeros(count, 2, 2 * lead, 2 * lead, dtype=torch.float64)
        for which, value in enumerate(values):
            rows = slice(which * lead, (which + 1) * lead)
            found[:, :, rows, rows] = self._read_state(value)
        return list(found)

    def _read_state(self, value: Value) -> Tensor:
        """Return the pairs (directions, 2, L, L) of a hidden state or a cell."""
        if isinstance(value, Known) and not bool(value.tensor.any()):
            return torch.zeros((), dtype=torch.float64)
        if not isinstance(value, Law):
            raise MissingRuleError("a state before the first step with numbers of its own")
        dims = value.layout.dims
        fits = dims[1] == self.x.layout.dims[0] and value.layout.positions_of(0) == self.count
        if not fits or value.pairs.samples != self.grid.samples:
            raise MissingRuleError("a state before the first step with other axes than the input")
        pairs = value.pairs.to_explicit().values.double()
        blocks = pairs.view(2, self.count, self.grid.lead, self.count, self.grid.lead)
        return blocks.diagonal(dim1=1, dim2=3).movedim(-1, 0)

    def fits(self, grid: Grid) -> bool:
        """Tell whether one step of another operation has the same positions and samples."""
        return (self.grid.lead, self.grid.samples) == (grid.lead, grid.samples)

    @property
    def count(self) -> int:
        """Directions of all layers."""
        return sum(len(layer) for layer in self.call.weights)

    def _build(self, pairs: Pairs) -> list[list[Direction]]:
        x = self.x
        spread = realize(x.field_spread, x.pairs, x.features) if x.is_field else x.spread
        ordered = make_pairs(pairs.gather(self.order).values, self.grid.samples)
        reading = Reading(ordered, spread, self.shape.fan_in, self.shape.taps)
        built: list[list[Direction]] = []
        for number, layer in enumerate(self.call.weights):
            starts = self.start[number * len(layer) :]
            built.append(
                [
                    Direction(self.call.cell, weights, reading, self.grid, start, backward=turned)
                    for weights, start, turned in zip(layer, starts, (False, True), strict=False)
                ]
            )
            reading = self._read_next(built[-1])
        return built

    def _read_next(self, directions: Sequence[Direction]) -> Reading:
        pairs = _average([d.shown.pairs for d in directions])
        spread = _mix_spreads([d.shown for d in directions])
        features = sum(d.features for d in directions)
        spread = realize(spread, pairs, features)
        thinned = pairs.add_diagonal(pairs.second_moments * (1 / self.call.keep - 1))
        return Reading(thinned, spread, features)

    def _stand(self, weights: Sequence[Weights]) -> Standing:
        """Return how states of these weights stand: odd in them, if nothing else has met them."""
        standing, own = self.x.standing.approximate(SAMPLED), 0
        for weight in self._list_weights():
            own |= weight.bit
        shared = bool(own & standing.touched)
        if shared:
            standing = replace(standing, reason=SHARED)
        begun = any(state is not None for state in self.start)
        odd = self.call.cell.odd and not begun and not shared
        standing = replace(standing, touched=standing.touched | own)
        return _refresh(standing, [w.from_input.bit for w in weights] if odd else [])

    def _list_weights(self) -> list[Weight]:
        every = [weights for layer in self.call.weights for weights in layer]
        return [weight for weights in every for weight in weights.listed]

    def _show(self) -> Law:
        """Return the law of the states of the last layer at all steps."""
        directions = self.directions[-1]
        pairs = _average([d.shown.pairs for d in directions]).gather(self.back)
        means = torch.stack([d.shown.means for d in directions]).mean(0)[self.back]
        features = sum(d.features for d in directions)
        return Law(
            layout=self.x.layout.replace(2, _features(features)),
            field=Field(pairs, means, gaussian=False),
            standing=self.standing,
            field_spread=_mix_spreads([d.shown for d in directions]),
        )

    def _finish(self) -> list[Law]:
        """Return the laws of the last states: (directions of all layers, batch, features)."""
        every = [direction for layer in self.directions for direction in layer]
        weights = [direction.weights for direction in every]
        count, found = self.count, []
        for which in range(len(self.call.start)):
            lasts = [direction.last[which] for direction in every]
            means = torch.cat([last.means for last in lasts])
            pairs = self._stack_last([last.pairs for last in lasts], means)
            features = every[0].features if which == 0 else every[0].units
            axes = (Axis(Role.POSITION, count),) if count > 1 else ()
            found.append(
                Law(
                    layout=Layout((axes, self.x.layout.dims[0], _features(features))),
                    field=_LastState(pairs, means, gaussian=False, stack=self),
                    standing=self._stand(weights),
                    field_spread=_mix_spreads(lasts),
                )
            )
        return found

    def send_back(
        self, above: Gradient | None, last: Sequence[Gradient | None]
    ) -> tuple[Gradient, list[Downstream]]:
        """Return the gradient of x, and those of the first states and the parameters, in order."""
        arrived = [g for g in (above, *last) if g is not None]
        spread = join_spreads(
            [realize_gradient(g) for g in arrived],
            [g.pairs for g in arrived],
            [g.pairs.mean for g in arrived],
            arrived[0].layout.count(Role.FEATURE),
        )
        standing = reduce(Standing.merge, [g.standing for g in arrived])
        standing = standing.inherit(self.standing).approximate(SAMPLED)
        for weight in self._list_weights():
            standing = replace(standing, touched=standing.touched | weight.bit)
        lasts = [self._deal_last(gradient) for gradient in last]
        descents: list[list[Descent]] = []
        signal = self._receive(above)
        for number in range(len(self.directions) - 1, -1, -1):
            directions = self.directions[number]
            first = number * len(directions)
            found = []
            for i, direction in enumerate(directions):
                hidden, *cell = (dealt[first + i] for dealt in lasts)
                ends = (hidden, cell[0] if cell else None)
                found.append(direction.send_back(signal[i], spread, ends))
            descents.insert(0, found)
            signals = [d.signal for d in found]
            total = _add(signals)
            spread = join_spreads(
                [d.spread for d in found],
                signals,
                [pairs.mean for pairs in signals],
                directions[0].reading.fan_in,
            )
            thinned = total.add_diagonal(total.second_moments * (1 / self.call.keep - 1))
            signal = [thinned] * len(directions)
        starts = self._return_starts(descents, standing)
        weights = self._return_weights(descents, standing)
        return self._descend(total, spread, standing), [*starts, *weights]

    def _receive(self, above: Gradient | None) -> list[Pairs]:
        """Return the gradient of what each direction of the last layer shows."""
        directions = self.directions[-1]
        if above is None:
            return [directions[0].shown.pairs * 0.0] * len(directions)
        pairs = make_pairs(above.pairs.to_explicit().gather(self.order).values, self.grid.samples)
        if above.support is None:
            return [pairs] * len(directions)
        halves = above.support.double().chunk(len(directions))
        level = float(above.support.double().mean())
        return [pairs * (float(half.mean()) / level) for half in halves]

    def _deal_last(self, gradient: Gradient | None) -> list[Pairs | None]:
        """Return the gradient of the last state of each direction."""
        if gradient is None:
            return [None] * self.count
        lead = torch.arange(self.grid.lead)
        pairs = gradient.pairs.to_explicit()
        return [pairs.gather(lead + i * self.grid.lead) for i in range(self.count)]

    def _descend(self, signal: Pairs, spread: GradientSpread, standing: Standing) -> Gradient:
        """Return the gradient of x."""
        x = self.x
        down = self.shape.adjoint(signal.gather(self.back))
        if isinstance(x.pairs, GroupedPairs):
            down = group(down)
        own = scatter_units(down, spread.gram, x.features)
        bits = [weights.from_input.bit for weights in self.call.weights[0]]
        return Gradient(
            layout=x.layout,
            signal=down,
            standing=_refresh(standing, bits),
            signal_spread=replace(spread, own=own),
        )

    def _return_starts(
        self, descents: Sequence[Sequence[Descent]], standing: Standing
    ) -> list[Gradient | None]:
        """Return the gradients of the states before the first step, where they have laws."""
        every = [descent for layer in descents for descent in layer]
        found: list[Gradient | None] = []
        for which, value in enumerate(self.call.start):
            if not isinstance(value, Law):
                found.append(None)
                continue
            rows = slice(which * self.grid.lead, (which + 1) * self.grid.lead)
            blocks = [make_pairs(d.start[:, rows, rows], self.grid.samples) for d in every]
            pairs = self._stack_last(blocks, None)
            spread = every[0].spread
            own = scatter_units(pairs, spread.gram, value.features)
            found.append(
                Gradient(
                    layout=value.layout,
                    signal=pairs,
                    standing=replace(standing, fresh=0, terms=()),
                    signal_spread=replace(spread, own=own),
                )
            )
        return found

    def _return_weights(
        self, descents: Sequence[Sequence[Descent]], standing: Standing
    ) -> list[WeightGradient]:
        return [
            WeightGradient(total, spread, standing)
            for layer in descents
            for descent in layer
            for total, spread in descent.weights
        ]

    def _stack_last(self, blocks: Sequence[Pairs], means: Tensor | None) -> Pairs:
        """Return the pairs of arrays of one step each, behind each other."""
        lead = self.grid.lead
        size = lead * len(blocks)
        values = torch.zeros(2, size, size, dtype=torch.float64)
        if means is not None:
            values += torch.outer(means, means)
        for i, block in enumerate(blocks):
            rows = slice(i * lead, (i + 1) * lead)
            values[:, rows, rows] = block.values.double()
        return make_pairs(values, self.grid.samples)


@dataclass(frozen=True)
class _LastState(Field):
    """The field of the last hidden states, or of the last cells, of a whole operation.

    Hidden state and cell depend on each other; whoever begins with both finds here how.
    """

    stack: Stack = dataclasses.field(kw_only=True)


def _find_origin(values: Sequence[Value]) -> Stack | None:
    """Return the operation whose last state this is: the hidden state and the cell go together."""
    fields = [value.field for value in values if isinstance(value, Law)]
    stacks = [field.stack for field in fields if isinstance(field, _LastState)]
    together = len(stacks) == len(values) and all(stack is stacks[0] for stack in stacks)
    if not together or any(
        field is not law.field for field, law in zip(fields, stacks[0].last, strict=True)
    ):
        return None
    return stacks[0]


def _refresh(standing: Standing, bits: Sequence[int]) -> Standing:
    """Return the standing of features that are each linear in a weight of one of these bits."""
    if len(bits) == 1:
        return replace(standing, fresh=bits[0], terms=())
    return replace(standing, fresh=0, terms=tuple(bits))


def _features(count: int) -> Dim:
    return (Axis(Role.FEATURE, count),) if count > 1 else ()


def _add(parts: Sequence[Pairs]) -> Pairs:
    return reduce(lambda first, second: first + second, parts)


def _average(parts: Sequence[Pairs]) -> Pairs:
    """Return the pairs of features side by side: those of a feature of either kind."""
    return _add(parts) * (1 / len(parts))


def _mix_spreads(parts: Sequence[Shown]) -> Spread:
    """Return the spread of features side by side, which scatter together with what is below."""
    sizes = [max(part.pairs.mean, 0.0) for part in parts]
    shares = [size / max(sum(sizes), 1e-300) for size in sizes]
    every = list(zip(shares, [part.spread for part in parts], strict=True))
    return Spread(
        kernel=sum(share * math.sqrt(spread.kernel) for share, spread in every) ** 2,
        own=sum(share**2 * spread.own for share, spread in every),
        gram=sum(share * spread.gram for share, spread in every),
    )
