"""What theory says a model does at initialization.

Two levels. The classic one is closed formulas and needs no torch: ``nonlinearities`` finds
activation functions and holds their Gaussian integrals, ``kaiming`` follows second moments through
a stack of layers, ``mean_field`` finds the fixed points of infinitely many. The other predicts a
model as it is: ``tracer`` writes down what it does, ``rules`` say how each operation turns the law
of its inputs into that of its outputs, ``propagation`` sends laws along the tape and gradients
back, ``fluctuations`` adds the error bars of a finite width, ``prediction`` is the call.

The public names are loaded when they are first used, so that the formulas can be had without torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from varprobe.theory.prediction import Prediction, predict
    from varprobe.theory.rows import Expectation
    from varprobe.theory.rules.registry import rule

__all__ = ["Expectation", "Prediction", "predict", "rule"]

_MODULE_OF = {
    "Expectation": "rows",
    "Prediction": "prediction",
    "predict": "prediction",
    "rule": "rules.registry",
}


def __getattr__(name: str) -> object:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value
