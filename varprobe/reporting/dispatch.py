"""From a result to the function that deals with results of its type."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

V = TypeVar("V")


def find_for(result: object, functions: Mapping[str, V]) -> V:
    """Return what is filed under the name of the result's class, or of one that it derives from.

    By name, because importing the classes Prediction and Comparison would import torch, and a saved
    recording is reported where there is none.

    Raises
    ------
    UnknownNameError
        If nothing is, and ``functions`` is a `varprobe.registry.Registry`.
    """
    names = [kind.__name__ for kind in type(result).__mro__]
    return functions[next((name for name in names if name in functions), names[0])]
