"""What a check says (Finding), and what all of them say together (Diagnosis)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from varprobe.analysis import Analysis
from varprobe.errors import PropagationError
from varprobe.presentation import Presentable

LEVELS = ("error", "warning", "info")
"""An error makes a model unhealthy. A warning deserves a look, an info explains a design."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fix:
    """A parameter, and the initialization to draw it anew from.

    Parameters
    ----------
    parameter : str
        Its name, as in ``named_parameters()``.
    init : str
        As `varprobe.initialize` reads it, options and all: "kaiming_normal(nonlinearity='relu')".

    Examples
    --------
    >>> import torch, varprobe as vp
    >>> layer = torch.nn.Linear(8, 4)
    >>> _ = torch.nn.init.constant_(layer.weight, 0.5)
    >>> vp.check(layer, torch.ones(2, 8)).findings[0].fixes
    (Fix(parameter='weight', init='default'),)
    """

    parameter: str
    init: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that a check found, where, and what to do about it.

    Parameters
    ----------
    code, name : str
        Stable code ("VP101") and its short name ("vanishing activations").
    level : {"error", "warning", "info"}
        Whether it makes the model unhealthy.
    module : str
        The layer to look at, "" for the root.
    run : str
        The run in which it was found.
    measured, expected, threshold : float
        What was measured, what it should be, and the limit that was crossed, in the unit that the
        message names; NaN where there is no such number.
    message : str
        What was found, in a sentence with its numbers.
    remedy : str
        What to do, as code where that is possible.
    parameters : tuple of str
        The parameters at fault, named as in ``named_parameters()``; those of ``module`` first.
    fixes : tuple of Fix
        What to draw anew, and from what; `varprobe.repair` does it. Empty where that cures nothing.
    effect : str
        What theory predicts of the fix, or why it predicts nothing.
    consequences : tuple of Finding
        What was found elsewhere because of this, and will go with it.

    Examples
    --------
    >>> import torch, varprobe as vp
    >>> layer = torch.nn.Linear(8, 4)
    >>> _ = torch.nn.init.constant_(layer.weight, 0.5)
    >>> finding = vp.check(layer, torch.ones(2, 8)).findings[0]
    >>> print(finding.code, finding.name, finding.message, sep=": ")
    VP302: symmetric or constant weights: all 32 elements of its weight are 0.5
    """

    code: str
    name: str
    level: str
    module: str
    run: str = ""
    measured: float
    expected: float
    threshold: float
    message: str
    remedy: str
    parameters: tuple[str, ...] = ()
    fixes: tuple[Fix, ...] = ()
    effect: str = ""
    consequences: tuple[Finding, ...] = ()

    def __str__(self) -> str:
        head = f"{self.code} {self.level}: {self.where}: {self.message}"
        return "\n    ".join((head, *self.notes))

    @property
    def notes(self) -> tuple[str, ...]:
        """What to do about it, what that will do, and what follows from it, a line each."""
        predicted = [f"predicted: {self.effect}"] if self.effect else []
        hence = [f"hence {c.title}: {c.where}: {c.message}" for c in self.consequences]
        return (f"fix: {self.remedy}", *predicted, *hence)

    @property
    def title(self) -> str:
        """Code, level and name."""
        return f"{self.code} {self.level} {self.name}"

    @property
    def where(self) -> str:
        """The layer's name, as a reader is shown it."""
        return self.module or "(root)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis(Presentable):
    """The verdict over an analysis.

    Parameters
    ----------
    findings : tuple of Finding
        One for each cause, with what follows from it attached as its ``consequences``. Errors
        first, then warnings and infos; among these the strongest cause first.
    analysis : Analysis
        What was judged.
    checks : tuple of str
        Codes of the checks that ran.
    ignored : mapping of str to int
        Findings left out by ``ignore``, counted by code.

    Examples
    --------
    >>> import torch, varprobe as vp
    >>> linear, relu = lambda: torch.nn.Linear(64, 64), torch.nn.ReLU
    >>> model = torch.nn.Sequential(*[layer() for _ in range(30) for layer in (linear, relu)])
    >>> diagnosis = vp.check(model, torch.randn(32, 64))
    >>> diagnosis.healthy
    False
    >>> [finding.code for finding in diagnosis.findings]
    ['VP301']
    >>> [finding.code for finding in diagnosis.findings[0].consequences]
    ['VP105', 'VP201']
    """

    findings: tuple[Finding, ...]
    analysis: Analysis
    checks: tuple[str, ...] = ()
    ignored: Mapping[str, int] = field(default_factory=dict)

    @property
    def healthy(self) -> bool:
        """Whether there is no finding of level error."""
        return not any(finding.level == "error" for finding in self.findings)

    @property
    def all_findings(self) -> tuple[Finding, ...]:
        """Each finding, followed by its consequences."""
        return tuple(f for finding in self.findings for f in (finding, *finding.consequences))

    @property
    def checked(self) -> str:
        """What was looked at: "48 layers, 3 draws checked"."""
        recording = self.analysis.recording
        layers, draws = len(recording.modules), recording.draws
        return (
            f"{layers} layer{'' if layers == 1 else 's'}, "
            f"{draws} draw{'' if draws == 1 else 's'} checked"
        )

    def raise_for_findings(self) -> None:
        """Raise if the model is unhealthy, do nothing otherwise.

        Raises
        ------
        PropagationError
            With all findings in its message; it is an AssertionError.
        """
        if not self.healthy:
            raise PropagationError(str(self))

    def __str__(self) -> str:
        model = self.analysis.recording.meta.get("model", "The model")
        verdict = "healthy" if self.healthy else "UNHEALTHY"
        lines = [f"{model} is {verdict}: {self.checked}."]
        lines += [str(finding) for finding in self.findings]
        if self.ignored:
            counts = ", ".join(f"{code} ({count})" for code, count in self.ignored.items())
            lines.append(f"ignored: {counts}")
        return "\n".join(lines)

    def __repr__(self) -> str:
        verdict = "healthy" if self.healthy else "unhealthy"
        return f"<Diagnosis: {verdict}, {len(self.findings)} finding(s), {self.checked}>"
