"""Layers that do the same at different depths, and the one whose weights are of another scale.

Whatever law somebody draws weights from, layers of one role are drawn alike: the variance times a
fan is the same number for all of them. Which fan it is, the layers themselves tell: it is the one
under which they agree. Where all but few agree, those few are odd, whatever the law.
"""

from __future__ import annotations

import math
import re
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from varprobe.analysis import SiteAnalysis

MIN_PEERS = 3
"""Fewest layers of which one can be odd: of two that differ, nobody knows which."""

MAX_ODD = 0.25
"""Largest share of odd layers (one is always allowed). If a third of the layers differ, the model
has two kinds of layers."""

AGREEMENT = 1.05
"""Factor between variances up to which layers are drawn alike, beside chance: rounding of the
dtype, and truncation at different multiples of the standard deviation."""

AGREEMENT_SIGNIFICANCE = 4.0
ODD_SIGNIFICANCE = 5.0
"""Standard deviations of the log of a sample variance within which layers agree, beyond which one
is odd. What lies between decides nothing."""

MAX_DEPARTURE = 1.1
"""Factor between the variances of an odd layer and its peers, beside chance. A gain that is 10 %
off makes 1.21, and is 17 standard deviations in a layer of 128 × 128."""


def _read_fan_in(site: SiteAnalysis) -> float:
    return site.first.fan_in or _count_columns(site)


def _read_fan_out(site: SiteAnalysis) -> float:
    return site.first.fan_out or site.first.shape[0]


def _count_columns(site: SiteAnalysis) -> float:
    return site.first.moments.numel / site.first.shape[0]


def _count_rows_window(site: SiteAnalysis) -> float:
    """Return fan_out as torch.nn.init computes it, which knows no groups."""
    return site.first.moments.numel / site.first.shape[1]


SCALES: Mapping[str, Callable[[SiteAnalysis], float]] = {
    "fan_in × its variance": _read_fan_in,
    "fan_out × its variance": _read_fan_out,
    "(fan_in + fan_out) × its variance": lambda s: _read_fan_in(s) + _read_fan_out(s),
    "rows × its variance": _count_rows_window,
    "(rows + columns) × its variance": lambda s: _count_columns(s) + _count_rows_window(s),
    "max(rows, columns) × its variance": lambda s: max(_count_columns(s), s.first.shape[0]),
    "its variance": lambda _: 1.0,
}
"""What a law keeps constant over layers: LeCun and He, He backward, Glorot; the same with the fans
of torch.nn.init where groups or a transposed layout make them others; orthogonal; normal with one
standard deviation."""


@dataclass(frozen=True, slots=True)
class Odd:
    """A layer whose weights are of another scale than those of its peers."""

    site: SiteAnalysis
    scale: str
    """What the peers have in common, a key of `SCALES`."""
    measured: float
    usual: float
    peers: int
    is_end: bool
    """Whether it is the first or the last of a stack: one module holds all of its peers."""

    @property
    def departure(self) -> float:
        """The factor between its variance and that of its peers."""
        return self.measured / self.usual


def find_odd(weights: Sequence[SiteAnalysis]) -> list[Odd]:
    """Return the layers that are odd among their peers, by depth."""
    groups = [varied for group in _group(weights) for varied in [_leave_zeros_out(group)] if varied]
    verdicts = {scale: [_judge(group, scale) for group in groups] for scale in SCALES}
    # Where two laws are as good for one group, the model's own is that of most of its groups.
    order = sorted(SCALES, key=lambda scale: -verdicts[scale].count([]))
    found = []
    for index, group in enumerate(groups):
        ranked = [v for scale in order for v in [verdicts[scale][index]] if v is not None]
        best = min(ranked, key=len, default=[])
        if len(best) <= max(1, int(MAX_ODD * len(group))):
            found += best
    return sorted(found, key=lambda odd: weights.index(odd.site))


def _group(weights: Sequence[SiteAnalysis]) -> Iterator[list[SiteAnalysis]]:
    """Yield each layer's peers: those whose names differ in one number, else in any numbers.

    ``blocks.3.mlp.0`` is compared with ``blocks.5.mlp.0``. Only if there are not enough of these
    it is with all of ``blocks.#.mlp.#``.
    """
    placed: set[str] = set()
    for name in (_name_by_first_number, _name_by_last_number, _name_by_any_number):
        groups: defaultdict[str, list[SiteAnalysis]] = defaultdict(list)
        for site in weights:
            if (key := str(site.site)) not in placed:
                groups[name(key)].append(site)
        for group in groups.values():
            if len(group) >= MIN_PEERS:
                placed |= {str(site.site) for site in group}
                yield group


def _name_by_first_number(key: str) -> str:
    return re.sub(r"\d+", "#", key, count=1)


def _name_by_last_number(key: str) -> str:
    return re.sub(r"\d+(?=\D*$)", "#", key)


def _name_by_any_number(key: str) -> str:
    return re.sub(r"\d+", "#", key)


def _leave_zeros_out(group: Sequence[SiteAnalysis]) -> list[SiteAnalysis]:
    """Return the layers that have a scale at all, if there are enough of them."""
    varied = [site for site in group if site.second_moment > 0.0]
    return varied if len(varied) >= MIN_PEERS else []


def _judge(group: Sequence[SiteAnalysis], scale: str) -> list[Odd] | None:
    """Return the odd ones under one law; None if somebody is neither odd nor like the others."""
    numbers = [SCALES[scale](site) * site.second_moment for site in group]
    usual = statistics.median(numbers)
    is_stack = len({site.site.module.rpartition(".")[0] for site in group}) == 1
    odd = []
    for site, number in zip(group, numbers, strict=True):
        departure, chance = abs(math.log(number / usual)), _scatter(site)
        if departure <= math.log(AGREEMENT) + AGREEMENT_SIGNIFICANCE * chance:
            continue
        if departure <= math.log(MAX_DEPARTURE) + ODD_SIGNIFICANCE * chance:
            return None
        odd.append(
            Odd(
                site=site,
                scale=scale,
                measured=number,
                usual=usual,
                peers=len(group) - 1,
                is_end=is_stack and site in (group[0], group[-1]),
            )
        )
    return odd


def _scatter(site: SiteAnalysis) -> float:
    """Return the standard deviation of the log of the sample variance of Gaussian weights.

    Weights that are exactly 0 (sparse initializations) are no sample.
    """
    moments = site.first.moments
    drawn = moments.numel - (moments.zeros or 0)
    return math.sqrt(2.0 / max(drawn * site.draws, 1))
