"""Products with one weight matrix, drawn one after the other.

Over draws of a matrix of zero mean, what it makes of several inputs is jointly Gaussian, and the
covariance of two products is that of their inputs. A first product is a fresh Gaussian; a later one
is drawn conditionally on all before it. That its input may depend on the earlier products changes
nothing in the limit of many features (Yang 2019, "Tensor programs I").
"""

from __future__ import annotations

import torch
from torch import Tensor

JITTER = 1e-9
"""Share of a product's variance below which it is taken as told by those before it."""

TINY = 1e-60
"""Variance of a product with nothing."""

FEWEST_PARTICLES = 4096

MOST_NUMBERS = 2**20
"""Numbers in all products of one gate, where they are few: then there are more particles."""


def count_particles(products: int) -> int:
    """Return how many draws of a feature to make for so many products."""
    return max(FEWEST_PARTICLES, 1 << (MOST_NUMBERS // products).bit_length() - 1)


class Family:
    """The products with one matrix in the order in which they are drawn.

    Parameters
    ----------
    gates : int
        Blocks of rows, independent and of one law.
    products : int
        How many will be drawn in all.
    particles : int
        Draws of a feature.
    generator : torch.Generator
        What draws.
    """

    def __init__(
        self, gates: int, products: int, particles: int, generator: torch.Generator
    ) -> None:
        self._root = torch.zeros(products, products, dtype=torch.float64)
        self._drawn = 0
        self._sources = torch.stack(
            [_draw_sources(products, particles, generator) for _ in range(gates)]
        )

    def draw(self, covariances: Tensor) -> Tensor:
        """Return the next products, (gates, k, particles), float32.

        Parameters
        ----------
        covariances : Tensor
            With all earlier products and with each other, (k, earlier + k), float64.
        """
        count, done = len(covariances), self._drawn
        known = self._root[:done, :done]
        told = torch.linalg.solve_triangular(known, covariances[:, :done].mT, upper=False).mT
        rest = covariances[:, done:] - told @ told.mT
        rows = slice(done, done + count)
        self._root[rows, :done] = told
        floor = TINY + JITTER * float(covariances[:, done:].diagonal().mean())
        self._root[rows, rows] = _take_root(rest, floor)
        self._drawn += count
        return self._root[rows, : self._drawn].float() @ self._sources[:, : self._drawn]


def _take_root(covariances: Tensor, floor: float) -> Tensor:
    """Return a lower triangular root, what rounding has made too small or negative lifted."""
    values, vectors = torch.linalg.eigh((covariances + covariances.mT) / 2)
    root = vectors * values.clamp_min(floor).sqrt()
    found: Tensor = torch.linalg.qr(root.mT).R.mT
    return found


def _draw_sources(count: int, particles: int, generator: torch.Generator) -> Tensor:
    """Return standard normals (count, particles) of mean 0, variance 1 and no correlation.

    So for the numbers that are drawn, not only on average: what is linear in them is then exact.
    """
    drawn = torch.randn(count, particles, generator=generator, dtype=torch.float32)
    drawn -= drawn.mean(1, keepdim=True)
    gram = (drawn @ drawn.mT).double() / particles
    root = torch.linalg.cholesky(gram).float()
    found: Tensor = torch.linalg.solve_triangular(root, drawn, upper=False)
    return found
