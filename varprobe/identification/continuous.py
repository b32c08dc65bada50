"""Tell normal, uniform and truncated normal samples apart, and how well their variance is known.

All three are a normal law cut at ±c, see `varprobe.identification.truncation`. Number, mean,
variance and extremes of a sample are all that its likelihood depends on.
"""

from __future__ import annotations

import math

import numpy as np

from varprobe.identification.independence import judge_independence
from varprobe.identification.numbers import Array, Numbers
from varprobe.identification.recognized import Band, Recognized
from varprobe.identification.round_numbers import find_only_digit, find_roundest
from varprobe.identification.truncation import (
    NORMAL,
    UNIFORM,
    density_at,
    find_cut,
    kurtosis_of,
    share_kept,
    variance_left,
)
from varprobe.initializers.laws import TRUNCATION

CUTS = {NORMAL: "normal", UNIFORM: "uniform", TRUNCATION: "trunc_normal"}

WINDOW = 7.0
"""Nats of likelihood by which a candidate may lie behind the best. Each has two parameters, so no
penalty tells them apart. The truth lies further behind once in e⁷ = 1,100 draws at most, and a
normal cut at ±2 is 0.031 nats an element from the nearest normal one: 300 elements decide."""

OTHER_CUT = 3.0
"""Where else than at ±2 people cut. Or they name ends that are a round number: torch's own are ±2,
whatever the standard deviation."""

CUT_WINDOW = 12.0
"""Nats that a cut elsewhere than at ±2 must gain. A normal sample's own extremes gain a standard
exponential variable: more than this once in 160,000 draws."""

BAND_TAIL = 3e-7
"""Chance that the true variance lies beyond one end of its band: that of 5 standard deviations.
With 4, one model of 50 that have 300 parameters would miss a law."""

SLACK = 12.0
"""N times the probability that a law leaves beyond the largest of N elements is a standard
exponential variable: larger than this once in 160,000 draws."""

MIN_P_VALUE = 1e-5
"""Below it a sample has none of the three forms. A model has hundreds of parameters: in one of
hundreds of models a parameter is called unknown though it is not."""

NEARLY_CENTRED = 0.25
"""Standard deviations from 0, within which nobody puts the mean of weights on purpose."""

BINS = 16
"""Equally likely intervals that a sample is counted in. More would see finer departures in millions
of numbers, and the coarse steps in which bfloat16 is drawn."""

MIN_BINS, MIN_PER_BIN = 4, 5
"""Fewest intervals, and elements expected in each, for the counts to be chi-square distributed."""


def recognize_continuous(numbers: Numbers) -> Recognized:
    """Return which of the three forms a sample may have, and with which variance.

    Parameters
    ----------
    numbers : Numbers
        Not all equal.
    """
    scores = {cut: _log_likelihood(numbers, cut) for cut in CUTS}
    best = max(scores.values())
    cuts = sorted((c for c in CUTS if scores[c] > best - WINDOW), key=lambda c: -scores[c])
    note = ""
    elsewhere = max(_list_other_cuts(numbers), key=lambda cut: _log_likelihood(numbers, cut))
    if _log_likelihood(numbers, elsewhere) > best + CUT_WINDOW:
        cuts, note = [elsewhere], f"cut at ±{elsewhere:.2g} standard deviations"
    form, structure = _judge(numbers, cuts[0]), judge_independence(numbers)
    p_value = min(1.0, 2 * min(form, structure))
    if p_value < MIN_P_VALUE:
        note = f"neither normal nor uniform nor truncated: kurtosis {numbers.kurtosis:.3g}"
        if structure < form:
            note = "not independent: one direction is stronger than by chance; trained?"
        return Recognized(
            candidates=("unknown",), kurtosis=numbers.kurtosis, p_value=p_value, note=note
        )
    bands = [band for cut in cuts for band in _find_bands(numbers, cut)]
    support = (numbers.low, numbers.high) if cuts[0] == UNIFORM else None
    if 0 < abs(numbers.centre) < NEARLY_CENTRED * math.sqrt(numbers.variance):
        bands, support, note = (
            [],
            None,
            f"its mean of {numbers.mean:.2g} is not by chance: trained?",
        )
    return Recognized(
        candidates=tuple(CUTS.get(cut, "trunc_normal") for cut in cuts),
        # Rounding moves a standard deviation by less than the precision, a variance by twice that.
        bands=tuple(band.widen(2 * numbers.precision) for band in bands),
        kurtosis=kurtosis_of(cuts[0]),
        p_value=p_value,
        support=support,
        note=note,
    )


def _list_other_cuts(numbers: Numbers) -> list[float]:
    reach = numbers.reach
    ends = find_roundest(reach, reach * (1 + SLACK / numbers.count))
    found = [find_cut(numbers.variance / end**2) for end in ends if find_only_digit(end)]
    return [OTHER_CUT, *filter(None, found)]


