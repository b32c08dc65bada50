"""Every pointwise operation: it is composed with what its arguments are functions of.

There is no table of activation functions. The operation itself runs on quadrature nodes, forward
and (through autograd) for its slope.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.utils import _pytree as pytree

from varprobe.errors import MissingRuleError
from varprobe.initializers.laws import WeightLaw
from varprobe.theory.expectations import Field
from varprobe.theory.fluctuations import Spread, scatter_products
from varprobe.theory.law import (
    Downstream,
    Gradient,
    Ignored,
    Known,
    Law,
    Noise,
    Step,
    Weight,
    WeightGradient,
    uniform_pairs,
)
from varprobe.theory.layout import Role
from varprobe.theory.pointwise import Pointwise, differentiate, scale_by
from varprobe.theory.rules.contraction import realize_gradient
from varprobe.theory.rules.reading import default_feature_dim, read_law

aten = torch.ops.aten

SQUARE = "squares of an array that is no Gaussian, spread like those of one"

UNTAGGED = frozenset({aten.hardswish, aten.hardswish_, aten.log_sigmoid, aten._prelu_kernel})
"""Pointwise operations that torch does not tag as such."""


def is_pointwise(op: OpOverload) -> bool:
    """Return whether an operation acts on each element by itself, and is not random."""
    if torch.Tag.nondeterministic_seeded in op.tags:
        return False
    return torch.Tag.pointwise in op.tags or op.overloadpacket in UNTAGGED


def to_functional(op: OpOverload) -> OpOverload:
    """Return the twin of an in-place operation that returns its result.

    Raises
    ------
    MissingRuleError
        If there is none.
    """
    if not op._schema.is_mutable or op._overloadname == "out":
        return op
    name = op.overloadpacket.__name__
    name = name.replace("__i", "__", 1) if name.startswith("__i") else name.removesuffix("_")
    packet = getattr(aten, name, None)
    # Overloads of one name may differ: pow.Scalar has a number for its base, pow_.Scalar for its
    # exponent.
    wanted = [str(argument.real_type) for argument in op._schema.arguments]
    for overload in packet.overloads() if packet is not None else ():
        found: OpOverload = getattr(packet, overload)
        given = [str(argument.real_type) for argument in found._schema.arguments]
        if given == wanted and not found._schema.is_mutable:
            return found
    raise MissingRuleError("an operation in place without a twin that returns its result")


@dataclass(frozen=True, slots=True)
class _Call:
    """One operation with its tensors taken out of its arguments.

    Parameters
    ----------
    tensors : list
        The laws, and the parameters that are the same number everywhere, in order.
    places : list of int
        Where each stands among the leaves of the arguments.
    thinning : float
        What is left of the laws' elements by a dropout, larger by 1 over it.
    """

    op: OpOverload
    leaves: list[Any]
    spec: pytree.TreeSpec
    places: list[int]
    tensors: list[Law | Weight]
    thinning: float = 1.0

    @property
    def laws(self) -> list[Law]:
        """The laws among the tensors."""
        return [tensor for tensor in self.tensors if isinstance(tensor, Law)]

    def read(self, u: Tensor) -> list[Tensor]:
        """Return the value of each tensor where the field has the value u."""
        return [
            tensor.function(u) / self.thinning
            if isinstance(tensor, Law)
            else torch.full_like(u, tensor.law.mean)
            for tensor in self.tensors
        ]

    def apply(self, x: Tensor) -> Tensor:
        """Return the operation's result where all laws have the value x."""
        return self.run(
            [x if isinstance(t, Law) else torch.full_like(x, t.law.mean) for t in self.tensors]
        )

    def run(self, values: Sequence[Tensor]) -> Tensor:
        """Return the operation's result for these values of the tensors."""
        leaves = list(self.leaves)
        for place, value in zip(self.places, values, strict=True):
            leaves[place] = value
        args, kwargs = pytree.tree_unflatten(leaves, self.spec)
        result: Tensor = self.op(*args, **kwargs)
        return result

    def slope(self, index: int) -> Pointwise:
        """Return the derivative by one tensor, as a function of the field."""

        def slope(u: Tensor) -> Tensor:
            values = self.read(u)

            def vary(value: Tensor) -> Tensor:
                return self.run([*values[:index], value, *values[index + 1 :]])

            return differentiate(vary, values[index])

        return Pointwise(slope)


def apply_pointwise(op: OpOverload, args: Sequence[Any], kwargs: dict[str, Any]) -> Step:
    """Return the law of a pointwise operation on functions of one field.

    Raises
    ------
    MissingRuleError
        If its arguments are functions of different fields, or of one that is not Gaussian while the
        operation is not affine.
    """
    leaves, spec = pytree.tree_flatten((args, kwargs))
    call = _Call(to_functional(op), leaves, spec, [], [])
    given: list[Sequence[int]] = []
    for place, leaf in enumerate(leaves):
        if isinstance(leaf, Noise):
            leaf = read_law(leaf, default_feature_dim(leaf.shape))
        if isinstance(leaf, Known):
            leaves[place] = _as_number(leaf)
            given.append(leaf.shape)
        elif isinstance(leaf, Law | Weight):
            call.tensors.append(leaf)
            call.places.append(place)
        elif isinstance(leaf, Ignored):
            raise MissingRuleError("an argument without a law")
    if not call.laws and len(call.tensors) == 1:
        return _apply_to_constant(call)
    if not call.laws:
        raise MissingRuleError("parameters without an input")
    first = call.laws[0]
    shape = first.layout.shape
    if any(np.broadcast_shapes(shape, other) != tuple(shape) for other in given):
        raise MissingRuleError("an array is repeated by given numbers")
    for tensor in call.tensors:
        if isinstance(tensor, Weight):
            _check_constant(tensor, first)
        elif tensor.field is not first.field or tensor.layout != first.layout:
            raise MissingRuleError("branches meet in a product or function")
    return _apply(call, first)


