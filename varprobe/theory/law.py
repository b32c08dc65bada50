"""What the theory knows of a tensor: the values that stand in a rule in place of tensors.

`Law` is the second-order law of a random array over draws of the weights. `Weight` is a parameter,
`Known` a tensor whose numbers are given, `Noise` an array of independent standard normals that has
not met a layer yet, `Unknown` what no rule reached. A rule is called with these and returns a value
of its output, or a `Step` that also says how gradients go back.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import Tensor

from varprobe.initializers.laws import WeightLaw
from varprobe.theory.activation_scatter import Activation
from varprobe.theory.expectations import Field
from varprobe.theory.factors import Factor
from varprobe.theory.fluctuations import GradientSpread, Spread, join_spreads
from varprobe.theory.layout import Layout, Role
from varprobe.theory.mixing import Awaited, Mixing
from varprobe.theory.pairs import Pairs
from varprobe.theory.pointwise import IDENTITY, Pointwise
from varprobe.theory.standing import Standing

if TYPE_CHECKING:
    from varprobe.theory.scores import Scores, ScoresGradient


@dataclass(frozen=True, kw_only=True)
class Law:
    """The law of a random array: a pointwise function of a field over positions.

    Parameters
    ----------
    layout : Layout
        The roles of its axes.
    field : Field
        Second-order law of what the function is applied to.
    function : Pointwise
        Applied to each element of the field.
    thinning : float
        Probability with which an element was kept by dropout, the others are zero; kept ones are
        divided by it.
    standing : Standing
        How the law was reached.
    field_spread : Spread
        How the second moment of the field scatters at finite width.
    pooled_spread : Spread or None
        That of the array itself, where it is not made by the function alone.
    mixing : Mixing or None
        Which features of a linear layer it holds; `mixed` says whether it still does.
    statistic : Field or None
        The field over whose features it is an average, a sure number at each position.
    """

    layout: Layout
    field: Field
    function: Pointwise = IDENTITY
    thinning: float = 1.0
    standing: Standing = dataclasses.field(default_factory=Standing)
    field_spread: Spread
    pooled_spread: Spread | None = None
    mixing: Mixing | None = None
    statistic: Field | None = None

    @property
    def mixed(self) -> Mixing | None:
        """Which features of a linear layer the array holds, None if it is something else."""
        known = self.mixing
        if known is None or known.function is not self.function or self.thinning != 1.0:
            return None
        return known

    @property
    def is_gaussian(self) -> bool:
        """Whether the array is a Gaussian field, or a multiple of one."""
        if not self.field.gaussian or self.thinning != 1.0:
            return False
        slopes = self.function.slopes
        return self.is_field or (slopes is not None and slopes[0] == slopes[1])

    @property
    def is_field(self) -> bool:
        """Whether the array is its field, not a function of it."""
        return self.function is IDENTITY

    @cached_property
    def spread(self) -> Spread:
        """How the second moment scatters at finite width."""
        if self.pooled_spread is not None:
            return self.pooled_spread
        if self.is_field or not self.field.gaussian:
            return self.field_spread
        return Activation(self.field, self.features).forward(self.function, self.field_spread)

    @cached_property
    def pairs(self) -> Pairs:
        """E[x_p x_p'] of all pairs of positions."""
        pairs = self.field.pairs if self.is_field else self.field.expect_pairs(self.function)
        if self.thinning == 1.0:
            return pairs
        return pairs.add_diagonal(pairs.second_moments * (1 / self.thinning - 1))

    @cached_property
    def means(self) -> Tensor:
        """E[x_p] of each position, float64."""
        if self.is_field:
            return self.field.means
        return self.field.expect(self.function)

    @property
    def features(self) -> int:
        """Number of features."""
        return self.layout.count(Role.FEATURE)

    @property
    def elements(self) -> int:
        """Number of elements of the tensor."""
        return self.pairs.size * self.features

    def settle(self) -> Field:
        """Return the array itself as a field, forgetting what it is a function of."""
        return self._settled

    @cached_property
    def _settled(self) -> Field:
        if self.is_field and self.thinning == 1.0:
            return self.field
        return Field(self.pairs, self.means, gaussian=self.is_gaussian)


@dataclass(frozen=True, slots=True)
class Weight:
    """A parameter: the law of its elements, its shape, and its place in sets of weights.

    ``part`` says which elements of the whole it is: different parts are independent.
    """

    law: WeightLaw
    shape: tuple[int, ...]
    bit: int
    part: tuple[object, ...] = ()


@dataclass(frozen=True, slots=True)
class Complex:
    """Complex numbers: the array of their real and imaginary parts, by its last dimension."""

    parts: Law


@dataclass(frozen=True, slots=True)
class Known:
    """A tensor whose numbers are given: an input, a buffer, and what is made of them."""

    tensor: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the tensor."""
        return tuple(self.tensor.shape)


@dataclass(frozen=True, slots=True)
class Noise:
    """Independent standard normals; how its axes are read is left to the first layer."""

    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Unknown:
    """What no rule reached.

    Parameters
    ----------
    reason : str
        What stood in the way.
    op : str
        The operation without a rule.
    tainted : bool
        Whether it merely descends from that operation's output.
    """

    reason: str
    op: str
    tainted: bool = False

    def taint(self) -> Unknown:
        """Return the value of what is computed from this one."""
        return self if self.tainted else Unknown(f"follows {self.op}: {self.reason}", self.op, True)


@dataclass(frozen=True, slots=True)
class Ignored:
    """A tensor that carries no signal, or whose numbers are not known: indices, masks, shapes."""

    shape: tuple[int, ...] = ()


Value: TypeAlias = "Law | Weight | Known | Noise | Unknown | Ignored | Scores | Complex"


@dataclass(frozen=True, kw_only=True)
class Gradient:
    """The law of the gradient of a tensor: independent signal times a factor of the forward pass.

    Parameters
    ----------
    layout : Layout
        That of the tensor.
    signal : Pairs
        Pairs of the part that is independent of the tensor.
    factor : Factor or None
        What the signal was multiplied with since it met a weight; None for 1.
    signal_spread : GradientSpread
        How the second moment of the signal scatters at finite width.
    rest : Gradient or None
        A further part of the gradient, uncorrelated with this one, with a factor of its own.
    support : Tensor or None
        Which features it may differ from zero at, shape (F,); None for all.
    awaited : Awaited or None
        What it is part of.
    products : float or None
        Second moment of the gradient of a weight of the layer whose output it belongs to, where
        that is known to depend on the layer's input.
    orthogonal : bool
        Whether the sum of gradient times array is zero for each feature, as below a batch norm.
    """

    layout: Layout
    signal: Pairs
    factor: Factor | None = None
    standing: Standing = dataclasses.field(default_factory=Standing)
    signal_spread: GradientSpread
    rest: Gradient | None = None
    support: Tensor | None = None
    awaited: Awaited | None = None
    products: float | None = None
    orthogonal: bool = False

    @classmethod
    def join(cls, parts: Sequence[Gradient]) -> Gradient:
        """Return the sum of uncorrelated gradients of one part each."""
        first, *others = parts
        return replace(first, rest=cls.join(others)) if others else first

    @property
    def parts(self) -> list[Gradient]:
        """The parts, each by itself."""
        if self.rest is None:
            return [self]
        return [replace(self, rest=None), *self.rest.parts]

    @cached_property
    def pairs(self) -> Pairs:
        """E[g_p g_p'] of all pairs of positions."""
        own = self.signal if self.factor is None else self.signal * self.factor.pairs
        return own if self.rest is None else own + self.rest.pairs

    @cached_property
    def spread(self) -> GradientSpread:
        """How the second moment scatters at finite width."""
        if self.rest is not None:
            return join_signals([part.settle() for part in self.parts])
        if self.factor is None:
            return self.signal_spread
        activation = Activation(self.factor.field, self.layout.count(Role.FEATURE))
        mean = self.factor.mean
        square = self.factor.square or mean * mean
        growth = self.factor.growth
        return activation.backward(mean, square, self.signal, self.signal_spread, growth)

    def times(self, field: Field, slope: Pointwise, square: Pointwise | None = None) -> Gradient:
        """Return the gradient multiplied by a (random) function of the elements of ``field``."""
        growing = ((field, square or slope * slope),)
        return self.multiply(Factor(field=field, mean=slope, square=square, growing=growing))

    def multiply(self, step: Factor) -> Gradient:
        """Return the gradient multiplied by a factor."""
        factors = [
            (part, step if part.factor is None else part.factor.times(step))
            for part in self.look_at(step.field).parts
        ]
        parts = [replace(part, factor=factor, orthogonal=False) for part, factor in factors]
        return Gradient.join(parts)

    def look_at(self, field: Field) -> Gradient:
        """Return the gradient, forgetting its factors but for those of ``field``."""
        kept = [p for p in self.parts if p.factor is not None and p.factor.field is field]
        others = [p for p in self.parts if p.factor is None or p.factor.field is not field]
        return Gradient.join([*kept, Gradient.join(others).settle()]) if others else self

    def arrive(self) -> Gradient:
        """Return the gradient as a whole, if all its parts have met."""
        awaited = self.awaited
        if awaited is None or awaited.here is None or not awaited.is_complete:
            return self
        support = torch.isin(awaited.here, awaited.index)
        share = float(support.double().mean())
        return replace(
            self,
            signal=awaited.pairs * share,
            factor=None,
            support=None if bool(support.all()) else support,
            awaited=None,
            products=awaited.products * share,
        )

    def settle(self) -> Gradient:
        """Return the gradient as a signal, forgetting what it was multiplied with."""
        if self.factor is None and self.rest is None:
            return self
        return replace(self, signal=self.pairs, factor=None, signal_spread=self.spread, rest=None)


def join_signals(parts: Sequence[Gradient]) -> GradientSpread:
    """Return the spread of the sum of the signals of gradients that are uncorrelated."""
    return join_spreads(
        [part.signal_spread for part in parts],
        [part.signal for part in parts],
        [max(part.pairs.mean, 0.0) for part in parts],
        parts[0].layout.count(Role.FEATURE),
    )


@dataclass(frozen=True, slots=True)
class WeightGradient:
    """Second moment of the elements of a parameter's gradient, and its relative variance."""

    second_moment: float
    spread: Spread
    standing: Standing


Downstream: TypeAlias = "Gradient | ScoresGradient | WeightGradient | Unknown | None"
Backward = Callable[..., Sequence[Downstream]]
"""Called with the gradient of each output, returns that of each tensor argument, in order."""


@dataclass(frozen=True, slots=True)
class Step:
    """The output of an operation (or several), and how gradients go back through it."""

    output: Value | tuple[Value, ...]
    backward: Backward | None


def concat_bits(weights: Sequence[Weight]) -> int:
    """Return the bit set of several weights."""
    bits = 0
    for weight in weights:
        bits |= weight.bit
    return bits


def uniform_pairs(pairs: Pairs) -> Pairs:
    """Return pairs of the same size that are all 1."""
    return replace(pairs, values=torch.ones_like(pairs.values))
