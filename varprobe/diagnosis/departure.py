"""VP303: a layer whose output is not what its own weights make of its input."""

from __future__ import annotations

from collections.abc import Iterator

from varprobe.analysis import Analysis
from varprobe.diagnosis.finding import Finding
from varprobe.diagnosis.rule import RULES, check_rule

ALPHA = 1e-4
"""Probability of a finding in a right net, over all of its layers: one net in ten thousand."""

MIN_DEPARTURE = 1.05
"""Factor between the second moments below which a departure, however certain, is no news: the
energy of a convolution's windows is itself known to 1 or 2 % only, from a sample of them."""


@check_rule(
    "VP303",
    name="a layer departs from its prediction",
    level="warning",
    what="The second moment of a Linear or ConvNd layer's output is not the one that weights of "
    "this size, drawn independently of its input, make of that input, by more than "
    f"{MIN_DEPARTURE - 1:.0%} and with a probability below {ALPHA:g} over all layers (Holm).",
    why="Something else than the weights scales the output, or the weights are not random: they "
    "were trained, copied, or built for a purpose. What theory says of the net does not hold.",
    remedy="Look for a hook, a parametrization, or a factor in the layer's forward; if the weights "
    "are meant to be as they are, ignore VP303.",
    reference="Holm 1979; Satterthwaite 1946.",
)
def find_departures(analysis: Analysis, run: str) -> Iterator[Finding]:
    """Yield one finding for the layer that departs most."""
    departed = [
        test
        for test in analysis.test_gains()
        if test.run == run
        and test.p_holm < ALPHA
        and not 1 / MIN_DEPARTURE <= test.gain.measured / test.gain.predicted <= MIN_DEPARTURE
    ]
    if not departed:
        return
    worst = max(departed, key=lambda test: abs(test.gain.z))
    ratio = worst.gain.measured / worst.gain.predicted
    more = f", and {len(departed) - 1} more layers depart" if len(departed) > 1 else ""
    yield RULES["VP303"].report(
        worst.site.module,
        f"its output has {ratio:.3g} times the second moment that its weights make of its input "
        f"({abs(worst.gain.z):.1f} standard errors){more}",
        run=run,
        measured=worst.gain.measured,
        expected=worst.gain.predicted,
        threshold=ALPHA,
    )
