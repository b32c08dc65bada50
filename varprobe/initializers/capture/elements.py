"""The distribution of one number that an initializer has drawn, and functions of it.

A number is ``loc + scale z``, where z has a standard form on quadrature nodes. An operation on it
is run on the nodes themselves: if it turns out to be affine the form stays and with it the exact
moments, else the numbers that come out are the nodes of a form without a name.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import torch
from scipy.special import ndtri
from torch import Tensor

from varprobe.initializers.laws import (
    CONSTANT_KURTOSIS,
    NORMAL_KURTOSIS,
    TRUNCATED_KURTOSIS,
    TRUNCATED_VARIANCE,
    TRUNCATION,
    UNIFORM_KURTOSIS,
    WeightLaw,
)

NEVER_CUT = 6.0
"""Where a cut no longer counts, in standard deviations: it takes 2e-9 of the normal away, and
7e-8 of its variance."""

FARTHEST = 10.0
"""Where the nodes of a normal end; beyond lie 1e-23 of it and 1e-19 of its fourth moment."""

ROUNDING = 1e-12
"""What still is a straight line, relative to the largest value on it, or a mean of zero."""

EXACT = {
    "normal": (1.0, NORMAL_KURTOSIS),
    "uniform": (1 / 3, UNIFORM_KURTOSIS),
    "trunc_normal": (TRUNCATED_VARIANCE, TRUNCATED_KURTOSIS),
    "constant": (0.0, CONSTANT_KURTOSIS),
}
"""Variance and kurtosis of the standard forms: N(0, 1), U(-1, 1), N(0, 1) cut at ±2, 0."""


@dataclass(frozen=True, slots=True)
class Moments:
    """Mean, variance, and third and fourth central moment."""

    mean: float
    variance: float
    third: float
    fourth: float


@dataclass(frozen=True, slots=True, eq=False)
class Element:
    """The distribution of ``loc + scale z``.

    Attributes
    ----------
    form : str
        What z is: a key of `EXACT`, "orthogonal", "measured" (numbers that nothing has drawn), or
        "other".
    nodes, weights : tensor
        Where z lies and with what probability, float64, of one dimension.
    loc, scale : float
        Where the number lies, and how widely it scatters.
    source : int or None
        The draw that the number is a function of, None for a constant. Two tensors of one source
        depend on each other element by element, and the nodes of both run over the same draws.
    """

    form: str
    nodes: Tensor
    weights: Tensor
    loc: float = 0.0
    scale: float = 1.0
    source: int | None = None

    @property
    def values(self) -> Tensor:
        """The nodes of the number itself."""
        return self.loc + self.scale * self.nodes

    @property
    def is_constant(self) -> bool:
        """Whether it is one number."""
        return self.form == "constant"

    def moments(self) -> Moments:
        """Return its moments: of a standard form exactly."""
        if self.form in EXACT:
            variance, kurtosis = EXACT[self.form]
            variance *= self.scale**2
            return Moments(self.loc, variance, 0.0, kurtosis * variance**2)
        mean = float(self.weights @ self.nodes)
        powers = [float(self.weights @ (self.nodes - mean) ** k) for k in (2, 3, 4)]
        if abs(mean) <= ROUNDING * math.sqrt(powers[0]):
            mean = 0.0  # of a symmetric form, whose nodes cancel but for rounding
        second, third, fourth = (p * self.scale**k for k, p in zip((2, 3, 4), powers, strict=True))
        if self.form == "orthogonal":
            return Moments(self.loc, second, 0.0, fourth)
        return Moments(self.loc + self.scale * mean, second, third, fourth)


def constant(value: float) -> Element:
    """Return the number ``value``."""
    return Element(
        "constant", torch.zeros(1, dtype=torch.float64), _ONE, loc=float(value), scale=0.0
    )


def normal(mean: float, std: float, source: int) -> Element:
    """Return N(mean, std²)."""
    return truncated_normal(mean, std, -math.inf, math.inf, source)


def uniform(low: float, high: float, source: int) -> Element:
    """Return U(low, high)."""
    if low == high:
        return constant(low)
    nodes, weights = _uniform_nodes()
    return Element("uniform", nodes, weights, (low + high) / 2, (high - low) / 2, source)


def truncated_normal(mean: float, std: float, low: float, high: float, source: int) -> Element:
    """Return N(mean, std²), of which only what lies between ``low`` and ``high`` is kept."""
    if std == 0:
        return constant(mean)
    form, nodes, weights = _cut_normal((low - mean) / std, (high - mean) / std)
    return Element(form, nodes, weights, float(mean), float(std), source)


def orthogonal(longer: int, gain: float, source: int) -> Element:
    """Return one coordinate of a vector on the sphere of radius ``gain`` in so many dimensions."""
    nodes, weights = _sphere_nodes(longer)
    return Element("orthogonal", nodes, weights, 0.0, float(gain), source)


def numbers(values: Tensor, source: int) -> Element:
    """Return the distribution of some numbers over their places in a tensor."""
    found, counts = torch.unique(values.detach().double(), return_counts=True)
    if len(found) == 1:
        return constant(float(found))
    return Element("measured", found, counts.double() / counts.sum(), source=source)


def dilute(element: Element, zeros: float) -> Element:
    """Return the number, or with the probability ``zeros`` a zero in its place."""
    values = torch.cat([element.values, torch.zeros(1, dtype=torch.float64)])
    weights = torch.cat([element.weights * (1 - zeros), _ONE * zeros])
    return Element("other", values, weights, source=element.source)


def compute(operate: Callable[..., Tensor], operands: Sequence[Element]) -> Element | str:
    """Return what a pointwise operation makes of numbers, or why that cannot be told.

    Parameters
    ----------
    operate : callable
        Takes a float64 tensor for each operand, all of one length.
    operands : sequence of Element
        What they stand for.
    """
    drawn = [operand for operand in operands if not operand.is_constant]
    if not drawn:
        return constant(float(operate(*(operand.values for operand in operands))))
    first = drawn[0]
    if any(operand.source != first.source for operand in drawn):
        return "several draws meet"
    # Before the nodes three points by which a straight line is known.
    result = operate(
        *(
            operand.loc + operand.scale * torch.cat([_CENTRE, operand.nodes])
            if operand.source == first.source
            else operand.values.expand(len(_CENTRE) + len(first.nodes))
            for operand in operands
        )
    )
    if not result.dtype.is_floating_point:
        # Nodes tell the mean of a smooth function. How often a threshold is passed they do not.
        return "a function of its draw that jumps"
    centre, ends, values = result[0].double(), result[1:3].double(), result[3:].double()
    if not bool(values.isfinite().all()):
        return "values that are not finite"
    loc, scale = float(centre), float(ends[1] - ends[0]) / 2
    line = loc + scale * first.nodes
    if bool(((values - line).abs() <= ROUNDING * values.abs().max()).all()):
        return constant(loc) if scale == 0 else replace(first, loc=loc, scale=scale)
    return Element("other", values, first.weights, source=first.source)


def invert_error_function(element: Element, source: int) -> Element | str:
    """Return erfinv of a uniform number: a normal of variance 1/2, cut where the uniform ends.

    It counts as a draw of its own, since its nodes are others.
    """
    low, high = element.loc - element.scale, element.loc + element.scale
    if element.form != "uniform" or max(abs(low), abs(high)) > 1 + ROUNDING:
        return compute(torch.erfinv, [element])
    cuts = ndtri(np.clip([(1 + low) / 2, (1 + high) / 2], 0, 1))
    form, nodes, weights = _cut_normal(float(cuts[0]), float(cuts[1]))
    return Element(form, nodes, weights, 0.0, math.sqrt(0.5), source)


def pool(parts: Iterable[tuple[Element, int]]) -> WeightLaw:
    """Return the law of an element of a tensor that has so many elements of each distribution."""
    counted = [(part, part.moments(), count) for part, count in parts if count]
    first, *others = dict.fromkeys(_law(part) for part, *_ in counted)
    if not others:
        return first
    total = sum(count for *_, count in counted)
    mean = math.fsum(m.mean * count for _, m, count in counted) / total
    variance = fourth = 0.0
    for _, m, count in counted:
        share, shift = count / total, m.mean - mean
        variance += share * (m.variance + shift**2)
        fourth += share * (m.fourth + 4 * shift * m.third + 6 * shift**2 * m.variance + shift**4)
    if variance <= ROUNDING**2 * mean**2:
        return WeightLaw.constant(mean)
    fixed = all(part.form in ("constant", "measured") for part, *_ in counted)
    return WeightLaw("measured" if fixed else "other", mean, variance, fourth / variance**2)


def _law(element: Element) -> WeightLaw:
    found = element.moments()
    if element.is_constant:
        return WeightLaw.constant(found.mean)
    form = element.form
    if form == "orthogonal" and found.mean:
        form = "other"
    kurtosis = EXACT[form][1] if form in EXACT else found.fourth / found.variance**2
    return WeightLaw(form, found.mean, found.variance, kurtosis)


_ONE = torch.ones(1, dtype=torch.float64)
_CENTRE = torch.tensor([0.0, -1.0, 1.0], dtype=torch.float64)


def _panels(edges: np.ndarray, order: int = 8) -> tuple[np.ndarray, np.ndarray]:
    """Return the Gauss-Legendre nodes and weights of all panels between the edges."""
    nodes, weights = np.polynomial.legendre.leggauss(order)
    half = np.diff(edges)[:, None] / 2
    middle = (edges[1:] + edges[:-1])[:, None] / 2
    return (middle + half * nodes).ravel(), (half * weights).ravel()


def _to_tensors(nodes: np.ndarray, weights: np.ndarray) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(nodes), torch.from_numpy(weights / weights.sum())


@cache
def _uniform_nodes() -> tuple[Tensor, Tensor]:
    # Panels that halve towards both ends, where logarithms and inverse distribution functions have
    # their poles, and edges at the quarters, where clamps and absolute values have their kinks.
    towards_end = 1 - 2.0 ** -np.arange(4.0, 41.0)
    inner = np.linspace(0, 1 - 2.0**-3, 15)
    half = np.concatenate([inner, towards_end, [1.0]])
    nodes, weights = _panels(half)
    return _to_tensors(
        np.concatenate([-nodes[::-1], nodes]), np.concatenate([weights[::-1], weights])
    )


@cache
def _cut_normal(low: float, high: float) -> tuple[str, Tensor, Tensor]:
    """Return form, nodes and weights of a unit normal that is cut at ``low`` and ``high``."""
    form = "other"
    if low < -NEVER_CUT and high > NEVER_CUT:
        form, low, high = "normal", -math.inf, math.inf
    elif max(abs(low + TRUNCATION), abs(high - TRUNCATION)) < 1e-6:
        form, low, high = "trunc_normal", -TRUNCATION, TRUNCATION
    peak = min(max(low, 0.0), high)
    start, end = max(low, peak - FARTHEST), min(high, peak + FARTHEST)
    nodes, weights = _panels(np.linspace(start, end, 81))
    return form, *_to_tensors(nodes, weights * np.exp((peak**2 - nodes**2) / 2))


@cache
def _sphere_nodes(longer: int) -> tuple[Tensor, Tensor]:
    """Return nodes and weights of a coordinate of a uniform unit vector."""
    if longer == 1:
        return _to_tensors(np.array([-1.0, 1.0]), np.array([1.0, 1.0]))
    # x = sin t has the density cos(t)^(n - 2).
    end = min(math.pi / 2, FARTHEST / math.sqrt(longer))
    angles, weights = _panels(np.linspace(-end, end, 81))
    return _to_tensors(np.sin(angles), weights * np.cos(angles) ** (longer - 2))