def _apply_to_constant(call: _Call) -> Step:
    """Return a function of a parameter that is one number everywhere, as 1 + weight in a norm."""
    (weight,) = call.tensors
    assert isinstance(weight, Weight)
    if weight.law.variance > 1e-12 * weight.law.second_moment:
        raise MissingRuleError("a function of a parameter")
    mean = torch.tensor([weight.law.mean], dtype=torch.float64)
    slope = float(differentiate(lambda value: call.run([value]), mean)[0])
    output = replace(weight, law=WeightLaw.constant(float(call.run([mean])[0])))

    def backward(gradient: Downstream) -> Sequence[Downstream]:
        if not isinstance(gradient, WeightGradient):
            raise MissingRuleError("a parameter that is read as an array")
        return [replace(gradient, second_moment=gradient.second_moment * slope**2)]

    return Step(output, backward)


def _as_number(value: Known) -> Tensor:
    numbers = value.tensor.detach()
    # A buffer of zeros is the number 0.
    if numbers.numel() and bool((numbers == numbers.reshape(-1)[0]).all()):
        number = numbers.reshape(-1)[0].cpu()
        return number if number.dtype == torch.bool else number.double()
    raise MissingRuleError("a tensor with numbers of its own in a pointwise operation")


def _check_constant(weight: Weight, x: Law) -> None:
    size, last = torch.Size(weight.shape).numel(), math.prod(a.size for a in x.layout.dims[-1])
    fits = size in (1, x.features) or (size == last and x.layout.only(-1, Role.FEATURE))
    if weight.law.variance > 1e-12 * weight.law.second_moment or not fits:
        raise MissingRuleError("a parameter that differs from element to element")


def _apply(call: _Call, first: Law) -> Step:
    alone = len(call.laws) == 1
    local = Pointwise(call.apply)
    thinned = first.thinning != 1.0 and first.field.gaussian and not local.slopes
    if thinned and alone and not bool(local(torch.zeros(1, dtype=torch.float64)).any()):
        # What a dropout took away stays zero; what it left is larger by 1 / thinning.
        call, thinned = replace(call, thinning=first.thinning), False
    share = call.thinning
    composed = Pointwise(lambda u: share * call.run(call.read(u)))
    output = replace(first, function=composed, pooled_spread=None)
    slopes = [call.slope(index) for index in range(len(call.tensors))]
    if not first.field.gaussian and alone and _is_square(local):
        # Its mean, all that a norm asks for, is the second moment whatever the distribution.
        output = replace(output, standing=first.standing.approximate(SQUARE))
    elif not first.field.gaussian:
        output = _apply_affine(first, local) if alone else _refuse()
        line = scale_by(_line(local)[0])
        pairs = zip(call.tensors, slopes, strict=True)
        slopes = [line if isinstance(tensor, Law) else slope for tensor, slope in pairs]
    elif thinned or (first.thinning != 1.0 and not alone):
        output = _apply_affine(first, local) if alone else _refuse()

    # By Euler x φ'(x) = φ(x) for a rectifier: a gradient orthogonal to φ(x) is so to x.
    rectifies = alone and local.slopes is not None

    def backward(gradient: Gradient) -> Sequence[Downstream]:
        kept = gradient.orthogonal and rectifies
        return [
            replace(gradient.times(first.field, slope), orthogonal=kept)
            if isinstance(tensor, Law)
            else _differentiate_parameter(gradient, first, slope, tensor)
            for tensor, slope in zip(call.tensors, slopes, strict=True)
        ]

    return Step(output, backward)


def _differentiate_parameter(
    gradient: Gradient, x: Law, slope: Pointwise, weight: Weight
) -> WeightGradient:
    """Return the gradient of a parameter that all features share, or of one for each feature."""
    pairs = gradient.times(x.field, slope).pairs
    shared = x.features // torch.Size(weight.shape).numel()
    ones = uniform_pairs(pairs)
    total = pairs.total()
    spread = scatter_products(pairs, realize_gradient(gradient), ones, Spread(), total)
    return WeightGradient(total * shared, spread, gradient.standing.inherit(x.standing))


def _apply_affine(law: Law, local: Pointwise) -> Law:
    """Return a x + b of an array that is not a function of a Gaussian field."""
    a, b = _line(local)
    means = law.means
    settled = law.settle()
    ones = torch.ones_like(means)
    pairs = settled.pairs * (a * a)
    pairs = pairs.add_product(means, ones, a * b).add_product(ones, a * means + b, b)
    field = Field(pairs, a * means + b, gaussian=settled.gaussian)
    return Law(layout=law.layout, field=field, standing=law.standing, field_spread=law.spread)


def _is_square(local: Pointwise) -> bool:
    """Tell whether the function is a multiple of x²."""
    x = torch.tensor([1.0, -1.0, 0.3, -2.5, 7.0], dtype=torch.float64)
    y = local(x)
    return bool(torch.allclose(y, y[0] * x.square(), rtol=1e-9, atol=0)) and bool(y[0])


def _line(local: Pointwise) -> tuple[float, float]:
    x = torch.tensor([0.0, 1.0, -2.5, 7.0], dtype=torch.float64)
    y = local(x).double()
    a, b = float(y[1] - y[0]), float(y[0])
    if not torch.allclose(y, a * x + b, rtol=1e-9, atol=1e-12):
        _refuse()
    return a, b


def _refuse() -> Law:
    raise MissingRuleError("its argument is not a function of a Gaussian array")
