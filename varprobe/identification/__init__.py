"""Recognise initializations: which distribution and which variance law drew each parameter.

``numbers`` is what is measured of a tensor. ``forms`` knows what is exact or structural (zeros,
identity, orthogonal), ``continuous`` tells normal, uniform and truncated normal apart,
``independence`` tells drawn from trained matrices,
``recognition`` asks both, of a tensor or of its blocks. ``variance_laws`` lists the laws that a
parameter's fans allow and keeps those that the numbers do, ``parameters`` walks a model,
``expectation`` finds the nonlinearity behind each layer, ``origins`` holds the results, and
``identifying`` is the call.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from varprobe.loading import load_lazily

if TYPE_CHECKING:
    from varprobe.identification.identifying import identify as identify
    from varprobe.identification.origins import (
        Identification as Identification,
        Origin as Origin,
    )
    from varprobe.identification.variance_laws import VarianceLaw as VarianceLaw

__all__, __getattr__, __dir__ = load_lazily(
    __name__,
    {
        "identifying": ("identify",),
        "origins": ("Identification", "Origin"),
        "variance_laws": ("VarianceLaw",),
    },
)
