"""Numbers that sum up a tensor, in float64, exactly mergeable: over batches, draws and ranks."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Moments:
    """Moments of the finite elements of a tensor, in float64, exactly mergeable.

    Parameters
    ----------
    numel : int
        Elements looked at, the non-finite ones included.
    mean : float
        Mean of the finite elements, in the signal's unit a.
    m2 : float
        Sum of squared deviations of the finite elements from their mean, in a².
    abs_max : float
        Largest magnitude among the finite elements, in a.
    zeros : int or None
        Exact zeros; None if they were not counted.
    nan, inf : int
        Elements that are NaN or infinite.

    References
    ----------
    Chan, Golub, LeVeque (1979), Updating Formulae and a Pairwise Algorithm for Computing Sample
    Variances, eq. 2.1 (the merge).

    Examples
    --------
    >>> import varprobe as vp
    >>> first = vp.Moments(numel=2, mean=1.0, m2=2.0, abs_max=2.0)
    >>> both = first.merge(vp.Moments(numel=2, mean=5.0, m2=2.0, abs_max=6.0))
    >>> both.mean, both.variance, both.second_moment
    (3.0, 5.0, 14.0)
    """

    numel: int
    mean: float
    m2: float
    abs_max: float
    zeros: int | None = None
    nan: int = 0
    inf: int = 0

    @property
    def nonfinite(self) -> int:
        """Elements that are NaN or infinite."""
        return self.nan + self.inf

    @property
    def finite(self) -> int:
        """Elements that the moments are over."""
        return self.numel - self.nonfinite

    @property
    def variance(self) -> float:
        """Mean squared deviation from the mean (correction 0), in a²; NaN if nothing is finite."""
        return self.m2 / self.finite if self.finite else math.nan

    @property
    def second_moment(self) -> float:
        """Mean of squares, E[x²], in a²; NaN if nothing is finite."""
        return self.variance + self.mean * self.mean

    @property
    def zero_fraction(self) -> float:
        """Share of exact zeros among all elements; NaN if they were not counted."""
        return math.nan if self.zeros is None or not self.numel else self.zeros / self.numel

    def merge(self, other: Moments) -> Moments:
        """Return the moments of both sets of elements together."""
        first, second = self.finite, other.finite
        total = first + second
        zeros = None if self.zeros is None or other.zeros is None else self.zeros + other.zeros
        # A side without finite elements has no mean to speak of, and none that may count.
        delta = other.mean - self.mean if first and second else 0.0
        start = self if first else other
        return Moments(
            numel=self.numel + other.numel,
            mean=start.mean + delta * (second / max(total, 1)),
            m2=self.m2 + other.m2 + delta * delta * (first * (second / max(total, 1))),
            abs_max=max(self.abs_max, other.abs_max),
            zeros=zeros,
            nan=self.nan + other.nan,
            inf=self.inf + other.inf,
        )


def merge_exponents(
    first: Mapping[int, int] | None, second: Mapping[int, int] | None
) -> dict[int, int] | None:
    """Add two histograms over powers of two; None if either was not taken."""
    if first is None or second is None:
        return None
    return {e: first.get(e, 0) + second.get(e, 0) for e in sorted({*first, *second})}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How much was read of tensors that were too large to be read whole.

    Parameters
    ----------
    numel : int
        Elements that were read. The moments beside it are of all elements, as estimated from
        these; the largest magnitude is that of these.
    sum_variance : float
        Squared standard error of the sum of all elements, in a².
    square_sum_variance : float
        Squared standard error of the sum of their squares, in a⁴.
    """

    numel: int
    sum_variance: float
    square_sum_variance: float

    def merge(self, other: Sampling) -> Sampling:
        """Return what was read of both, independently of each other."""
        return Sampling(
            numel=self.numel + other.numel,
            sum_variance=self.sum_variance + other.sum_variance,
            square_sum_variance=self.square_sum_variance + other.square_sum_variance,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearInput:
    """What a Linear or ConvNd received: enough to predict its output without any theory.

    Given the input, the outputs of a layer with independent weights of second moment w² have the
    expected second moment w² · energy + b², and a known scatter (see `varprobe.analyze`).

    Parameters
    ----------
    second_moment : float
        E[x²] of the input elements, in a².
    energy : float
        Mean over the output positions of Σ x² over the fan-in window, zero padding included, in a².
    common_energy : float
        Σ over the window of the square of the mean window, at most ``energy``, in a².
    effective_samples : float
        (tr G)² / tr G² of the Gram matrix G of the windows: how many independent samples the
        positions are worth, between 1 and their number.
    positions : int
        Output positions, samples of the batch included.
    sample_spread : float or None
        1 - c, c the correlation of two slices of the input along its first axis (samples of a
        batch, nodes of a graph), averaged over pairs: the mean variance along that axis over the
        second moment. 0 if all are alike, 1 if they are independent and centred; None for one.
    token_spread : float or None
        The same along what lies between the first axis and the features of a Linear's input (the
        tokens of a sequence); None where there is no such axis.
    """

    second_moment: float
    energy: float
    common_energy: float
    effective_samples: float
    positions: int
    sample_spread: float | None = None
    token_spread: float | None = None


def merge_linear_inputs(
    first: LinearInput | None, second: LinearInput | None
) -> LinearInput | None:
    """Pool what two batches brought to one layer; None if either was not summed up."""
    if first is None or second is None:
        return None
    positions = first.positions + second.positions
    share = second.positions / max(positions, 1)

    def mix(a: float, b: float) -> float:
        return a + (b - a) * share

    def mix_known(a: float | None, b: float | None) -> float | None:
        return None if a is None or b is None else mix(a, b)

    return LinearInput(
        second_moment=mix(first.second_moment, second.second_moment),
        energy=mix(first.energy, second.energy),
        common_energy=mix(first.common_energy, second.common_energy),
        # The batches met the same weights and may be alike: the larger number is a lower bound of
        # what both are worth, so that no significance is overstated.
        effective_samples=max(first.effective_samples, second.effective_samples),
        positions=positions,
        # Within each batch: whether the batches differ from each other is not known.
        sample_spread=mix_known(first.sample_spread, second.sample_spread),
        token_spread=mix_known(first.token_spread, second.token_spread),
    )


def geometric_mean(values: Iterable[float]) -> float:
    """Return exp(mean(ln x)); 0 if a value is 0, NaN if one is NaN or there are none."""
    numbers = list(values)
    if not numbers or any(math.isnan(x) for x in numbers):
        return math.nan
    if any(x <= 0.0 for x in numbers):
        return 0.0
    return math.exp(math.fsum(map(math.log, numbers)) / len(numbers))
