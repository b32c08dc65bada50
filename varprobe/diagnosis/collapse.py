"""VP105: samples, or tokens, that become the same vector on their way through the model.

A ReLU stack under He's law keeps the second moment and still lets any two samples become alike:
their correlation c goes to 1 as 1 - c ≈ 9π²/(2 l²) over l layers (0.05 at 30 layers). Residual
branches may hand on what is alike (attention at initialization averages over tokens) without harm.
So only what reaches the last layer counts, against the most that any layer before it received.
The first layer is left out: how its biases compare with the inputs is a matter of their units.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from varprobe.analysis import Analysis, SiteAnalysis
from varprobe.diagnosis.finding import Finding
from varprobe.diagnosis.growth import RELU_LOG_VARIANCE, SIGNIFICANCE
from varprobe.diagnosis.idle_norms import WAKE_NORMS, describe_idle_norms
from varprobe.diagnosis.rule import RULES, check_rule
from varprobe.diagnosis.stacks import MIN_WIDTH
from varprobe.moments import geometric_mean

MIN_SPREAD = 1e-4
"""What must remain of the spread 1 - c. The curvature of the loss along what all samples have in
common is c : (1 - c) times that along what tells them apart, and bounds the step: below this, ten
thousand steps of gradient descent pass before two samples are told apart. It is also `MAX_GROWTH`
of `varprobe.diagnosis.growth` for the part of the signal that matters. A stack under He's law gets
there at 660 layers."""

ROUNDING = 1e-12
"""Spread below which all are equal: float32 rounds to 6e-8, whose square is 4e-15, and a product of
matrices rounds rows differently by some times that."""

MIN_RUN = 3
"""Layers in a row that receive equal slices before it is called a collapse. One or two do so by
design: learned queries, a time step that all samples share."""

AXES = {"samples": "sample_spread", "tokens": "token_spread"}
"""What may become alike, and the field of `varprobe.moments.LinearInput` that says how far it is
from it."""


@check_rule(
    "VP105",
    name="samples collapse",
    what=f"Of the spread 1 - c of samples (c: their correlation), or of the tokens of a sequence, "
    f"the last layer receives less than {MIN_SPREAD:g} of the most that one before it received, "
    f"and less than chance leaves in a healthy net of this width ({SIGNIFICANCE:g} standard "
    "deviations).",
    why="The output is the same for every input: what tells samples apart learns slower than what "
    "they have in common, by the same factor.",
    remedy="Keep a path that does not mix (residual connections around attention and aggregation), "
    "set biases to 0, or normalize over the batch inside the stack.",
    reference="Poole et al. 2016, section 3; Schoenholz et al. 2017, eq. 9; Dong et al. 2021.",
)
def find_collapse(analysis: Analysis, run: str) -> Iterator[Finding]:
    """Yield a finding for samples, and one for tokens, if the last layer cannot tell them apart."""
    sites = analysis.select_weighted(signal="activation", run=run)[1:]
    idle = describe_idle_norms(analysis, run)
    for what, field in AXES.items():
        known = [(site, spread) for site in sites for spread in [_spread(site, field)] if spread]
        if not known or known[-1][0] is not sites[-1]:
            continue
        crossing = _find_crossing([spread for _, spread in known])
        layers = [site for site, _ in known]
        if crossing is None or not _is_significant(layers, [s for _, s in known]):
            continue
        last, entered = known[-1][1], max(spread for _, spread in known)
        yield RULES["VP105"].report(
            layers[crossing].site.module,
            f"{what} are alike from here on: of a spread of {entered:.2g} before, "
            f"{last / entered:.2g} reaches {layers[-1].site.module or 'the root'}; at least "
            f"{MIN_SPREAD:g} must remain{idle}",
            run=run,
            measured=last / entered,
            expected=1.0,
            threshold=MIN_SPREAD,
            remedy=WAKE_NORMS if idle else None,
        )


def _spread(site: SiteAnalysis, field: str) -> float | None:
    """Return 1 - c at the layer's input, over the draws; None if it is not known."""
    received = [record.linear_input for record in site.records]
    spreads = [getattr(r, field) for r in received if r is not None]
    if len(spreads) < len(received) or None in spreads:
        return None
    # What rounding makes of equal slices is no number to compare.
    return max(geometric_mean(spreads), ROUNDING)


def _find_crossing(spreads: Sequence[float]) -> int | None:
    """Return where the spread falls below its limit for good; None if it does not."""
    entered = max(spreads)
    limit = MIN_SPREAD * entered
    if limit <= ROUNDING or spreads[-1] >= limit:
        return None
    crossing = 1 + max(index for index, spread in enumerate(spreads) if spread >= limit)
    is_equal = spreads[-1] <= ROUNDING
    return None if is_equal and len(spreads) - crossing < MIN_RUN else crossing


def _is_significant(layers: Sequence[SiteAnalysis], spreads: Sequence[float]) -> bool:
    """Tell whether chance over draws does not explain it: differences scatter as gradients do."""
    inner = [site for site in layers[:-1] if site.first.shape and site.first.shape[-1] >= MIN_WIDTH]
    log_variance = sum(RELU_LOG_VARIANCE / site.first.shape[-1] for site in inner)
    log_variance /= layers[0].draws
    departure = math.log(spreads[-1] / max(spreads)) + log_variance / 2
    return -departure > SIGNIFICANCE * math.sqrt(log_variance)
