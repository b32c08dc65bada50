"""Layers of one feature against what can be told without particles."""

import torch

from varprobe.theory.recurrent.cells import TANH, Cell, Group, State
from varprobe.theory.recurrent.grid import Grid
from varprobe.theory.recurrent.layer import Layer, Variances
from varprobe.theory.recurrent.returning import send_back

STEPS = 5
LINEAR = Cell((Group(1, True, True),), lambda columns, s: State(columns[0][0], s.cell), True)
GAIN, BIAS = 0.6, 0.1


def build(cell, samples=4, start=None):
    grid = Grid(STEPS, 1, samples)
    torch.manual_seed(0)
    root = torch.randn(2, STEPS, STEPS, dtype=torch.float64)
    differ = root[0] @ root[0].mT / STEPS
    inputs = torch.stack([differ, differ + root[1] @ root[1].mT / STEPS])
    variances = Variances(GAIN, (BIAS, BIAS), GAIN)
    return Layer(cell, grid, inputs, variances, start, seed=3), inputs


def test_a_linear_layer_has_the_moments_of_its_recursion():
    layer, inputs = build(LINEAR)
    expected = torch.zeros(2, STEPS + 1, STEPS + 1, dtype=torch.float64)
    for s in range(STEPS):
        for t in range(STEPS):
            # E[h_s h_t], both after their step, from the states before.
            value = inputs[:, s, t] + 2 * BIAS + GAIN * expected[:, s, t]
            expected[:, s + 1, t + 1] = value
    torch.testing.assert_close(layer.shown, expected[:, 1:, 1:], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(layer.read, expected[:, :-1, :-1], rtol=1e-3, atol=1e-3)


def test_gradients_of_a_linear_layer_have_theirs():
    layer, _ = build(LINEAR)
    above = torch.zeros(2, STEPS, STEPS, dtype=torch.float64)
    above[1] = torch.eye(STEPS)
    above[0, -1, -1] = above[1, -1, -1] = 2.0
    found = send_back(layer, above, None)
    expected = above.clone()
    for s in reversed(range(STEPS - 1)):
        for t in reversed(range(STEPS - 1)):
            expected[:, s, t] += GAIN * expected[:, s + 1, t + 1]
    torch.testing.assert_close(found.shown, expected, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(found.to_input, expected, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(found.to_hidden, found.to_input)
    first = torch.stack([GAIN * expected[:, 0, 0]]).view(2, 1)
    torch.testing.assert_close(found.first[:, 0, :1], first, rtol=1e-3, atol=1e-3)


def test_independent_gradients_stay_so():
    layer, _ = build(TANH)
    above = torch.zeros(2, STEPS, STEPS, dtype=torch.float64)
    above[1] = torch.eye(STEPS)
    found = send_back(layer, above, None)
    assert not found.to_input[0].any()
    assert bool((found.to_input[1].diagonal() > 0).all())


def test_a_wide_network_has_the_moments():
    layer, inputs = build(TANH)
    generator = torch.Generator().manual_seed(1)
    width = 2000
    # Gaussian products with the input matrix for two samples, and one real recurrent matrix.
    joined = Grid(STEPS, 1, 2).join(inputs)
    root = torch.linalg.cholesky(joined + 1e-9 * torch.eye(len(joined)))
    drawn = root.float() @ torch.randn(2 * STEPS, width, generator=generator)
    drawn += torch.randn(width, generator=generator) * (2 * BIAS) ** 0.5
    matrix = torch.randn(width, width, generator=generator) * (GAIN / width) ** 0.5
    hidden, shown = torch.zeros(2, width), []
    for step in drawn.view(STEPS, 2, width):
        hidden = torch.tanh(step + hidden @ matrix.mT)
        shown.append(hidden)
    states = torch.stack(shown)
    same = torch.einsum("scw,tcw->st", states, states) / (2 * width)
    differ = torch.einsum("sw,tw->st", states[:, 0], states[:, 1]) / width
    differ = (differ + differ.mT) / 2
    # Products of numbers below 1 over 2000 features: a standard error of at most 0.02.
    torch.testing.assert_close(layer.shown[1], same.double(), rtol=0, atol=0.06)
    torch.testing.assert_close(layer.shown[0], differ.double(), rtol=0, atol=0.06)


def test_a_state_that_others_left_is_the_first():
    start = torch.tensor([[4.0, 1.0], [1.0, 2.0]]).double().expand(2, 2, 2)
    layer, inputs = build(LINEAR, start=start)
    torch.testing.assert_close(
        layer.read[:, 0, 0], torch.tensor([4.0, 4.0]).double(), rtol=1e-4, atol=0
    )
    expected = inputs[:, 0, 0] + 2 * BIAS + GAIN * 4.0
    torch.testing.assert_close(layer.shown[:, 0, 0], expected, rtol=1e-3, atol=0)
