"""Whether a parameter has mean zero: what is measured of given numbers is so up to noise."""

from __future__ import annotations

import math

from varprobe.errors import MissingRuleError
from varprobe.theory.law import Weight

SIGNIFICANT = 4.0
"""Standard errors beyond which the mean of a given weight is not its sampling noise."""


def zero_mean_variance(weight: Weight) -> float:
    """Return the second moment of a weight whose mean is zero up to sampling noise.

    Raises
    ------
    MissingRuleError
        If it is not: features are then no longer independent.
    """
    mean = significant_mean(weight)
    if mean:
        raise MissingRuleError(f"the weight's mean is {mean:.3g}, not zero")
    return weight.law.second_moment


def significant_mean(weight: Weight) -> float:
    """Return the mean of a parameter's law, 0 where it is the noise of measured numbers."""
    law = weight.law
    noise = SIGNIFICANT * math.sqrt(law.variance / math.prod(weight.shape))
    return law.mean if law.distribution != "measured" or abs(law.mean) > noise else 0.0
