"""Numbers as people write them down: of all in an interval, those with the fewest digits."""

from __future__ import annotations

import math

MAX_DIGITS = 2
MAX_FOUND = 3
"""How many numbers of equal length are returned."""


def find_roundest(low: float, high: float) -> list[float]:
    """Return the numbers of an interval that take the fewest digits, at most three of them.

    Parameters
    ----------
    low, high : float
        Ends of the interval, which belong to it.

    Returns
    -------
    list of float
        The one nearest to the middle first; empty if two digits are not enough.

    Examples
    --------
    >>> find_roundest(0.0192, 0.0207), find_roundest(0.0236, 0.0262), find_roundest(-0.01, 0.2)
    ([0.02], [0.025, 0.024, 0.026], [0.0])
    >>> find_roundest(0.1234, 0.1239)
    []
    """
    if low <= 0 <= high:
        return [0.0]
    if high < 0:
        return [-number for number in find_roundest(-high, -low)]
    for digits in range(1, MAX_DIGITS + 1):
        exponent = math.floor(math.log10(high)) - digits + 1
        # Through its decimal form: 3 * 0.1 is not 0.3.
        numbers = [float(f"{n}e{exponent}") for n in range(1, 10**digits + 1)]
        inside = [number for number in numbers if low <= number <= high]
        if inside:
            return sorted(inside, key=lambda number: abs(number - (low + high) / 2))[:MAX_FOUND]
    return []


def find_only_digit(number: float) -> int:
    """Return the digit of a positive number that has only one; 0 if it has more.

    Examples
    --------
    >>> find_only_digit(0.006), find_only_digit(0.015)
    (6, 0)
    """
    mantissa = float(f"{number:e}".partition("e")[0])
    return int(mantissa) if mantissa.is_integer() else 0
