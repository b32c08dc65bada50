"""What to draw the parameters at fault from, so that `varprobe.repair` can do it.

In the order of what is known: the scale that the check itself found missing; that of like layers,
which keeps a design as it is; the law that suits the nonlinearity behind; the module's own.
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from varprobe.analysis import Analysis, SiteAnalysis
from varprobe.diagnosis.dead import is_dead
from varprobe.diagnosis.finding import Finding, Fix
from varprobe.diagnosis.weights import NONLINEARITIES, compute_gain_squared, list_followers
from varprobe.moments import geometric_mean
from varprobe.theory.followers import CENTRED

SAME = 1.05
"""Factor between two variances that are one law: truncation and rounding stay within it."""

WHOLE = 0.5
"""Share of the weights from which on the remedy is to initialize all of the model."""

ZERO = "constant(value=0.0)"

NAMED = 4
"""Parameters that a remedy names; more are counted."""


def prescribe(finding: Finding, analysis: Analysis, findings: Iterable[Finding]) -> Finding:
    """Return the finding with what to draw anew, and a remedy that says so, where that helps.

    Parameters
    ----------
    finding : Finding
        A cause.
    analysis : Analysis
        In which it was found.
    findings : iterable of Finding
        All that was found: parameters that any of them names are nobody's model.
    """
    if finding.level == "info":
        return finding
    pharmacy = _Pharmacy(analysis, finding.run, findings)
    fixes = tuple(pharmacy.find(finding))
    if not fixes:
        return finding
    drawn = [fix for fix in fixes if fix.init != ZERO]
    is_whole = len(drawn) > 1 and len(drawn) >= WHOLE * len(pharmacy.weights)
    return replace(finding, fixes=fixes, remedy=_spell_remedy(fixes, whole=is_whole))


class _Pharmacy:
    """What one run knows of its parameters and of what each should be drawn from."""

    def __init__(self, analysis: Analysis, run: str, findings: Iterable[Finding]) -> None:
        sites = analysis.select(signal="weight", run=run)
        self.parameters = {site.site.parameter: site for site in sites}
        self.weights = [site for site in sites if site.first.fan_in]
        self._suspects = {name for f in findings if f.run == run for name in f.parameters}
        self._followers = list_followers(analysis, run)
        self._calls = analysis.select(signal="activation", run=run)

    def find(self, finding: Finding) -> Iterator[Fix]:
        if finding.code == "VP103":
            yield from (Fix(parameter=name, init=ZERO) for name in self._find_deadening_biases())
        for name in finding.parameters:
            yield Fix(parameter=name, init=self._choose(self.parameters[name], finding))

    def _choose(self, site: SiteAnalysis, finding: Finding) -> str:
        kind = self._followers.get(site.site.module)
        fan_in = site.first.fan_in
        suits = compute_gain_squared(kind) / fan_in if kind and fan_in else math.nan
        wanted = self._find_wanted(site, finding)
        if kind and (math.isnan(wanted) or _are_same(wanted, suits)):
            return spell_law(kind)
        return "default" if math.isnan(wanted) else f"normal(std={math.sqrt(wanted):.4g})"

    def _find_wanted(self, site: SiteAnalysis, finding: Finding) -> float:
        """Return the second moment that the parameter should have; NaN if nothing tells."""
        if finding.code == "VP301" and len(finding.parameters) == 1:
            return site.second_moment * finding.expected / finding.measured
        if finding.code == "VP301" or not _is_matrix(site):
            return math.nan
        role = _name_role(site)
        peers = [
            peer.second_moment
            for name, peer in self.parameters.items()
            if name not in self._suspects and _name_role(peer) == role and peer.variance > 0.0
        ]
        return geometric_mean(peers)

    def _find_deadening_biases(self) -> Iterator[str]:
        """Yield the biases that shift the inputs of dead rectifiers below 0."""
        bias: SiteAnalysis | None = None
        for call in self._calls:
            if is_dead(call) and bias is not None and bias.first.moments.mean < 0.0:
                yield bias.site.parameter
            module = call.site.module
            bias = self.parameters.get(f"{module}.bias" if module else "bias")


def spell_law(kind: str) -> str:
    """Return the initialization that suits a nonlinearity, by the class name of its module."""
    if NONLINEARITIES[kind] in CENTRED:
        return "xavier_normal"
    if kind in ("ReLU", "LeakyReLU"):
        return f"kaiming_normal(nonlinearity={NONLINEARITIES[kind]!r})"
    if kind == "SELU":
        return "lecun_normal"
    return f"kaiming_normal(gain={math.sqrt(compute_gain_squared(kind)):.4g})"


def _are_same(first: float, second: float) -> bool:
    return abs(math.log(first / second)) <= math.log(SAME)


def _is_matrix(site: SiteAnalysis) -> bool:
    return len(site.first.shape) > 1


def _name_role(site: SiteAnalysis) -> tuple[str, tuple[int, ...]]:
    """Return what makes two parameters alike: their names but for numbers, and their shapes."""
    return re.sub(r"\d+", "#", site.site.parameter), site.first.shape


def _spell_remedy(fixes: Sequence[Fix], *, whole: bool) -> str:
    inits = list(dict.fromkeys(fix.init for fix in fixes))
    if whole and len(inits) == 1:
        return f"vp.initialize(model, {_spell_arguments(inits[0])})"
    said = []
    for init in inits:
        names = [fix.parameter for fix in fixes if fix.init == init]
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        said.append(f"{', '.join(names[:NAMED])}{more} from {init}")
    return f"vp.repair(model, diagnosis.findings) draws {'; '.join(said)}"


def _spell_arguments(init: str) -> str:
    """Return "name(option=1)" as '"name", option=1'."""
    call = ast.parse(init, mode="eval").body
    if not isinstance(call, ast.Call):
        return f'"{init}"'
    options = [f", {k.arg}={_spell_value(ast.literal_eval(k.value))}" for k in call.keywords]
    return f'"{ast.unparse(call.func)}"{"".join(options)}'


def _spell_value(value: object) -> str:
    return f'"{value}"' if isinstance(value, str) else repr(value)
