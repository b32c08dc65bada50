"""The gain of a layer against its own input, and the gains of all layers of a net together.

Let h_p be the windows of the layer's input at the output positions, G = h hᵀ their Gram matrix,
a = w² mean|h|² with w² the *measured* second moment of the weights, b² that of the biases, and
n_out the number of output channels. The second moment of the outputs has the expectation a + b²,
and over weights of any isotropic law with this w² the variance ::

    (2 a² (tr G²/(tr G)² - 1/fan_in) + 4 a b² |mean h|²/mean|h|²) / n_out.

The first term is that of a quadratic form on a sphere (the weights' own scale is known, so that
only its anisotropy is left to chance), the second that of the cross term with the bias.

The quadratic form is a sum over the eigenvalues of G of independent χ² with n_out degrees each.
Downwards it is matched by one χ² of the same variance (Satterthwaite 1946). Upwards its tail is
heavier where one eigenvalue stands out, and how far it does is not recorded. At the same variance
the third cumulant is largest if one eigenvalue has all of it, and then Pearson's three moments
(1959) give a χ² with n_out degrees: the less significant of both scores is taken. Wilson and
Hilferty's cube root (1931, eq. 8) turns a χ² into a standard normal. Whatever the architecture did
before is in h: nothing accumulates over depth, and different layers are independent.

Among many layers some deviate by chance. Holm's procedure (1979) bounds the probability that any
right layer of a net is called wrong, whatever the layers have to do with each other.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from varprobe.moments import geometric_mean
from varprobe.recording import Record, Site

ANISOTROPY_ERROR = 0.05
"""Share of 1/fan_in below which the anisotropy of the inputs is not known: it is the difference of
two numbers, one of which is estimated from a sample of the windows to 1 or 2 %."""

Parameters = dict[tuple[str, int, int, str, str], Record]
"""Records of parameters by run, draw, step, module and name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gain:
    """The local comparison of one weighted layer.

    Parameters
    ----------
    measured : float
        Second moment of the output over that of the input.
    predicted : float
        The same from the input's energy, the weights' and the biases' second moments.
    z : float
        Significance of the difference: if the layer is what it should be, a standard normal, or
        closer to 0 where outputs are few and larger than predicted.
    """

    measured: float
    predicted: float
    z: float

    @property
    def p(self) -> float:
        """Probability of a difference at least this large, either way, in a right layer."""
        return math.erfc(abs(self.z) / math.sqrt(2.0))


@dataclass(frozen=True, slots=True, kw_only=True)
class GainTest:
    """The gain of one layer, judged among those of its net.

    Parameters
    ----------
    run : str
        Label of the run.
    step : int
        Optimizer step.
    site : Site
        The output of the layer.
    gain : Gain
        Its comparison with the layer's input; ``gain.p`` is for this layer alone.
    p_holm : float
        The same probability, adjusted for the number of layers. Calling wrong what lies below
        alpha calls any right layer of the net wrong with a probability of at most alpha.
    """

    run: str
    step: int
    site: Site
    gain: Gain
    p_holm: float


def compare_gains(records: Sequence[Record], parameters: Parameters) -> Gain | None:
    """Return the local comparison of a layer over all draws; None if it cannot be made."""
    gains = [gain for record in records if (gain := _compare_gain(record, parameters))]
    if not gains:
        return None
    # Draws are independent: Stouffer's sum of their scores is a standard normal again.
    return Gain(
        measured=geometric_mean(gain.measured for gain in gains),
        predicted=geometric_mean(gain.predicted for gain in gains),
        z=math.fsum(gain.z for gain in gains) / math.sqrt(len(gains)),
    )


def _compare_gain(record: Record, parameters: Parameters) -> Gain | None:
    received, where = record.linear_input, (record.run, record.draw, record.step)
    weight = parameters.get((*where, record.site.module, "weight"))
    if received is None or weight is None or not weight.shape:
        return None
    bias = parameters.get((*where, record.site.module, "bias"))
    driven = weight.moments.second_moment * received.energy
    constant = bias.moments.second_moment if bias else 0.0
    expected = driven + constant
    measured = record.moments.second_moment
    if not driven > 0.0 or not math.isfinite(measured):
        return None
    isotropic = 1.0 / (weight.fan_in or 1)
    anisotropy = max(1.0 / received.effective_samples - isotropic, ANISOTROPY_ERROR * isotropic)
    crossed = 4.0 * driven * constant * received.common_energy / received.energy
    variance = (2.0 * driven * driven * anisotropy + crossed) / weight.shape[0]
    variance += (weight.second_moment_error * received.energy) ** 2
    return Gain(
        measured=measured / received.second_moment,
        predicted=expected / received.second_moment,
        z=_score(measured / expected, variance / (expected * expected), weight.shape[0]),
    )


def _score(ratio: float, relative_variance: float, outputs: int) -> float:
    """Return the normal score of a sum of χ² over its expectation."""
    score = score_chi_square(ratio, relative_variance)
    if ratio <= 1.0:
        return score
    widest = 2.0 / outputs
    stretched = 1.0 + (ratio - 1.0) * math.sqrt(widest / relative_variance)
    return min(score, score_chi_square(stretched, widest))


def score_chi_square(ratio: float, relative_variance: float) -> float:
    """Return the normal score of ratio = χ²_ν/ν with ν = 2 / relative_variance."""
    ninth = relative_variance / 9.0
    return (math.cbrt(ratio) - (1.0 - ninth)) / math.sqrt(ninth)


def adjust_holm(probabilities: Iterable[float]) -> list[float]:
    """Return p-values adjusted for their number, in the order given (Holm 1979).

    The smallest of m is multiplied by m, the next by m - 1, …; none falls below one before it.

    Examples
    --------
    >>> adjust_holm([0.03, 0.01, 0.5])
    [0.06, 0.03, 0.5]
    """
    given = list(probabilities)
    adjusted, largest = [0.0] * len(given), 0.0
    for rank, index in enumerate(sorted(range(len(given)), key=given.__getitem__)):
        largest = max(largest, min(1.0, (len(given) - rank) * given[index]))
        adjusted[index] = largest
    return adjusted
