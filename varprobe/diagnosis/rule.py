"""The registry of checks: a code, what it means, and the function that looks for it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from varprobe.analysis import Analysis
from varprobe.diagnosis.finding import LEVELS, Finding
from varprobe.errors import InvalidArgumentError, UnknownNameError
from varprobe.registry import Registry

Find = Callable[[Analysis, str], Iterable[Finding]]
"""Looks at one run of an analysis and yields findings."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckRule:
    """A check: what its code means, why it matters, where that is known from.

    Parameters
    ----------
    code, name, level : str
        Stable code, short name, and level of its findings.
    what, why, remedy, reference : str
        What is looked for and by which threshold; why it harms; what cures it; the source.
    find : callable
        ``(analysis, run) -> iterable of Finding``.
    """

    code: str
    name: str
    level: str
    what: str
    why: str
    remedy: str
    reference: str
    find: Find

    def report(
        self,
        module: str,
        message: str,
        *,
        run: str,
        measured: float,
        expected: float,
        threshold: float,
        remedy: str | None = None,
        level: str | None = None,
        parameters: Iterable[str] = (),
    ) -> Finding:
        """Return a finding of this check, with its own remedy and level unless others are given."""
        return Finding(
            code=self.code,
            name=self.name,
            level=level or self.level,
            module=module,
            run=run,
            measured=measured,
            expected=expected,
            threshold=threshold,
            message=message,
            remedy=remedy or self.remedy,
            parameters=tuple(parameters),
        )


RULES: Registry[str, CheckRule] = Registry("check")


def check_rule(
    code: str,
    *,
    name: str,
    what: str,
    why: str,
    remedy: str,
    reference: str = "",
    level: str = "error",
    overwrite: bool = False,
) -> Callable[[Find], Find]:
    """Register a check under a code of one's own.

    Parameters
    ----------
    code : str
        "VP" and three digits; VP001 to VP399 and VP9xx are varprobe's own.
    name, what, why, remedy, reference : str
        As in `CheckRule`; ``varprobe explain CODE`` prints them.
    level : {"error", "warning", "info"}
        Whether its findings make a model unhealthy.
    overwrite : bool
        Replace a check that has this code.

    Returns
    -------
    callable
        A decorator for ``(analysis, run) -> iterable of Finding``.

    Raises
    ------
    DuplicateNameError
        If the code is taken.
    UnknownNameError
        If there is no such level.

    Examples
    --------
    >>> import varprobe as vp
    >>> @vp.check_rule("VP450", name="wide", what="More than 10⁶ features.", why="House rule.",
    ...                remedy="Make it narrower.", level="warning", overwrite=True)
    ... def find_wide(analysis, run):
    ...     for site in analysis.select(signal="activation", run=run):
    ...         if site.first.shape[-1] > 1_000_000:
    ...             yield get_rule("VP450").report(
    ...                 site.site.module, "very wide", run=run, measured=site.first.shape[-1],
    ...                 expected=1e6, threshold=1e6)
    """
    if level not in LEVELS:
        raise UnknownNameError.among("level", level, LEVELS)
    if not (len(code) == 5 and code.startswith("VP") and code[2:].isdigit()):
        raise InvalidArgumentError(f"{code!r} is no code: expected VP and three digits, as VP450.")

    def file(find: Find) -> Find:
        rule = CheckRule(
            code=code,
            name=name,
            level=level,
            what=what,
            why=why,
            remedy=remedy,
            reference=reference,
            find=find,
        )
        RULES.register(code, overwrite=overwrite)(rule)
        return find

    return file
