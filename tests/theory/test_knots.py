"""Averages of functions of a sum over one summand."""

import pytest
import torch

from varprobe.theory.knots import KNOTS, Knots
from varprobe.theory.pointwise import Pointwise

NORMAL = torch.special.ndtri((torch.arange(400, dtype=torch.float64) + 0.5) / 400)
EVEN = torch.full((400,), 1 / 400, dtype=torch.float64)

FUNCTIONS = {
    "smooth": torch.tanh,
    "kinked": torch.relu,
    "stepped": lambda s: (s > 0).double(),
}


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("size", [1e-3, 1.0, 30.0])
@pytest.mark.parametrize("rectified", [False, True])
def test_is_the_average_over_all_values_of_the_other(name, size, rectified):
    other = size * (NORMAL.relu() if rectified else NORMAL)
    knots = Knots.of(NORMAL, other, EVEN, lambda sums: sums)
    found = knots.average(Pointwise(FUNCTIONS[name]))
    places = torch.linspace(-knots.reach, knots.reach, len(found), dtype=torch.float64)
    expected = FUNCTIONS[name](places[:, None] + other) @ EVEN
    # A grid step; a step of the function is one of the 400 values of the other early or late, or,
    # where the other is smaller than the grid, half a step of the grid.
    step = float(places[1] - places[0])
    tolerance = 1 / 400 + (0.5 if name == "stepped" and size < step else 0.0) + step
    assert float((found - expected).abs().max()) < tolerance
    mean = float((found - expected).mean())
    assert abs(mean) < 2e-3


def test_knows_where_functions_are_asked():
    knots = Knots.of(NORMAL, NORMAL, EVEN, lambda sums: 2 * sums + 1)
    twin = Knots.of(NORMAL, NORMAL, EVEN, lambda sums: sums)
    found = knots.average(Pointwise(lambda x: torch.tanh((x - 1) / 2)))
    assert torch.allclose(found, twin.average(Pointwise(torch.tanh)), atol=1e-12)


def test_no_knot_is_zero_and_the_grid_is_bounded():
    for size in (1e-9, 1e-3, 1.0, 1e3, 1e9):
        knots = Knots.of(NORMAL, size * NORMAL, EVEN, lambda sums: sums)
        assert float(knots.places.abs().min()) > 0
        assert knots.reach >= float(NORMAL.max())
        assert len(knots.places) <= 2 * KNOTS + 4
        assert float(knots.chances.sum()) == pytest.approx(1)
