"""What the formats for machines that gate have in common: which verdicts, about which source."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from varprobe.diagnosis import RULES, Diagnosis, Finding
from varprobe.registry import Registry
from varprobe.reporting.dispatch import find_for

if TYPE_CHECKING:
    from varprobe.comparison import Comparison

_VERDICTS: Registry[str, Callable[[Any], Mapping[str, Diagnosis]]] = Registry(
    "kind of result with a verdict"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """What the verdict is about, beyond the model itself.

    Parameters
    ----------
    name : str
        What the model is called where the verdict is asked for, as "models.py:build".
    path : str
        The file in which it is written down, relative to the repository; "" if in none of its.
    line : int
        Where in the file, from 1 on.
    """

    name: str
    path: str = ""
    line: int = 1


def list_verdicts(result: object) -> Mapping[str, Diagnosis]:
    """Return the verdicts that a result holds, by the label of their run, "" where there is one.

    Raises
    ------
    UnknownNameError
        If it holds none: a Recording, a Prediction or an Analysis judges nothing.
    """
    return find_for(result, _VERDICTS)(result)


@_VERDICTS.register("Diagnosis")
def _list_one(diagnosis: Diagnosis) -> Mapping[str, Diagnosis]:
    return {"": diagnosis}


@_VERDICTS.register("Comparison")
def _list_several(comparison: Comparison) -> Mapping[str, Diagnosis]:
    return comparison.diagnoses


def list_codes(diagnosis: Diagnosis) -> list[str]:
    """Return the codes that a verdict speaks about: of the checks that ran, and of what they found.

    A verdict made by hand may have findings of checks that nobody registered.
    """
    found = [finding.code for finding in diagnosis.all_findings]
    return sorted({*diagnosis.checks, *found, *diagnosis.ignored})


def name_check(code: str, findings: tuple[Finding, ...] = ()) -> str:
    """Return what a check is called: "vanishing activations"."""
    own = next((finding.name for finding in findings if finding.code == code), code)
    return RULES[code].name if code in RULES else own
