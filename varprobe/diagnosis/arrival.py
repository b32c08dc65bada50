"""VP203: trainable weights that the loss never reaches, told apart by the reason."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from varprobe.analysis import Analysis, SiteAnalysis
from varprobe.diagnosis.finding import Finding
from varprobe.diagnosis.rule import RULES, check_rule

BACKWARD_LOSSES = ("user", "random cotangent")
"""Values of ``recording.meta["loss"]`` with which a backward pass ran."""

NO_GRAPH = (
    "ran without a graph (under torch.no_grad, or in a part that was detached), so that no "
    "gradient can reach it"
)
CUT_OFF = (
    "ran, and no gradient came back to its output: it is detached, or the loss does not use it"
)
BYPASSED = "has a gradient at its output and none at its weights: they are detached, or replaced"
DETACHED = (
    "is never called, and gets no gradient, but the output depends on its weights: they are used "
    "detached, or without a graph"
)

UNUSED = "trainable, and never called in this forward pass: unused experts, branches or heads"
FROZEN = "frozen: it does not require a gradient"

REMEDIES = {
    NO_GRAPH: "Run it outside of torch.no_grad(), or freeze it: requires_grad_(False).",
    CUT_OFF: "Remove the .detach(), or freeze the layers before it: requires_grad_(False).",
    BYPASSED: "Use the module's own parameters in its forward, not .detach() or .data of them.",
    DETACHED: "Use the weights themselves, not .detach() or .data of them, or freeze them: "
    "requires_grad_(False).",
    UNUSED: "Nothing, if another input uses it; else remove it: optimizers and DDP trip over it.",
    FROZEN: "Nothing, if it is meant to stay as it is.",
}


@check_rule(
    "VP203",
    name="gradients never arrive",
    what="A layer with trainable weights ran, a backward pass ran, and its weights got no gradient "
    "at all; a warning in eval mode. Layers that did not run, or are frozen, are told as info.",
    why="It stays as it was drawn, however long the training, and nothing fails.",
    remedy=REMEDIES[CUT_OFF],
    reference="PyTorch documentation, Autograd mechanics: locally disabling gradient computation.",
)
def find_absent_gradients(analysis: Analysis, run: str) -> Iterator[Finding]:
    """Yield one finding for each reason why weights got no gradient, by depth."""
    if analysis.recording.meta.get("loss") not in BACKWARD_LOSSES:
        return
    books = _Books.of(analysis, run)
    reasons: dict[str, list[str]] = {}
    for module, weights in books.weights.items():
        reason = books.explain(module, weights)
        if reason:
            reasons.setdefault(reason, []).append(module)
    # What is only run cuts gradients where it likes: proposals of a detector, say.
    level = "error" if analysis.recording.meta.get("training", True) else "warning"
    for reason, modules in reasons.items():
        more = f" ({len(modules)} modules alike)" if len(modules) > 1 else ""
        yield RULES["VP203"].report(
            modules[0],
            f"{reason}{more}",
            run=run,
            level="info" if reason in (UNUSED, FROZEN) else level,
            measured=0.0,
            expected=math.nan,
            threshold=0.0,
            remedy=REMEDIES[reason],
        )


def list_frozen(analysis: Analysis, run: str) -> frozenset[str]:
    """Return the modules whose weights require no gradient; none if no backward pass tells."""
    if analysis.recording.meta.get("loss") not in BACKWARD_LOSSES:
        return frozenset()
    books = _Books.of(analysis, run)
    return frozenset(
        m for m, weights in books.weights.items() if books.explain(m, weights) == FROZEN
    )


@dataclass(frozen=True, slots=True)
class _Books:
    """What arrived and what did not, by module; the absent by their names in `Unobserved`."""

    weights: dict[str, list[SiteAnalysis]]
    arrived: frozenset[str]
    called: frozenset[str]
    reached: frozenset[str]
    absent_weights: frozenset[str]
    absent_outputs: frozenset[str]
    detached: frozenset[str]
    listed: frozenset[str]

    @classmethod
    def of(cls, analysis: Analysis, run: str) -> _Books:
        weights: dict[str, list[SiteAnalysis]] = {}
        for site in analysis.select(signal="weight", run=run):
            weights.setdefault(site.site.module, []).append(site)

        def list_modules(signal: str) -> frozenset[str]:
            return frozenset(s.site.module for s in analysis.select(signal=signal, run=run))

        def list_absent(signal: str, why: str = "none arrived; the loss") -> frozenset[str]:
            start = f"{signal}: {why}"
            unseen = analysis.recording.unobserved
            return frozenset(u.module for u in unseen if u.reason.startswith(start))

        return cls(
            weights=weights,
            arrived=list_modules("weight_gradient"),
            called=list_modules("activation"),
            reached=list_modules("gradient"),
            absent_weights=list_absent("weight_gradient"),
            absent_outputs=list_absent("gradient"),
            detached=list_absent("weight_gradient", "used detached"),
            listed=frozenset(u.module for u in analysis.recording.unobserved),
        )

    def explain(self, module: str, weights: list[SiteAnalysis]) -> str | None:
        """Return why none of these weights got a gradient; None if one did, or nobody knows."""
        names = {str(site.site) for site in weights}
        if module in self.arrived:
            return None
        if not names & self.absent_weights:
            return None if names & self.listed else FROZEN
        if module not in self.called:
            return DETACHED if names & self.detached else UNUSED
        if module not in self.reached:
            return CUT_OFF if self._has_lost_output(module) else NO_GRAPH
        # A container may hold a parameter that this forward pass does not need (a mask token); a
        # layer needs its weight.
        return BYPASSED if any(site.first.fan_in for site in weights) else UNUSED

    def _has_lost_output(self, module: str) -> bool:
        output = (module or "(root)", f"{module}@", f"{module}.")
        return any(n == output[0] or n.startswith(output[1:]) for n in self.absent_outputs)
