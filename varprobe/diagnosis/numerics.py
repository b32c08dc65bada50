"""VP901: values that are not finite."""

from __future__ import annotations

from collections.abc import Iterator

from varprobe.analysis import Analysis
from varprobe.diagnosis.finding import Finding
from varprobe.diagnosis.rule import RULES, check_rule


@check_rule(
    "VP901",
    name="non-finite values",
    what="A weight, activation or gradient has NaN or infinite elements.",
    why="They spread to everything that is computed from them, and to the weights with a step.",
    remedy="Look at the named tensor first, what follows it is infected: uninitialized or "
    "corrupted weights, a division by zero, a logarithm of zero, or an overflow of the dtype.",
)
def find_nonfinite(analysis: Analysis, run: str) -> Iterator[Finding]:
    """Yield one finding for the first site of each signal, weights first: the rest follows it."""
    for signal in ("weight", "activation", "gradient", "weight_gradient"):
        sick = [s for s in analysis.select(signal=signal, run=run) if s.nonfinite]
        if not sick:
            continue
        # A gradient is infected from the loss downwards: the deepest one is its source.
        source = sick[-1] if signal.endswith("gradient") else sick[0]
        numel = sum(record.moments.numel for record in source.records)
        what = signal.replace("_", " ")
        named = f" {source.site.output!r}" if signal.startswith("weight") else ""
        more = f", and at {len(sick) - 1} more sites" if len(sick) > 1 else ""
        yield RULES["VP901"].report(
            source.site.module,
            f"{source.nonfinite} of {numel} elements of its {what}{named} are not finite{more}",
            run=run,
            measured=float(source.nonfinite),
            expected=0.0,
            threshold=0.0,
            parameters=[site.site.parameter for site in sick] if signal == "weight" else (),
        )
        return
