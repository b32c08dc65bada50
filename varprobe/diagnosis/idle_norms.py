"""Normalizations over the batch that do nothing, and are why signal vanishes or explodes."""

from __future__ import annotations

import itertools
import math

from varprobe.analysis import Analysis, SiteAnalysis

SAME = 2e-3
"""Relative difference up to which a norm returns what it got. Statistics that were never updated
(mean 0, variance 1) divide by sqrt(1 + eps), and eps is at most 1e-3."""

WAKE_NORMS = (
    "Check the model in training mode, model.train(), or load trained statistics: in eval mode "
    "BatchNorm uses the mean 0 and variance 1 that it began with."
)


def describe_idle_norms(analysis: Analysis, run: str) -> str:
    """Say how many BatchNorm layers do nothing, if most of them do; "" otherwise.

    In eval mode a BatchNorm uses the statistics that it collected, and those of a new model are no
    statistics: it returns what it got.
    """
    norms = [
        (before, norm)
        for before, norm in itertools.pairwise(analysis.select(signal="activation", run=run))
        if "BatchNorm" in norm.first.kind and norm.first.shape == before.first.shape
    ]
    idle = sum(_is_same(before, norm) for before, norm in norms)
    if idle <= len(norms) / 2:
        return ""
    return (
        f"; {idle} of its {len(norms)} BatchNorm layers use untrained statistics (eval mode, mean "
        "0, variance 1) and do nothing"
    )


def _is_same(before: SiteAnalysis, norm: SiteAnalysis) -> bool:
    received, returned = before.first.moments, norm.first.moments
    scale = math.sqrt(received.second_moment)
    is_same_scale = math.isclose(received.second_moment, returned.second_moment, rel_tol=SAME)
    return is_same_scale and abs(received.mean - returned.mean) <= SAME * scale
