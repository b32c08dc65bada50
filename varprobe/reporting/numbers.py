"""Numbers as people read them: three digits, and a dash where there is none."""

from __future__ import annotations

import math
from collections.abc import Sequence

MISSING = "–"
"""Stands for what was not measured or cannot be predicted; a zero would be a claim."""

NAMES_SHOWN = 6
"""Names of a list that are spelled out where a line must do."""


def format_number(value: float) -> str:
    """Return ``value`` with three significant digits.

    Examples
    --------
    >>> [format_number(x) for x in (1.0, 0.012345, 1234.5, 1e-30, float("nan"))]
    ['1.00', '0.0123', '1.23e+03', '1.00e-30', '–']
    """
    return MISSING if math.isnan(value) else f"{value:#.3g}".removesuffix(".")


def format_score(value: float) -> str:
    """Return a significance with its sign and one digit behind the point."""
    return MISSING if math.isnan(value) else f"{value:+.1f}"


def format_share(value: float) -> str:
    """Return a share of 0..1 as a percentage."""
    return MISSING if math.isnan(value) else f"{value:.1%}"


def count(number: int, noun: str) -> str:
    """Return the number with its noun, in the plural where it takes one.

    Examples
    --------
    >>> count(1, "draw"), count(3, "draw")
    ('1 draw', '3 draws')
    """
    return f"{number} {noun}{'' if number == 1 else 's'}"


def shorten(names: Sequence[str], limit: int = NAMES_SHOWN) -> str:
    """Return the names as a list in one line; of a long list the beginning and the end.

    Examples
    --------
    >>> shorten(["a", "b", "c", "d"], limit=3)
    'a, b, …, d'
    """
    if len(names) <= limit:
        return ", ".join(names)
    return ", ".join([*names[: limit - 1], "…", names[-1]])
