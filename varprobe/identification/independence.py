"""Whether the numbers of a matrix know of each other, as those of a trained one do.

Gradients are outer products: training adds a few strong directions, while a histogram may stay
normal for long. The largest eigenvalue of the Gram matrix of independent numbers ends where random
matrix theory says (Johnstone 2001, "On the distribution of the largest eigenvalue in principal
components analysis", with the centring of Ma 2012, "Accuracy of the Tracy-Widom limits").
"""

from __future__ import annotations

import math

import torch

from varprobe.identification.numbers import Numbers

MIN_VECTORS = 4
"""Of fewer, the law of the largest eigenvalue is not that of many."""


def judge_independence(numbers: Numbers) -> float:
    """Return how often independent numbers have a stronger direction; 1 where none stands out.

    Examples
    --------
    >>> noise = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
    >>> spike = torch.linspace(-0.8, 0.8, 64)
    >>> judge_independence(Numbers(noise)) > 0.01, judge_independence(Numbers(noise + spike)) < 1e-9
    (True, True)
    """
    vectors = numbers.vectors
    count, length = vectors.shape
    if count < MIN_VECTORS:
        return 1.0
    deviation = (vectors - numbers.centre) / math.sqrt(numbers.variance)
    largest = float(torch.linalg.eigvalsh(deviation @ deviation.mT)[-1])
    sides = math.sqrt(length - 0.5), math.sqrt(count - 0.5)
    scale = sum(sides) * math.cbrt(1 / sides[0] + 1 / sides[1])
    return _find_upper_tail((largest - sum(sides) ** 2) / scale)


def _find_upper_tail(deviate: float) -> float:
    """Return the chance that a Tracy-Widom variable (of real matrices) is larger: its asymptote.

    A fifth too large at 2, a seventh at 3, and ever nearer. Below 1, where nothing stands out, 1.
    """
    if deviate <= 1:
        return 1.0
    return math.exp(-2 / 3 * deviate * math.sqrt(deviate)) / (
        4 * math.sqrt(math.pi) * math.sqrt(deviate * math.sqrt(deviate))
    )
