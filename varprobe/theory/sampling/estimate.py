"""What some draws of the weights tell of a tensor's moments."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from functools import cache

import torch


@dataclass(frozen=True, slots=True)
class Estimate:
    """Moments of a tensor, pooled over draws of the weights.

    Parameters
    ----------
    mean, second_moment : float
        Averages over the draws, in a and a².
    log_std : float
        How far another draw may lie: ±1.96 of it hold 95 % of the draws of ln(second moment). NaN
        where some draws pass nothing and others do.
    draws : int
        How many there were.
    """

    mean: float
    second_moment: float
    log_std: float
    draws: int


class Tally:
    """The moments of each value in each draw."""

    def __init__(self) -> None:
        self._seen: defaultdict[int, list[tuple[float, float]]] = defaultdict(list)

    def add(self, value: int, tensor: torch.Tensor) -> None:
        """Measure one draw of a value; what has no numbers is passed over."""
        if tensor.layout is not torch.strided or tensor.is_nested or not tensor.numel():
            return
        numbers = tensor.detach()
        if numbers.is_complex():
            numbers = torch.view_as_real(numbers.resolve_conj())
        numbers = numbers.double()
        self._seen[value].append((float(numbers.mean()), float(numbers.square().mean())))

    def pool(self) -> dict[int, Estimate]:
        """Return the estimate of every value that was seen in two draws or more."""
        return {value: _pool(seen) for value, seen in self._seen.items() if len(seen) > 1}


@cache
def _widen(draws: int) -> float:
    """Return by how much a bar from few draws is wider than one from the true scatter.

    Where one more Gaussian number falls is known to t(n - 1) · s · sqrt(1 + 1/n) (Student's
    prediction interval), since neither mean nor deviation of the n others is exact: 1.12 for 16.
    """
    from scipy.stats import norm, t

    return float(t.ppf(0.975, draws - 1) / norm.ppf(0.975) * math.sqrt(1 + 1 / draws))


def _pool(seen: list[tuple[float, float]]) -> Estimate:
    means, squares = zip(*seen, strict=True)
    count = len(seen)
    second_moment = math.fsum(squares) / count
    if second_moment == 0.0:
        log_std = 0.0
    elif min(squares) > 0.0 and math.isfinite(second_moment):
        logs = [math.log(square) for square in squares]
        centre = math.fsum(logs) / count
        deviation = math.sqrt(math.fsum((x - centre) ** 2 for x in logs) / (count - 1))
        log_std = deviation * _widen(count)
    else:
        log_std = math.nan
    return Estimate(math.fsum(means) / count, second_moment, log_std, count)
