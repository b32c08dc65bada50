from __future__ import annotations

import math

import pytest
import torch

from varprobe.identification.independence import _find_upper_tail, judge_independence
from varprobe.identification.numbers import Numbers


@pytest.mark.parametrize("shape", [(8, 8), (64, 64), (16, 300), (300, 16), (400, 400)])
def test_independent_numbers_pass(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    samples = [torch.randn(shape), torch.rand(shape), torch.rand(shape) - 0.5]
    samples += [torch.randn(shape) for _ in range(30)]
    # 33 samples: the smallest p-value is below 1e-5 once in 3,000 runs.
    assert min(judge_independence(Numbers(sample)) for sample in samples) > 1e-5


def test_one_direction_stands_out_from_the_theory_of_random_matrices_on() -> None:
    # Baik, Ben Arous and Péché 2005: a spike of strength s is seen if s² > sqrt(aspect ratio).
    torch.manual_seed(1)
    n = 128
    noise = torch.randn(n, n)
    left, right = (torch.randn(n, 1) / math.sqrt(n) for _ in range(2))
    spike = math.sqrt(n) * left @ right.T
    assert judge_independence(Numbers(noise + 0.5 * spike)) > 1e-3
    assert judge_independence(Numbers(noise + 3 * spike)) < 1e-9


def test_repeated_rows_are_not_independent() -> None:
    torch.manual_seed(2)
    assert judge_independence(Numbers(torch.randn(32, 64).repeat(2, 1))) < 1e-6


def test_vectors_are_not_judged() -> None:
    assert judge_independence(Numbers(torch.linspace(-1, 1, 2000))) == 1.0


def test_the_tail_is_that_of_the_tracy_widom_law() -> None:
    # Its quantiles, as tabulated for order 1. The asymptote comes nearer from above.
    errors = [
        _find_upper_tail(deviate) / tail - 1
        for deviate, tail in [(2.0234, 0.01), (2.4224, 0.005), (3.2724, 0.001)]
    ]
    assert errors == sorted(errors, reverse=True)
    assert 0 < errors[-1] < 0.15
    assert _find_upper_tail(0.0) == 1.0
