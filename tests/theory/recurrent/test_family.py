"""Products drawn one after the other have the covariance that was asked for."""

import pytest
import torch

from varprobe.theory.recurrent.family import (
    FEWEST_PARTICLES,
    MOST_NUMBERS,
    Family,
    count_particles,
)
from varprobe.theory.recurrent.grid import multiply

PARTICLES = 2048


def draw_all(covariances, sizes, gates=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    family = Family(gates, len(covariances), PARTICLES, generator)
    drawn, until = [], 0
    for size in sizes:
        rows, until = slice(until, until + size), until + size
        drawn.append(family.draw(covariances[rows, :until]))
    return torch.cat(drawn, 1)


@pytest.mark.parametrize("sizes", [[6], [1] * 6, [2, 3, 1]])
def test_the_numbers_themselves_have_the_covariance(sizes):
    torch.manual_seed(0)
    root = torch.randn(6, 6, dtype=torch.float64)
    covariances = root @ root.mT
    drawn = draw_all(covariances, sizes)
    for gate in drawn:
        # Sources are orthonormal up to the rounding of float32.
        torch.testing.assert_close(multiply(gate, gate), covariances, rtol=1e-4, atol=1e-4)
        assert float(gate.mean(1).abs().max()) < 1e-5
    # Gates are independent: 1/sqrt(2048) = 0.02 for each of 36 correlations.
    scales = covariances.diagonal().sqrt()
    assert float((multiply(*drawn) / torch.outer(scales, scales)).abs().max()) < 0.12


def test_a_product_that_was_there_before_is_drawn_again():
    covariances = torch.ones(3, 3, dtype=torch.float64)
    drawn = draw_all(covariances, [1, 1, 1])
    torch.testing.assert_close(drawn[:, 1], drawn[:, 0], rtol=0, atol=1e-3)
    torch.testing.assert_close(drawn[:, 2], drawn[:, 0], rtol=0, atol=1e-3)


def test_products_with_nothing_are_nothing_and_disturb_nobody():
    covariances = torch.diag(torch.tensor([0.0, 4.0, 0.0], dtype=torch.float64))
    drawn = draw_all(covariances, [1, 1, 1])
    assert float(drawn[:, ::2].abs().max()) < 1e-20
    assert float(drawn[0, 1].square().mean()) == pytest.approx(4.0, rel=1e-5)


def test_the_seed_decides():
    covariances = torch.eye(2, dtype=torch.float64)
    before = torch.get_rng_state()
    assert torch.equal(draw_all(covariances, [1, 1]), draw_all(covariances, [1, 1]))
    assert not torch.equal(draw_all(covariances, [1, 1]), draw_all(covariances, [1, 1], seed=1))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("products", [1, 40, 300, 2600])
def test_few_products_have_more_particles(products):
    particles = count_particles(products)
    assert particles > products
    assert particles == FEWEST_PARTICLES or particles * products <= MOST_NUMBERS
