"""Estimates by draws, for what no rule of theory reaches.

The tape of a model runs on numbers, for several draws of its weights side by side: `sources` draws
what no operation makes, `replay` runs the operations forward and back, `contraction` holds the
layers that theory knows to the scale that it expects of them, `estimate` pools what was seen.
"""

from varprobe.theory.sampling.estimate import Estimate
from varprobe.theory.sampling.replay import Sampled, sample

__all__ = ["Estimate", "Sampled", "sample"]
