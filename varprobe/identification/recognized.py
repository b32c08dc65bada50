"""What can be said about the distribution that a tensor was drawn from."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

DISTRIBUTIONS = (
    "zeros",
    "constant",
    "identity",
    "dirac",
    "orthogonal",
    "sparse",
    "normal",
    "uniform",
    "trunc_normal",
    "unknown",
)
"""What `Recognized.candidates` may hold: the initializers of torch.nn.init, or none of them."""

FIXED = frozenset({"zeros", "constant", "identity", "dirac", "orthogonal"})
"""Distributions under which the variance of the elements has no scatter."""

Quantity = Literal["", "before truncation", "gain²"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Band:
    """The variances that are compatible with the numbers.

    Parameters
    ----------
    low, high : float
        The smallest and the largest, above 0.
    of : str
        "" for the variance of the elements; "before truncation" for that of the normal distribution
        which was then cut, torch's meaning of ``trunc_normal_(std=…)``; "gain²" for an orthogonal
        matrix, whose variance is that over the longer side.
    """

    low: float
    high: float
    of: Quantity = ""

    @property
    def centre(self) -> float:
        """Geometric mean of both ends."""
        return math.sqrt(self.low * self.high)

    def holds(self, variance: float) -> bool:
        """Return whether a variance lies within."""
        return self.low <= variance <= self.high

    def widen(self, relative: float) -> Band:
        """Return the band with both ends moved outwards."""
        return replace(self, low=self.low / (1 + relative), high=self.high * (1 + relative))


@dataclass(frozen=True, slots=True, kw_only=True)
class Recognized:
    """The distributions that may have drawn a tensor, and the variances that they may have had.

    Parameters
    ----------
    candidates : tuple of str
        Names out of `DISTRIBUTIONS`, most likely first; several where the numbers do not decide.
    bands : tuple of Band
        Compatible variances under any of the candidates. None if there is no scatter to judge, if
        the distribution is unknown, or if the mean tells that the numbers were not only drawn.
    kurtosis : float
        Of the first candidate; measured if that is "unknown".
    p_value : float
        How often a sample of the first candidate looks less like it than this one; if that is
        "unknown", the same for the form that came nearest. NaN where nothing is left to chance.
    support : (float, float), optional
        Smallest and largest element of a uniform sample: they tell its ends.
    blocks : int
        Into how many equal parts of its first dimension the tensor was cut to be recognised.
    note : str
        What else was seen.
    """

    candidates: tuple[str, ...]
    bands: tuple[Band, ...] = ()
    kurtosis: float = 1.0
    p_value: float = math.nan
    support: tuple[float, float] | None = None
    blocks: int = 1
    note: str = ""

    @property
    def is_certain(self) -> bool:
        """Whether there is one candidate, and it has a name."""
        return len(self.candidates) == 1 and self.candidates != ("unknown",)
