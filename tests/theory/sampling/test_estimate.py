"""Pooling the moments of several draws."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from varprobe.theory.sampling.estimate import Estimate, Tally


def pool(*tensors: torch.Tensor) -> Estimate | None:
    tally = Tally()
    for tensor in tensors:
        tally.add(7, tensor)
    return tally.pool().get(7)


def test_moments_are_averaged_and_the_scatter_is_that_of_the_logarithm() -> None:
    draws = [torch.randn(5, 3) * scale for scale in (1.0, 2.0, 5.0)]
    squares = [float(draw.double().square().mean()) for draw in draws]
    found = pool(*draws)
    assert found is not None
    assert found.draws == 3
    assert found.mean == pytest.approx(np.mean([float(d.double().mean()) for d in draws]))
    assert found.second_moment == pytest.approx(np.mean(squares))
    # Student's t(2) at 97.5 % is 4.303, the normal distribution's quantile 1.960.
    widened = 4.303 / 1.960 * math.sqrt(1 + 1 / 3)
    assert found.log_std == pytest.approx(widened * np.std(np.log(squares), ddof=1), rel=1e-3)


def test_what_always_passes_nothing_has_no_scatter() -> None:
    assert pool(torch.zeros(3), torch.zeros(3)) == Estimate(0.0, 0.0, 0.0, 2)


def test_what_sometimes_passes_nothing_has_an_unknown_one() -> None:
    found = pool(torch.zeros(3), torch.ones(3))
    assert found is not None
    assert found.second_moment == 0.5
    assert math.isnan(found.log_std)


def test_infinite_numbers_are_said_as_they_are() -> None:
    found = pool(torch.full((3,), math.inf), torch.ones(3))
    assert found is not None
    assert math.isinf(found.second_moment)
    assert math.isnan(found.log_std)


def test_a_complex_array_counts_real_and_imaginary_parts() -> None:
    found = pool(torch.full((2,), 3 + 4j), torch.full((2,), 3 + 4j))
    assert found is not None
    assert found.second_moment == pytest.approx(12.5)


def test_one_draw_is_no_estimate() -> None:
    assert pool(torch.ones(3)) is None


def test_what_has_no_numbers_is_passed_over() -> None:
    assert pool(torch.empty(0), torch.empty(0), torch.eye(2).to_sparse()) is None


def test_the_bar_holds_its_share_of_further_draws() -> None:
    generator = torch.Generator().manual_seed(0)
    held = []
    for _ in range(2000):
        tally = Tally()
        draws = (0.3 * torch.randn(7, generator=generator)).exp()
        for scale in draws[:6]:
            tally.add(0, scale.sqrt() * torch.ones(4))
        log_std = tally.pool()[0].log_std
        # The bar's centre is the mean logarithm; the mean of squares lies log_std²/2 above it.
        centre = float(draws[:6].log().mean())
        held.append(abs(float(draws[6].log()) - centre) < 1.96 * log_std)
    # A standard error of sqrt(.95 * .05 / 2000) = 0.5 %.
    assert np.mean(held) == pytest.approx(0.95, abs=0.02)
