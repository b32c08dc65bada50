"""VP302: weights that cannot tell units apart, and weights that pass nothing."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from varprobe.analysis import Analysis, SiteAnalysis
from varprobe.diagnosis.arrival import list_frozen
from varprobe.diagnosis.collapse import ROUNDING
from varprobe.diagnosis.finding import Finding
from varprobe.diagnosis.rule import RULES, check_rule

MAX_TWINS = 0.5
"""Share of distinct units up to which a layer is duplicated: every unit has a twin on average."""

MIN_COLUMNS = 4
"""Incoming weights below which units may be equal by chance in a coarse dtype: bfloat16 has 128
numbers from 1/2 to 1."""


@check_rule(
    "VP302",
    name="symmetric or constant weights",
    what="A weight has variance 0 (all its elements are equal), or at least half of the units of a "
    "layer have a twin with the same incoming weights. A layer of zeros is a design where signal "
    "and gradients find a way around it.",
    why="Units that start equal compute the same, and where their outgoing weights are equal, too, "
    "get equal gradients and stay equal. Behind zeros there is no signal, before them no gradient.",
    remedy='Draw the weights at random, for example vp.initialize(model, "kaiming_normal").',
    reference="Goodfellow et al. 2016, section 8.4.",
)
def find_symmetry(analysis: Analysis, run: str) -> Iterator[Finding]:
    """Yield a finding for constant weights, one for duplicated units, one for a blocking zero."""
    # What is frozen may be a filter that nobody drew: an average, a blur.
    frozen = list_frozen(analysis, run)
    weights = [
        site
        for site in analysis.select(signal="weight", run=run)
        if is_drawn(site) and site.site.module not in frozen
    ]
    constant = [s for s in weights if s.first.moments.numel > 1 and is_constant(s)]
    zeros = [s for s in constant if s.second_moment == 0.0]
    filled = [s for s in constant if s.second_moment > 0.0]
    twins = [s for s in weights if s not in constant and _count_share(s) <= MAX_TWINS]
    zeros_of_norms = [s for s in analysis.select(signal="weight", run=run) if is_zero_norm(s)]
    if zeros and (len(zeros) == len(weights) or _blocks(analysis, run, zeros)):
        filled = sorted([*filled, *zeros], key=weights.index)
    elif zeros_of_norms and _blocks(analysis, run, zeros_of_norms):
        filled += zeros_of_norms
    if filled:
        first = filled[0]
        value = first.first.moments.mean
        yield _report(
            first,
            f"all {first.first.moments.numel} elements of its {_name(first)} are {value:.6g}",
            filled,
            measured=0.0,
            threshold=0.0,
        )
    if twins:
        first = twins[0]
        yield _report(
            first,
            f"only {first.first.distinct_rows} of its {_count_units(first)} units have incoming "
            "weights of their own",
            twins,
            measured=_count_share(first),
            threshold=MAX_TWINS,
        )


def is_drawn(site: SiteAnalysis) -> bool:
    """Tell whether a parameter is one that initializations draw: a matrix that is no table.

    The scale of a norm is constant by design, and embeddings of positions may begin at 0.
    """
    record = site.first
    if record.fan_in:
        return True
    is_table = "Norm" in record.kind or "Embedding" in record.kind
    return len(record.shape) > 1 and "weight" in site.site.output and not is_table


def is_zero_norm(site: SiteAnalysis) -> bool:
    """Tell whether a parameter is the scale of a norm, and begins at 0."""
    is_scale = "Norm" in site.first.kind and site.site.output == "weight"
    return is_scale and site.second_moment == 0.0


def is_constant(site: SiteAnalysis) -> bool:
    """Tell whether all elements of a weight are equal, in every draw."""
    # Equal float32 numbers may leave a variance of the rounding of their mean.
    return all(
        record.moments.variance <= 1e-14 * record.moments.second_moment for record in site.records
    )


def _blocks(analysis: Analysis, run: str, zeros: Sequence[SiteAnalysis]) -> bool:
    """Tell whether zeros stop the signal: nothing of the input comes out, no gradient goes in.

    A branch of zeros leaves that to the path around it. Zeros in the last layer let everything
    start after one step, and are a common head.
    """
    layers = analysis.select_weighted(signal="activation", run=run)
    weighted = {site.site.module for site in layers}
    places = {z.site.module for z in zeros}
    before: dict[str, None] = {}
    for site in analysis.select(signal="activation", run=run):
        if site.site.module in places:
            break
        if site.site.module in weighted:
            before[site.site.module] = None
    if len(before) >= len(weighted) - 1:
        return False
    moving = {
        s.site.module for s in analysis.select(signal="weight_gradient", run=run) if s.second_moment
    }
    return _is_deaf(layers[-1]) and not moving & before.keys()


def _is_deaf(site: SiteAnalysis) -> bool:
    """Tell whether a layer receives nothing, or the same for every sample."""
    received = site.first.linear_input
    return received is None or (received.sample_spread or 0.0) < ROUNDING


def _report(
    first: SiteAnalysis,
    message: str,
    guilty: Sequence[SiteAnalysis],
    *,
    measured: float,
    threshold: float,
) -> Finding:
    more = f" ({len(guilty)} layers alike)" if len(guilty) > 1 else ""
    return RULES["VP302"].report(
        first.site.module,
        message + more,
        run=first.first.run,
        measured=measured,
        expected=math.nan,
        threshold=threshold,
        parameters=[site.site.parameter for site in guilty],
    )


def _name(site: SiteAnalysis) -> str:
    return site.site.output


def _count_units(site: SiteAnalysis) -> int:
    record = site.first
    is_transposed = "Transpose" in record.kind
    return record.shape[1] if is_transposed else record.shape[0]


def _count_share(site: SiteAnalysis) -> float:
    """Return the share of units that are different from all before; 1 where it is not known."""
    record = site.first
    columns = record.fan_in or 0
    if record.distinct_rows is None or columns < MIN_COLUMNS or _count_units(site) < 2:
        return 1.0
    return record.distinct_rows / _count_units(site)
