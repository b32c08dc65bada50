"""Pairs and joint moments are two forms of the same."""

import pytest
import torch

from varprobe.theory.recurrent.grid import Grid, multiply


@pytest.mark.parametrize(("lead", "samples"), [(1, 5), (3, 1), (2, 4)])
def test_pairs_come_back(lead, samples):
    grid = Grid(4, lead, samples)
    pairs = torch.randn(2, 4 * lead, 4 * lead, dtype=torch.float64)
    pairs = pairs + pairs.mT
    if samples == 1:
        pairs[0] = 0
    joined = grid.join(pairs)
    assert joined.shape == (grid.size, grid.size)
    torch.testing.assert_close(grid.part(joined), pairs)
    # Every entry is told by whether copies agree, one by one.
    for row in range(grid.size):
        for column in range(grid.size):
            (s, c, i), (t, d, j) = (
                (n // grid.width, n // lead % grid.copies, n % lead) for n in (row, column)
            )
            expected = pairs[int(c == d), s * lead + i, t * lead + j]
            assert joined[row, column] == expected


def test_the_order_of_copies_does_not_matter():
    grid = Grid(3, 2, 8)
    x = torch.randn(grid.size, 50)
    moments = multiply(x[: grid.width], x)
    swapped = x.view(3, 2, 2, 50).flip(1).reshape(grid.size, 50)
    expected = (moments + multiply(swapped[: grid.width], swapped)) / 2
    torch.testing.assert_close(grid.exchange(moments), expected)


def test_the_scatter_of_a_mean_over_a_batch():
    # Two copies of variance 2 (chi-squared) that have a share in common.
    torch.manual_seed(0)
    common, own = torch.randn(1, 400_000), torch.randn(2, 400_000)
    x = common * 0.8**0.5 + own * 0.2**0.5
    # Cov(x², y²) = 2 ρ², and over 10 samples 2 (1 + 9 ρ²) / 10; 4th moments to about 1 %.
    expected = 2 * (1 + 9 * 0.8**2) / 10
    assert Grid(1, 1, 10).vary([x]) == pytest.approx(expected, rel=0.03)
