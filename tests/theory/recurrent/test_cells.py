"""The cells' formulas against torch's own cells."""

import pytest
import torch
from torch import nn

from varprobe.theory.recurrent.cells import GRU, LSTM, RELU, TANH, State

WIDTH, BATCH = 5, 7


@pytest.mark.parametrize(
    ("cell", "build"),
    [
        (LSTM, nn.LSTMCell),
        (GRU, nn.GRUCell),
        (TANH, nn.RNNCell),
        (RELU, lambda *sizes: nn.RNNCell(*sizes, nonlinearity="relu")),
    ],
    ids=["lstm", "gru", "tanh", "relu"],
)
def test_a_step_is_torchs(cell, build):
    torch.manual_seed(0)
    module = build(3, WIDTH)
    x, hidden, inner = (torch.randn(BATCH, n) for n in (3, WIDTH, WIDTH))
    given = (hidden, inner) if cell is LSTM else hidden
    expected = module(x, given)
    from_input = (x @ module.weight_ih.mT + module.bias_ih).chunk(cell.gates, 1)
    from_hidden = (hidden @ module.weight_hh.mT + module.bias_hh).chunk(cell.gates, 1)
    both = torch.stack([a + b for a, b in zip(from_input, from_hidden, strict=True)])
    columns = [both]
    if cell is GRU:
        columns = [both[:2], from_input[2][None], from_hidden[2][None]]
    found = cell.advance(columns, State(hidden, inner))
    assert [len(column) for column in columns] == [group.gates for group in cell.groups]
    if cell is LSTM:
        torch.testing.assert_close(found.hidden, expected[0])
        torch.testing.assert_close(found.cell, expected[1])
    else:
        torch.testing.assert_close(found.hidden, expected)


@pytest.mark.parametrize("cell", [LSTM, GRU, TANH, RELU], ids=["lstm", "gru", "tanh", "relu"])
def test_states_are_odd_where_a_cell_says_so(cell):
    torch.manual_seed(0)
    # The gates stay as they are; what the state is made of changes its sign.
    signs = {4: [1, 1, -1, 1], 2: [1, 1], 1: [-1]}
    columns = [torch.randn(group.gates, BATCH) for group in cell.groups]
    turned = [c * torch.tensor(signs[len(c)])[:, None] for c in columns]
    state = State(torch.randn(BATCH), torch.randn(BATCH))
    found = cell.advance(columns, state)
    other = cell.advance(turned, State(-state.hidden, -state.cell))
    assert torch.allclose(found.hidden, -other.hidden, atol=1e-6) is cell.odd
