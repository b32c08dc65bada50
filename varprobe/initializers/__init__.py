"""Named initializations: what each draws from, and how to apply it to a model.

``named`` is the table of them and the registry; ``laws`` holds the formulas; ``application`` puts
an initialization on a model. Behind them, ``scheme`` says what every initialization can do,
``drawn``, ``default`` and ``custom`` are its three kinds, ``sampling`` draws numbers,
``assignment`` writes them into parameters, and ``seeding`` makes them repeatable.

The public names are loaded when they are first used, so that ``laws`` can be had without torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from varprobe.initializers.application import initialize, law_of
    from varprobe.initializers.laws import WeightLaw
    from varprobe.initializers.named import initialization

__all__ = ["WeightLaw", "initialization", "initialize", "law_of"]

_MODULE_OF = {
    "WeightLaw": "laws",
    "initialization": "named",
    "initialize": "application",
    "law_of": "application",
}


def __getattr__(name: str) -> object:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value
