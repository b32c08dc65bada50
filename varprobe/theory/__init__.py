"""What theory says a model does at initialization.

Two levels. The classic one is closed formulas and needs no torch: ``nonlinearities`` finds
activation functions and holds their Gaussian integrals, ``kaiming`` follows second moments through
a stack of layers, ``mean_field`` finds the fixed points of infinitely many, ``phases`` maps them
over the variances of weights and biases. The other predicts a model as it is: ``tracer`` writes
down what it does, ``rules`` say how each operation turns the law of its inputs into that of its
outputs, ``propagation`` sends laws along the tape and gradients back, ``fluctuations`` adds the
error bars of a finite width, ``prediction`` is the call.

The public names are loaded when they are first used, so that the formulas can be had without torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from varprobe.loading import load_lazily

if TYPE_CHECKING:
    from varprobe.theory.phases import PhaseDiagram as PhaseDiagram, map_phases as map_phases
    from varprobe.theory.prediction import (
        Prediction as Prediction,
        predict as predict,
        predict_silently as predict_silently,
    )
    from varprobe.theory.rows import Expectation as Expectation
    from varprobe.theory.rules.registry import rule as rule

__all__, __getattr__, __dir__ = load_lazily(
    __name__,
    {
        "phases": ("PhaseDiagram", "map_phases"),
        "prediction": ("Prediction", "predict", "predict_silently"),
        "rows": ("Expectation",),
        "rules.registry": ("rule",),
    },
)