def _log_likelihood(numbers: Numbers, cut: float) -> float:
    """Return the largest log-likelihood of the sample under a normal law cut at ±``cut``."""
    if cut == UNIFORM:
        return -numbers.count * math.log(numbers.high - numbers.low)
    std = _fit_std(numbers, cut)
    normalization = math.log(std * math.sqrt(2 * math.pi) * share_kept(cut))
    return -numbers.count * (normalization + numbers.variance / (2 * std**2))


def _fit_std(numbers: Numbers, cut: float) -> float:
    """Return the most likely standard deviation before the cut: no element lies beyond that."""
    return max(math.sqrt(numbers.variance), numbers.reach / cut)


def _find_bands(numbers: Numbers, cut: float) -> list[Band]:
    if cut == UNIFORM:
        return [_find_uniform_band(numbers)]
    after = _find_chi_square_band(numbers, kurtosis_of(cut))
    if cut == NORMAL:
        return [after]
    low, high = after.low / variance_left(cut), after.high / variance_left(cut)
    if cut == TRUNCATION:
        # The sample reaches the cut within a distance of order 1/N, and is never beyond it.
        distance = SLACK / (2 * density_at(cut) * numbers.count)
        reach, stray = numbers.reach, numbers.stray
        low = max(low, ((reach - stray) / cut) ** 2)
        high = min(high, ((reach + stray) / (cut - distance)) ** 2) if distance < cut else high
    return [after, Band(low=low, high=high, of="before truncation")]


def _find_uniform_band(numbers: Numbers) -> Band:
    # The extremes tell the ends within 1/N of their distance, the variance within 1/sqrt(N).
    centred = 2 * max(numbers.high, -numbers.low)
    width = centred if numbers.is_centred else numbers.high - numbers.low
    return Band(low=width**2 / 12, high=(width * (1 + SLACK / numbers.count)) ** 2 / 12)


def _find_chi_square_band(numbers: Numbers, kurtosis: float) -> Band:
    """Return the variances of which the sample's is no outlier.

    The sample variance of N elements scatters as a chi-square variable with 2 N / (kurtosis - 1)
    degrees of freedom (Satterthwaite); of normal ones it is one.
    """
    from scipy.special import chdtri

    freedom = 2 * numbers.count / max(kurtosis - 1, 1e-3)
    total = freedom * numbers.variance
    # chdtri inverts the upper tail.
    return Band(
        low=total / float(chdtri(freedom, BAND_TAIL)),
        high=total / float(chdtri(freedom, 1 - BAND_TAIL)),
    )


def _judge(numbers: Numbers, cut: float) -> float:
    """Return how likely a sample of this form is to look less like it.

    It may do so by its counts in equally likely intervals, and a normal one by its largest element.
    """
    p_values = [_judge_counts(numbers, cut)]
    if cut == NORMAL:
        from scipy.special import ndtr

        farthest = numbers.reach / math.sqrt(numbers.variance)
        p_values.append(2 * numbers.count * float(ndtr(-farthest)))
    return min(1.0, len(p_values) * min(p_values))


def _judge_counts(numbers: Numbers, cut: float) -> float:
    """Return the p-value of a chi-square test; 1 for a sample that is too small for it.

    An interval ends where the rounding of the dtype does. What rounding before the last step may
    shift from one to the next (a coarse uniform variable behind an inverse normal) is conceded.
    """
    from scipy.special import chdtrc

    sample = numbers.sample
    bins = min(BINS, sample.size // MIN_PER_BIN)
    if bins < MIN_BINS:
        return 1.0
    ends, limits = numbers.round_up(_find_quantile(numbers, cut, np.arange(1, bins) / bins))
    ends, kept = np.unique(ends, return_index=True)
    below = _find_share_below(numbers, cut, limits[kept])
    expected = sample.size * np.diff(below, prepend=0.0, append=1.0)
    counts = np.diff(
        np.searchsorted(np.sort(sample), ends, side="right"), prepend=0, append=sample.size
    )
    expected = np.maximum(expected, np.finfo(np.float64).tiny)
    distance = math.sqrt(np.sum((counts - expected) ** 2 / expected))
    conceded = math.sqrt(sample.size) * bins * numbers.precision / 2
    return float(chdtrc(bins - 1, max(0.0, distance - conceded) ** 2))


def _find_quantile(numbers: Numbers, cut: float, share: Array) -> Array:
    from scipy.special import ndtri

    if cut == UNIFORM:
        return numbers.low + share * (numbers.high - numbers.low)
    inside = share_kept(cut)
    standard: Array = ndtri((1 - inside) / 2 + share * inside)
    return numbers.mean + _fit_std(numbers, cut) * standard


def _find_share_below(numbers: Numbers, cut: float, limit: Array) -> Array:
    from scipy.special import ndtr

    if cut == UNIFORM:
        share = (limit - numbers.low) / (numbers.high - numbers.low)
    else:
        inside = share_kept(cut)
        standard = (limit - numbers.mean) / _fit_std(numbers, cut)
        share = (ndtr(standard) - (1 - inside) / 2) / inside
    return np.clip(share, 0, 1)
