"""Plots as Display objects: numbers in the constructor, matplotlib only inside ``plot``."""

from varprobe.plotting.compare import CompareDisplay, plot_compare
from varprobe.plotting.curves import Curve
from varprobe.plotting.depth import DepthDisplay, plot_depth
from varprobe.plotting.origins import IdentificationDisplay, plot_identification
from varprobe.plotting.phase import PhaseDisplay, plot_phase

__all__ = [
    "CompareDisplay",
    "Curve",
    "DepthDisplay",
    "IdentificationDisplay",
    "PhaseDisplay",
    "plot_compare",
    "plot_depth",
    "plot_identification",
    "plot_phase",
]
