"""The numbers of a plot over depth: what was measured and what was predicted at each place."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from varprobe.errors import UnknownNameError
from varprobe.moments import geometric_mean
from varprobe.recording import Record, Recording, Site

if TYPE_CHECKING:
    from varprobe.theory.prediction import Prediction
    from varprobe.theory.rows import Expectation

MOMENTS = ("second_moment", "variance")

QUANTILE_DRAWS = 10
"""Draws from which on the band is 10–90 %: with fewer, a tenth of them is less than one draw."""

DEVIATES = 1.96
"""Half-width of the theory's band in standard deviations: 95 % of a normal."""

NAN = math.nan


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """One signal of one run over depth: a number for each place, NaN where there is none.

    Parameters
    ----------
    label : str
        Which run it is.
    signal : {"activation", "gradient"}
        What was observed.
    draws : int
        Draws of the weights that ``measured`` is over; 0 if nothing was measured.
    measured : tuple of float
        Geometric mean over the draws of the second moment or the variance; 0 if it is 0 in a draw.
    low, high : tuple of float
        Band over the draws: the 10 % and 90 % quantiles, the extremes if there are fewer than 10
        draws, NaN if there is one.
    nonfinite : tuple of int
        NaN and infinite elements, which the moments leave out.
    expected : tuple of float
        Median over draws of what theory predicts; NaN where it does not know.
    expected_low, expected_high : tuple of float
        Where theory expects 95 % of single draws.

    Examples
    --------
    >>> import torch, varprobe as vp
    >>> recording = vp.profile(torch.nn.Linear(8, 8), torch.ones(4, 8))
    >>> [curve.signal for curve in vp.plot_depth(recording).curves]
    ['activation', 'gradient']
    """

    label: str = ""
    signal: str
    draws: int
    measured: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    nonfinite: tuple[int, ...]
    expected: tuple[float, ...]
    expected_low: tuple[float, ...]
    expected_high: tuple[float, ...]

    @property
    def has_theory(self) -> bool:
        """Whether there is a prediction for at least one place."""
        return any(map(math.isfinite, self.expected))

    @property
    def band(self) -> str:
        """What the band over the draws is, "" if there is none."""
        if self.draws < 2:
            return ""
        spread = "10–90 %" if self.draws >= QUANTILE_DRAWS else "min–max"
        return f"{spread} of {self.draws} draws"


def build_curve(
    recording: Recording | None,
    prediction: Prediction | None,
    places: Sequence[Site],
    *,
    run: str,
    step: int,
    signal: str,
    moment: str,
    label: str = "",
) -> Curve:
    """Compute the curve of one signal of one run at one step; the first backward pass counts.

    Notes
    -----
    Over draws, the log of a second moment is normal with mean ln(q) - s²/2 and standard deviation
    s = ``log_std``, q being what theory predicts. The variance is given the same s: the random
    factor of a draw is common to both.
    """
    draws: defaultdict[Site, list[Record]] = defaultdict(list)
    for record in recording.select(signal=signal, run=run) if recording is not None else ():
        if record.step == step and not record.backward:
            draws[record.site].append(record)
    sites = [replace(place, signal=signal) for place in places]
    measured = [_summarize([_read(record, moment) for record in draws[site]]) for site in sites]
    known = {e.site: e for e in prediction} if prediction is not None else {}
    expected = [_expect(known.get(site), moment) for site in sites]
    return Curve(
        label=label,
        signal=signal,
        draws=max((len(draws[site]) for site in sites), default=0),
        measured=tuple(centre for centre, _, _ in measured),
        low=tuple(low for _, low, _ in measured),
        high=tuple(high for _, _, high in measured),
        nonfinite=tuple(sum(record.moments.nonfinite for record in draws[site]) for site in sites),
        expected=tuple(centre for centre, _, _ in expected),
        expected_low=tuple(low for _, low, _ in expected),
        expected_high=tuple(high for _, _, high in expected),
    )


def check_moment(moment: str) -> str:
    """Return ``moment``.

    Raises
    ------
    UnknownNameError
        If there is no moment of this name.
    """
    if moment not in MOMENTS:
        raise UnknownNameError.among("moment", moment, MOMENTS)
    return moment


def _read(record: Record, moment: str) -> float:
    moments = record.moments
    return moments.variance if moment == "variance" else moments.second_moment


def _summarize(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the centre and the edges of the band over the draws."""
    centre = geometric_mean(values)
    if len(values) < 2 or not all(map(math.isfinite, values)):
        return centre, NAN, NAN
    edges = (0.1, 0.9) if len(values) >= QUANTILE_DRAWS else (0.0, 1.0)
    low, high = np.quantile(values, edges)
    return centre, float(low), float(high)


def _expect(known: Expectation | None, moment: str) -> tuple[float, float, float]:
    """Return the median over draws and the edges of 95 % of them."""
    if known is None:
        return NAN, NAN, NAN
    mean = known.variance if moment == "variance" else known.second_moment
    scatter = known.log_std
    if not scatter >= 0.0:
        return mean, NAN, NAN
    # numpy: a scatter beyond all bounds overflows to inf, where math.exp raises.
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        centre, low, high = mean * np.exp(
            [-(scatter**2) / 2 + shift * scatter for shift in (0.0, -DEVIATES, DEVIATES)]
        )
    return float(centre), float(low), float(high)
