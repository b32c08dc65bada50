"""What a project makes of the checks: which run, where, and how much their findings weigh."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from os import PathLike

from varprobe.analysis import Analysis
from varprobe.diagnosis.finding import LEVELS, Finding
from varprobe.diagnosis.rule import RULES
from varprobe.errors import InvalidArgumentError, UnknownNameError
from varprobe.settings import Settings, find_settings

PRESETS: Mapping[str, Mapping[str, str]] = {
    "strict": {"warning": "error"},
    "default": {},
    "lenient": {"error": "warning"},
}
"""By name, what becomes of a level; info stays info."""

FATAL = ("VP001", "VP203", "VP302", "VP9")
"""What stays an error under "lenient": no optimizer and no patience trains such a model."""

UNAVOIDABLE = "VP001"
"""The check that always runs, as an error: a gate that looked at nothing must not pass."""

_CODE_OR_BEGINNING = re.compile(r"VP\d{1,3}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """Which checks count, where, and as what.

    A code stands for itself, or as a beginning for all codes that begin with it: "VP2" is every
    check of gradients. VP001, nothing was recorded, always runs and is always an error.

    Parameters
    ----------
    preset : {"default", "strict", "lenient"}
        "strict" makes errors of warnings; "lenient" warnings of errors, except where nothing could
        train: nothing recorded, gradients that never arrive, constant weights, non-finite values.
    select : iterable of str, optional
        Codes of the checks to run; None runs all.
    ignore : iterable of str
        Codes whose findings are left out, and counted.
    levels : mapping of str to {"error", "warning", "info"}
        A level for each of some codes; the longest beginning wins, and wins over the preset. A
        design that a check recognises, and reports as info, stays info.
    per_layer_ignores : mapping of str to iterable of str
        Codes not to look for in the layers whose names match a pattern, as "encoder.*".

    Raises
    ------
    UnknownNameError
        If a code matches no check, or there is no such preset or level.
    InvalidArgumentError
        If VP001 is to be ignored or made less than an error.

    Examples
    --------
    >>> import torch, varprobe as vp
    >>> linear, relu = lambda: torch.nn.Linear(64, 64), torch.nn.ReLU
    >>> model = torch.nn.Sequential(*[layer() for _ in range(30) for layer in (linear, relu)])
    >>> inputs = torch.randn(32, 64)
    >>> vp.check(model, inputs).healthy
    False
    >>> vp.check(model, inputs, policy=vp.Policy(preset="lenient")).healthy
    True
    """

    preset: str = "default"
    select: Iterable[str] | None = None
    ignore: Iterable[str] = ()
    levels: Mapping[str, str] = field(default_factory=dict)
    per_layer_ignores: Mapping[str, Iterable[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check every name once, here, and not when the first finding needs it."""
        # Kept as tuples: what can be gone through only once would be empty at the second look.
        freeze = functools.partial(object.__setattr__, self)
        freeze("select", None if self.select is None else _list_codes(self.select))
        freeze("ignore", _list_codes(self.ignore))
        spared = {key: _list_codes(codes) for key, codes in self.per_layer_ignores.items()}
        freeze("per_layer_ignores", spared)
        _check_name("preset", self.preset, PRESETS)
        for code, level in self.levels.items():
            _check_name("level", level, LEVELS)
            if UNAVOIDABLE in expand_codes([code]) and level != "error":
                raise _refuse(f"be a matter of {level}")
        ignored = [self.ignore, *self.per_layer_ignores.values()]
        if any(UNAVOIDABLE in expand_codes(codes) for codes in ignored):
            raise _refuse("be ignored")
        if self.select is not None:
            expand_codes(self.select)

    @classmethod
    def load(cls, directory: str | PathLike[str] = ".") -> Policy:
        """Return the policy of a project: ``[tool.varprobe]`` of the nearest pyproject.toml.

        The command line and the pytest fixture do this by themselves; a call from Python does what
        its arguments say.

        Parameters
        ----------
        directory : path
            Where to look first, then in the folders above it. Without such a table the policy is
            the default.

        Raises
        ------
        SettingsError
            If the table has a key, a code or a value that means nothing.

        Examples
        --------
        >>> import varprobe as vp
        >>> vp.Policy.load("/").preset
        'default'
        """
        return cls.of(find_settings(directory))

    @classmethod
    def of(cls, settings: Settings) -> Policy:
        """Return the policy that settings ask for, their mistakes named with their file."""
        try:
            return cls(
                preset=settings.preset,
                select=settings.select,
                ignore=settings.ignore,
                levels=settings.levels,
                per_layer_ignores=settings.per_layer_ignores,
            )
        except (InvalidArgumentError, UnknownNameError) as error:
            raise settings.blame(str(error)) from error

    def override(
        self,
        *,
        preset: str | None = None,
        select: Iterable[str] | None = None,
        ignore: Iterable[str] | None = None,
    ) -> Policy:
        """Return the policy with what is given in place of its own; None keeps its own."""
        return replace(
            self,
            preset=self.preset if preset is None else preset,
            select=self.select if select is None else select,
            ignore=self.ignore if ignore is None else ignore,
        )

    @property
    def checks(self) -> tuple[str, ...]:
        """Codes of the checks that run."""
        chosen = set(RULES) if self.select is None else {UNAVOIDABLE, *expand_codes(self.select)}
        return tuple(sorted(chosen))

    def find(self, code: str, analysis: Analysis, run: str) -> tuple[list[Finding], list[Finding]]:
        """Run a check over one run; return what counts, at its level, and what is ignored.

        Layers that are spared this check are taken out of its sight, not out of its findings: one
        finding may speak for many layers, and is about the first of those that are left.
        """
        rule = RULES[code]
        found = list(rule.find(analysis, run))
        if code in expand_codes(self.ignore):
            return [], found
        spared = self._list_spared(code, analysis)
        ignored = [finding for finding in found if finding.module in spared]
        if spared:
            rest = tuple(site for site in analysis.sites if site.site.module not in spared)
            found = [
                finding
                for finding in rule.find(replace(analysis, sites=rest), run)
                if finding.module not in spared
            ]
        return [replace(finding, level=self._weigh(finding)) for finding in found], ignored

    def _list_spared(self, code: str, analysis: Analysis) -> set[str]:
        patterns = [
            pattern
            for pattern, codes in self.per_layer_ignores.items()
            if code in expand_codes(codes)
        ]
        modules = {site.site.module for site in analysis.sites} if patterns else set()
        return {name for name in modules for p in patterns if fnmatchcase(name, p)}

    def _weigh(self, finding: Finding) -> str:
        """Return the level of a finding under this policy."""
        code, level = finding.code, finding.level
        if level == "info" and RULES[code].level != "info":
            return level
        named = [given for given in self.levels if code.startswith(_normalize(given))]
        if named:
            return self.levels[max(named, key=lambda given: len(_normalize(given)))]
        if self.preset == "lenient" and code.startswith(FATAL):
            return level
        return PRESETS[self.preset].get(level, level)


def expand_codes(codes: Iterable[str]) -> set[str]:
    """Return the codes of the checks that these codes and beginnings of codes stand for.

    Raises
    ------
    UnknownNameError
        If one of them stands for none.
    """
    expanded: set[str] = set()
    for given in _list_codes(codes):
        code = _normalize(given)
        # Everything begins with nothing: an empty code would stand for every check.
        meant = {known for known in RULES if known.startswith(code)}
        known = meant if _CODE_OR_BEGINNING.fullmatch(code) else set()
        expanded |= known or {RULES[code].code}
    return expanded


def _list_codes(codes: Iterable[str]) -> tuple[str, ...]:
    return (codes,) if isinstance(codes, str) else tuple(codes)


def _normalize(code: str) -> str:
    return code.strip().upper()


def _check_name(what: str, name: str, known: Iterable[str]) -> None:
    if name not in known:
        raise UnknownNameError.among(what, name, known)


def _refuse(fate: str) -> InvalidArgumentError:
    return InvalidArgumentError(
        f"{UNAVOIDABLE} cannot {fate}: it says that nothing was looked at, and a gate that looked "
        "at nothing must not pass. Do what its finding says, or leave the model out."
    )
