"""VP106: a chain of layers that is too deep for its width.

He's law keeps the mean over draws of a second moment; what one draw passes on is a product of
random matrices. Over l layers of width n the squared singular values of that product spread: their
variance is l μ₂/μ₁² times their squared mean (μ_k: mean of the 2k-th power of the slope; 2 l for
ReLU, Pennington et al. 2018, section 2.4), so that they are worth n / (1 + 2 l) directions. Where
that is less than one, the chain passes a single direction, whatever its gain: samples that differ
in other ways are parallel behind it. Orthogonal weights, norms over the batch and nonlinearities
that are nearly linear spread them less. So it is an error only where samples have become parallel.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from varprobe.analysis import Analysis, SiteAnalysis
from varprobe.diagnosis.collapse import ROUNDING
from varprobe.diagnosis.finding import Finding
from varprobe.diagnosis.rule import RULES, check_rule
from varprobe.diagnosis.stacks import find_stacks

RELU_SPREAD = 2.0
"""What a ReLU layer adds to the relative variance of the squared singular values: μ₂/μ₁² = 1/2 over
1/4. Of the usual nonlinearities none adds more."""

MAX_SLENDERNESS = 1.0
"""Sum of `RELU_SPREAD` over width that a chain may reach: above it, less than one direction of a
random product is left. Under He's law ReLU nets of width 32 train at 10 layers (0.6) and stall at
20 (1.2), those of width 64 train at 20 (0.6) and stall at 50 (1.5)."""

MIN_ANGLE = 0.25
"""Share of the mean squared sine between samples that must be left. Of nets beyond
`MAX_SLENDERNESS` on scikit-learn's digits those that train keep one half and more, but for one with
LayerNorm at the very border; most that do not keep a sixth and less. It is read off
them: no theory gives this number."""


@check_rule(
    "VP106",
    name="too deep for its width",
    what=f"In a chain of equal layers without a way around, {RELU_SPREAD:g} / width summed over "
    f"depth is above {MAX_SLENDERNESS:g}, and samples are parallel at its end: less than "
    f"{MIN_ANGLE:g} of the mean squared sine between them is left.",
    why="A product of so many random matrices passes one direction only, whatever the gain. "
    "Training has to untangle the chain before it can tell samples apart.",
    remedy="Fewer layers, wider ones, or a way around them: residual connections. In between, "
    "orthogonal weights help where the nonlinearity is nearly linear.",
    reference="Pennington et al. 2018, section 2.4; Hanin 2018; Hanin and Nica 2020.",
)
def find_narrow_chains(analysis: Analysis, run: str) -> Iterator[Finding]:
    """Yield a finding for each chain that passes a single direction."""
    for stack in find_stacks(analysis, run, signal="activation"):
        if not stack.is_chain:
            continue
        first, last = stack.sites[0], stack.sites[-1]
        # Every position of an image, and every token, brings directions of its own.
        units = math.prod(last.first.shape[1:])
        depth = len(stack.sites) - 1
        slenderness = depth * RELU_SPREAD / units
        entered, left = max(map(_measure_angle, stack.sites)), _measure_angle(last)
        # Neither holds of an angle that is not known.
        is_harmed = entered > ROUNDING and left < MIN_ANGLE * entered
        if slenderness <= MAX_SLENDERNESS or not is_harmed:
            continue
        yield RULES["VP106"].report(
            last.site.module,
            f"{depth} layers of {units} units behind {first.site.module or 'the root'}: "
            f"{RELU_SPREAD:g} × depth / width is {slenderness:.3g}, and up to {MAX_SLENDERNESS:g} "
            f"more than one direction passes; the mean squared sine between samples falls from "
            f"{entered:.2g} to {left:.2g}",
            run=run,
            measured=slenderness,
            expected=0.0,
            threshold=MAX_SLENDERNESS,
        )


def _measure_angle(site: SiteAnalysis) -> float:
    """Return the mean squared sine between what a layer receives; NaN where it is not known.

    The squared cosine, averaged over pairs and with the weight of their energies, is the reciprocal
    of the number of samples that they are worth.
    """
    received = [record.linear_input for record in site.records]
    cosines = [1.0 / r.effective_samples for r in received if r is not None]
    return 1.0 - math.fsum(cosines) / len(cosines) if cosines else math.nan
