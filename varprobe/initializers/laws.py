"""The distributions that weights are drawn from, and the variance laws of the literature.

Plain numbers in, plain numbers out: nothing here needs torch. A fan is the number of weights that
feed one output element (fan_in) or that one input element feeds (fan_out).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from varprobe.errors import InvalidArgumentError

TRUNCATION = 2.0
"""Where a truncated normal is cut, in standard deviations of the uncut one (timm, JAX, Keras)."""

_DENSITY = math.exp(-(TRUNCATION**2) / 2) / math.sqrt(2 * math.pi)
_KEPT = math.erf(TRUNCATION / math.sqrt(2))

TRUNCATED_VARIANCE = 1 - 2 * TRUNCATION * _DENSITY / _KEPT
"""Variance that is left of a unit normal cut at ±2: 0.7737."""

_TRUNCATED_FOURTH = 3 - 2 * TRUNCATION * (TRUNCATION**2 + 3) * _DENSITY / _KEPT

NORMAL_KURTOSIS = 3.0
UNIFORM_KURTOSIS = 1.8
TRUNCATED_KURTOSIS = _TRUNCATED_FOURTH / TRUNCATED_VARIANCE**2
"""Fourth over squared second central moment of a normal cut at ±2 standard deviations: 2.366."""

CONSTANT_KURTOSIS = 1.0
"""The least that a kurtosis can be: the sample variance of a constant has no scatter."""


@dataclass(frozen=True, slots=True)
class WeightLaw:
    """The distribution of the elements of one parameter over draws of the weights.

    Attributes
    ----------
    distribution : str
        "normal", "uniform", "trunc_normal" (cut at ±2 standard deviations of the uncut normal),
        "orthogonal", "constant", "measured" (moments of numbers, form unknown), or "other" (moments
        of a draw of another form, or of parts that are drawn from different forms).
    mean : float
        Mean of an element.
    variance : float
        Centred variance of an element, after any truncation, ≥ 0.
    kurtosis : float
        Fourth central moment over squared variance. The logarithm of the sample variance of N
        independent elements scatters by ``sqrt((kurtosis - 1) / N)``.

    Examples
    --------
    >>> WeightLaw.uniform(variance=default_variance(300))
    WeightLaw(distribution='uniform', mean=0.0, variance=0.0011111111111111111, kurtosis=1.8)
    """

    distribution: str
    mean: float
    variance: float
    kurtosis: float

    @classmethod
    def normal(cls, variance: float, mean: float = 0.0) -> WeightLaw:
        """Return N(mean, variance)."""
        return cls("normal", mean, variance, NORMAL_KURTOSIS)

    @classmethod
    def uniform(cls, variance: float, mean: float = 0.0) -> WeightLaw:
        """Return U(mean - b, mean + b) with b = sqrt(3 variance)."""
        return cls("uniform", mean, variance, UNIFORM_KURTOSIS)

    @classmethod
    def trunc_normal(cls, std: float, mean: float = 0.0) -> WeightLaw:
        """Return N(mean, std²) cut at mean ± 2 std; its variance is 0.7737 std²."""
        return cls("trunc_normal", mean, TRUNCATED_VARIANCE * std**2, TRUNCATED_KURTOSIS)

    @classmethod
    def orthogonal(cls, longer: int, gain: float = 1.0) -> WeightLaw:
        """Return the law of an element of ``gain`` times a random semi-orthogonal matrix.

        With the vectors along the ``longer`` side orthonormal, each is uniform on the sphere in
        that many dimensions n: E w² = 1/n, E w⁴ = 3 / (n (n + 2)). Source: Saxe, McClelland and
        Ganguli 2014 (arXiv 1312.6120).
        """
        _check_fan(longer)
        return cls("orthogonal", 0.0, gain**2 / longer, 3 * longer / (longer + 2))

    @classmethod
    def constant(cls, value: float) -> WeightLaw:
        """Return the law of an element that is always ``value``."""
        return cls("constant", value, 0.0, CONSTANT_KURTOSIS)

    @property
    def second_moment(self) -> float:
        """Mean of squares, E w² = variance + mean²."""
        return self.variance + self.mean**2


def kaiming_variance(fan: int, *, gain_squared: float = 2.0) -> float:
    """Return the weight variance that keeps the second moment behind a rectifier: gain² / fan.

    With fan = fan_in the activations keep their scale, with fan_out the gradients. Assumes
    independent weights of mean zero and pre-activations symmetric about zero, for which
    E relu(x)² = E x² / 2 (hence gain² = 2), and 2 / (1 + a²) for a leaky ReLU of slope a.
    Source: He et al. 2015 (arXiv 1502.01852), eq. 10 (forward), 14 (backward), 15 (leaky).

    Examples
    --------
    >>> [round(kaiming_variance(9 * width) ** 0.5, 4) for width in (64, 128, 256, 512)]
    [0.0589, 0.0417, 0.0295, 0.0208]
    """
    _check_fan(fan)
    return gain_squared / fan


def xavier_variance(fan_in: int, fan_out: int, *, gain_squared: float = 1.0) -> float:
    """Return 2 gain² / (fan_in + fan_out), the compromise between both directions.

    Assumes activations that are linear around zero. Source: Glorot and Bengio 2010, eq. 12; the
    uniform form is eq. 16.

    Examples
    --------
    >>> xavier_variance(100, 100)
    0.01
    """
    _check_fan(fan_in + fan_out)
    return 2 * gain_squared / (fan_in + fan_out)


def lecun_variance(fan: int) -> float:
    """Return 1 / fan: a linear layer then keeps the second moment of its input.

    Source: LeCun, Bottou, Orr and Müller 1998, "Efficient BackProp", eq. 16; the law that SELU
    needs (Klambauer et al. 2017, arXiv 1706.02515).

    Examples
    --------
    >>> lecun_variance(4)
    0.25
    """
    _check_fan(fan)
    return 1 / fan


def default_variance(fan_in: int) -> float:
    """Return 1 / (3 fan_in), what Linear and ConvNd draw from when nothing is asked of them.

    PyTorch calls kaiming_uniform_(a=sqrt(5)), which is U(±1/sqrt(fan_in)), for weight and bias:
    the "standard" initialization of Glorot and Bengio 2010, eq. 1.

    Examples
    --------
    >>> round(default_variance(100), 6)
    0.003333
    """
    _check_fan(fan_in)
    return 1 / (3 * fan_in)


def _check_fan(fan: int) -> None:
    if fan <= 0:
        raise InvalidArgumentError(
            f"A fan counts the weights of a layer and is at least 1, got {fan}."
        )
