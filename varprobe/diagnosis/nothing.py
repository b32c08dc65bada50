"""VP001: a measurement that measured nothing is never a pass."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from varprobe.analysis import Analysis
from varprobe.diagnosis.finding import Finding
from varprobe.diagnosis.rule import RULES, check_rule


@check_rule(
    "VP001",
    name="nothing recorded",
    what="No output of a layer with weights was recorded, so there is nothing to judge.",
    why="A gate that looked at nothing must not say that all is well.",
    remedy="Check that the model given is the one that runs, and that it has parameters.",
)
def find_nothing(analysis: Analysis, run: str) -> Iterator[Finding]:
    """Yield a finding unless the output of a module with parameters was recorded."""
    owners = {site.site.module for site in analysis.select(signal="weight", run=run)}
    seen = {site.site.module for site in analysis.select(signal="activation", run=run)}
    # Weights may be parametrized, or not have been recorded: then it is enough that there are any.
    if owners & seen or (seen and not owners and _has_parameters(analysis.recording.meta)):
        return
    found = f"{len(seen)} outputs, none of a layer with weights," if seen else "no output"
    yield RULES["VP001"].report(
        "",
        f"{found} recorded: there is nothing to judge",
        run=run,
        measured=0.0,
        expected=math.nan,
        threshold=1.0,
    )


def _has_parameters(meta: Mapping[str, object]) -> bool:
    """Tell whether there are parameters in what was watched: all of the model, or a part."""
    filters = meta.get("filters")
    watched = filters if isinstance(filters, Mapping) else meta
    return bool(watched.get("parameters"))
