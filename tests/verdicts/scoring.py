"""Count how many verdicts are right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from scipy import stats

from tests.verdicts.case import Case


class Score(NamedTuple):
    """How often a case was called unhealthy, out of how many seeds."""

    flagged: int
    judged: int


def score(
    cases: Mapping[str, Case], seeds: Sequence[int], *, predict: bool = True
) -> dict[str, Score]:
    """Judge every case on every seed."""
    return {
        name: Score(
            sum(not case.judge(seed, predict=predict).healthy for seed in seeds), len(seeds)
        )
        for name, case in cases.items()
    }


def add_up(scores: Mapping[str, Score]) -> Score:
    flagged, judged = zip(*scores.values(), strict=True)
    return Score(sum(flagged), sum(judged))


def bound_rate(flagged: int, judged: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return the two-sided confidence interval of a rate (Clopper and Pearson 1934)."""
    tail = (1 - confidence) / 2
    low = stats.beta.ppf(tail, flagged, judged - flagged + 1) if flagged else 0.0
    high = stats.beta.ppf(1 - tail, flagged + 1, judged - flagged) if flagged < judged else 1.0
    return float(low), float(high)


def count_alarms(cases: Mapping[str, Case], seeds: range) -> list[tuple[str, int]]:
    """Judge one healthy case a seed, all in turn; return those that were called unhealthy."""
    names = list(cases)
    drawn = [(names[seed % len(names)], seed) for seed in seeds]
    return [(n, seed) for n, seed in drawn if not cases[n].judge(seed, predict=False).healthy]
