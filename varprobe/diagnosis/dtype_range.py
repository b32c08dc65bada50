"""VP902: values at the ends of what their dtype can hold."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from varprobe.analysis import Analysis, SiteAnalysis
from varprobe.diagnosis.finding import Finding
from varprobe.diagnosis.rule import RULES, check_rule


class Range(NamedTuple):
    """Powers of two between which a dtype has numbers of full precision."""

    lowest: int
    """The smallest normal number is 2**lowest."""
    largest: float


RANGES = {
    "float16": Range(-14, 65504.0),
    "bfloat16": Range(-126, 3.3895e38),
    "float32": Range(-126, 3.4028e38),
    "float64": Range(-1022, 1.7976e308),
}

HEADROOM = 8
"""Factor below the largest number at which a value is too close to it: another batch, or the first
steps of training, take a maximum up as far."""

MAX_SUBNORMAL = 0.5
"""Share of the elements that are not 0 and lose digits at the lower end, from which the tensor as a
whole does."""


@check_rule(
    "VP902",
    name="values at the end of the dtype's range",
    level="warning",
    what="A weight or the output of a layer with weights (and with a loss of one's own, a "
    f"gradient) is within a factor of {HEADROOM} of the largest number of the model's dtype, or "
    f"more than {MAX_SUBNORMAL:.0%} of its elements are below the smallest normal one.",
    why="The next batch overflows to infinity, or small numbers become 0: in float16 below 6e-8.",
    remedy="Use bfloat16 or float32 there, scale the loss (torch.amp.GradScaler), or normalize.",
    reference="Micikevicius et al. 2018, Mixed Precision Training, section 3.2.",
)
def find_range_ends(analysis: Analysis, run: str) -> Iterator[Finding]:
    """Yield a finding for the first site at the upper end, and for the first at the lower."""
    dtype = str(analysis.recording.meta.get("dtype"))
    if dtype not in RANGES:
        return
    # The scale of a random cotangent says nothing about that of the user's loss.
    own_loss = analysis.recording.meta.get("loss") == "user"
    signals = ("activation", "gradient") if own_loss else ("activation",)
    owned = ("weight", "weight_gradient") if own_loss else ("weight",)
    # Attention writes the dtype's end into scores on purpose: outputs of layers with weights count.
    sites = [
        *(site for signal in owned for site in analysis.select(signal=signal, run=run)),
        *(site for signal in signals for site in analysis.select_weighted(signal=signal, run=run)),
    ]
    limit = RANGES[dtype].largest / HEADROOM
    high = next((site for site in sites if _largest(site) >= limit), None)
    if high is not None:
        yield RULES["VP902"].report(
            high.site.module,
            f"its {_name(high)} reaches {_largest(high):.3g}, and {dtype} ends at "
            f"{RANGES[dtype].largest:.5g}",
            run=run,
            measured=_largest(high),
            expected=1.0,
            threshold=limit,
        )
    low = next((s for s in sites if _share_below(s, RANGES[dtype].lowest) > MAX_SUBNORMAL), None)
    if low is not None:
        share = _share_below(low, RANGES[dtype].lowest)
        yield RULES["VP902"].report(
            low.site.module,
            f"{share:.0%} of its {_name(low)}'s elements are below "
            f"{2.0 ** RANGES[dtype].lowest:.2g}, where {dtype} loses digits",
            run=run,
            measured=share,
            expected=0.0,
            threshold=MAX_SUBNORMAL,
        )


def _name(site: SiteAnalysis) -> str:
    return "output" if site.site.signal == "activation" else site.site.signal.replace("_", " ")


def _largest(site: SiteAnalysis) -> float:
    return max(record.moments.abs_max for record in site.records)


def _share_below(site: SiteAnalysis, lowest: int) -> float:
    """Return which share of the elements that are not 0 has a magnitude below 2**lowest."""
    counts = [record.exponents for record in site.records if record.exponents]
    total = sum(sum(count.values()) for count in counts)
    # Bin e holds 2**(e-1) <= abs(x) < 2**e.
    small = sum(n for count in counts for e, n in count.items() if e <= lowest)
    return small / total if total else 0.0
