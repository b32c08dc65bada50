"""The table of named initializations.

Each is a function from a `Layer` to the `WeightLaw` of its weight, filed under its name. To add
one, write such a function here; the user's own, a callable(module), goes into the same registry.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from varprobe.errors import InvalidArgumentError
from varprobe.initializers.custom import CallPerModule, ModuleFunction
from varprobe.initializers.default import ModulesOwn
from varprobe.initializers.drawn import DrawnFromLaw, Layer
from varprobe.initializers.laws import (
    WeightLaw,
    kaiming_variance,
    lecun_variance,
    xavier_variance,
)
from varprobe.initializers.lsuv import LayerSequentialUnitVariance
from varprobe.initializers.scheme import Scheme
from varprobe.registry import Registry

E = TypeVar("E", bound=Scheme | ModuleFunction)

INITIALIZATIONS: Registry[str, Scheme] = Registry("initialization")


def initialization(name: str, *, overwrite: bool = False) -> Callable[[E], E]:
    """Return a decorator that files an initialization under ``name``.

    Parameters
    ----------
    name : str
        What `initialize`, `profile` and the command line will know it by.
    overwrite : bool
        Replace an initialization of this name.

    Returns
    -------
    callable
        Decorator of a function that is called with every module of a model, children before
        parents, and sets its parameters in place; gradients are off.

    Raises
    ------
    DuplicateNameError
        If the name is taken and ``overwrite`` is false.

    Examples
    --------
    >>> from torch import nn
    >>> from varprobe.initializers.application import initialize
    >>> @initialization("halves")
    ... def halves(module):
    ...     if isinstance(module, nn.Linear):
    ...         nn.init.constant_(module.weight, 0.5)
    >>> initialize(nn.Linear(2, 1, bias=False), "halves").weight.tolist()
    [[0.5, 0.5]]
    """

    def file(entry: E) -> E:
        scheme = entry if isinstance(entry, Scheme) else CallPerModule(entry)
        INITIALIZATIONS.register(name, overwrite=overwrite)(scheme)
        return entry

    return file


initialization("default")(ModulesOwn())


@initialization("kaiming_normal")
@DrawnFromLaw
def kaiming_normal(layer: Layer, *, gain: float | None = None) -> WeightLaw:
    """N(0, gain² / fan). He et al. 2015 (arXiv 1502.01852), eq. 10 and 14."""
    return WeightLaw.normal(_kaiming(layer, gain))


@initialization("kaiming_uniform")
@DrawnFromLaw
def kaiming_uniform(layer: Layer, *, gain: float | None = None) -> WeightLaw:
    """U(±b) with the variance of `kaiming_normal`."""
    return WeightLaw.uniform(_kaiming(layer, gain))


@initialization("xavier_normal")
@DrawnFromLaw
def xavier_normal(layer: Layer, *, gain: float = 1.0) -> WeightLaw:
    """N(0, 2 gain² / (fan_in + fan_out)). Glorot and Bengio 2010, eq. 12."""
    return WeightLaw.normal(_xavier(layer, gain))


@initialization("xavier_uniform")
@DrawnFromLaw
def xavier_uniform(layer: Layer, *, gain: float = 1.0) -> WeightLaw:
    """U(±b) with the variance of `xavier_normal`. Glorot and Bengio 2010, eq. 16."""
    return WeightLaw.uniform(_xavier(layer, gain))


@initialization("lecun_normal")
@DrawnFromLaw
def lecun_normal(layer: Layer) -> WeightLaw:
    """N(0, 1 / fan_in). LeCun et al. 1998, "Efficient BackProp", eq. 16."""
    return WeightLaw.normal(lecun_variance(layer.fan_in))


@initialization("lecun_uniform")
@DrawnFromLaw
def lecun_uniform(layer: Layer) -> WeightLaw:
    """U(±sqrt(3 / fan_in)), the variance of `lecun_normal`."""
    return WeightLaw.uniform(lecun_variance(layer.fan_in))


@initialization("orthogonal")
@DrawnFromLaw
def orthogonal(layer: Layer, *, gain: float = 1.0) -> WeightLaw:
    """Random semi-orthogonal matrix of each group, times gain. Saxe et al. 2014, section 3."""
    return WeightLaw.orthogonal(max(layer.rows, layer.columns), gain)


initialization("lsuv")(LayerSequentialUnitVariance(start=orthogonal))


@initialization("normal")
@DrawnFromLaw
def normal(layer: Layer, *, std: float, mean: float = 0.0) -> WeightLaw:  # noqa: ARG001
    """N(mean, std²) whatever the layer; std 0.01 is Krizhevsky et al. 2012, section 5."""
    return WeightLaw.normal(_square(std), mean)


@initialization("trunc_normal")
@DrawnFromLaw
def trunc_normal(layer: Layer, *, std: float, mean: float = 0.0) -> WeightLaw:  # noqa: ARG001
    """N(mean, std²) cut at mean ± 2 std, so that the variance is 0.7737 std²."""
    _square(std)
    return WeightLaw.trunc_normal(std, mean)


@initialization("constant")
@DrawnFromLaw
def constant(layer: Layer, *, value: float) -> WeightLaw:  # noqa: ARG001
    """``value`` everywhere, so that no symmetry is broken: for tests and for baselines."""
    return WeightLaw.constant(value)


def _kaiming(layer: Layer, gain: float | None) -> float:
    gain = layer.gain if gain is None else gain
    return kaiming_variance(layer.fan, gain_squared=gain**2)


def _xavier(layer: Layer, gain: float) -> float:
    return xavier_variance(layer.fan_in, layer.fan_out, gain_squared=gain**2)


def _square(std: float) -> float:
    if not std >= 0:
        raise InvalidArgumentError(f"A standard deviation is at least 0, got std={std}.")
    return std**2
