"""What recurrent cells compute of their pre-activations: one feature, without its matrices.

A pre-activation is a column: a sum of what the layer's input gives it and what its hidden state
gives it. Columns that both matrices feed as a sum are one Gaussian; the candidate of a GRU reads
them apart.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class State:
    """What a cell hands to the next step; ``cell`` is zero where there is none."""

    hidden: Tensor
    cell: Tensor


@dataclass(frozen=True, slots=True)
class Group:
    """Columns of one law: as many as gates, fed by the input, the hidden state, or both."""

    gates: int
    reads_input: bool
    reads_hidden: bool


@dataclass(frozen=True, slots=True)
class Cell:
    """One kind of cell.

    Parameters
    ----------
    groups : tuple of Group
        Its columns.
    advance : callable
        The next state, from one tensor (gates, ...) for each group and the state before.
    odd : bool
        Whether the new state changes its sign with that of some columns and the state before: then
        it has mean zero and is uncorrelated with whatever has not met its weights.
    """

    groups: tuple[Group, ...]
    advance: Callable[[Sequence[Tensor], State], State]
    odd: bool

    @property
    def gates(self) -> int:
        """Blocks of rows in each of the two matrices."""
        return sum(group.gates for group in self.groups if group.reads_hidden)


def _advance_lstm(columns: Sequence[Tensor], state: State) -> State:
    """Hochreiter and Schmidhuber 1997, with the forget gate of Gers et al. 2000."""
    write, forget, candidate, show = columns[0]
    kept = torch.sigmoid(forget) * state.cell
    cell = kept + torch.sigmoid(write) * torch.tanh(candidate)
    return State(torch.sigmoid(show) * torch.tanh(cell), cell)


def _advance_gru(columns: Sequence[Tensor], state: State) -> State:
    """Cho et al. 2014, with the reset gate behind the matrix, as in torch."""
    (reset, keep), (from_input,), (from_hidden,) = columns
    candidate = torch.tanh(from_input + torch.sigmoid(reset) * from_hidden)
    share = torch.sigmoid(keep)
    return State((1 - share) * candidate + share * state.hidden, state.cell)


def _advance_plain(function: Callable[[Tensor], Tensor]) -> Callable[..., State]:
    return lambda columns, state: State(function(columns[0][0]), state.cell)


LSTM = Cell((Group(4, True, True),), _advance_lstm, odd=True)
GRU = Cell((Group(2, True, True), Group(1, True, False), Group(1, False, True)), _advance_gru, True)
TANH = Cell((Group(1, True, True),), _advance_plain(torch.tanh), odd=True)
RELU = Cell((Group(1, True, True),), _advance_plain(torch.relu), odd=False)
