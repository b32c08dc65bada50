"""Find the Nonlinearity of a name, a module or a callable."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from varprobe.errors import InvalidArgumentError
from varprobe.registry import split_options
from varprobe.theory.activations import (
    NONLINEARITIES,
    celu,
    elu,
    gelu,
    hardsigmoid,
    hardswish,
    hardtanh,
    identity,
    leaky_relu,
    mish,
    prelu,
    quick_gelu,
    relu,
    relu6,
    selu,
    sigmoid,
    silu,
    softplus,
    softsign,
    tanh,
)
from varprobe.theory.callables import adapt, differentiate, find_kinks
from varprobe.theory.integrals import Nonlinearity

__all__ = ["NONLINEARITIES", "Nonlinearity", "from_module", "get_nonlinearity"]


def get_nonlinearity(
    nonlinearity: str | Nonlinearity | Callable[[Any], Any],
    *,
    derivative: Callable[[Any], Any] | None = None,
    kinks: Sequence[float] | None = None,
    **parameters: object,
) -> Nonlinearity:
    """Return the Nonlinearity that a name, a module or a callable stands for.

    Parameters
    ----------
    nonlinearity : str, module, callable or Nonlinearity
        A name as in ``torch.nn.functional``, with parameters as in "elu(alpha=0.5)"; a module such
        as ``nn.GELU()``; an elementwise function of numpy arrays or of torch tensors; or a
        Nonlinearity, which is returned.
    derivative : callable, optional
        Of a callable. By default the function is interpolated between its kinks, which is good to
        1e-12 for functions that change no faster than tanh.
    kinks : sequence of float, optional
        Where a callable or one of its derivatives jumps. By default they are searched between
        -23 and 23.
    **parameters
        Of a named nonlinearity: ``negative_slope``, ``alpha``, ``approximate``, ``beta``,
        ``min_val``, ``max_val``.

    Raises
    ------
    UnknownNameError
        If no nonlinearity has that name.
    InvalidArgumentError
        If a parameter is not one of that nonlinearity's.
    TypeError
        If a callable maps neither arrays nor tensors elementwise.

    Examples
    --------
    >>> round(get_nonlinearity("leaky_relu", negative_slope=0.2).gain, 4)
    1.3868
    >>> import numpy as np
    >>> squared_relu = get_nonlinearity(lambda x: np.maximum(x, 0) ** 2)
    >>> squared_relu.kinks, float(squared_relu.second_moment(1.0).round(12))
    ((0.0,), 1.5)
    """
    if isinstance(nonlinearity, Nonlinearity):
        return nonlinearity
    if isinstance(nonlinearity, str):
        name, inline = split_options("nonlinearity", nonlinearity, example="elu(alpha=0.5)")
        return _build(name, {**inline, **parameters})
    known = from_module(nonlinearity)
    if known is not None:
        return known
    if not callable(nonlinearity):
        raise TypeError(
            f"A nonlinearity is a name, a module or a callable of one array, got {nonlinearity!r}."
        )
    function = adapt(nonlinearity)
    places = find_kinks(function) if kinks is None else tuple(sorted(map(float, kinks)))
    return Nonlinearity(
        name=getattr(nonlinearity, "__name__", type(nonlinearity).__name__),
        function=function,
        derivative=adapt(derivative) if derivative else differentiate(function, places),
        kinks=places,
    )


def _build(name: str, parameters: Mapping[str, Any]) -> Nonlinearity:
    builder = NONLINEARITIES[name]
    signature = inspect.signature(builder)
    try:
        signature.bind(**parameters)
    except TypeError as error:
        taken = ", ".join(signature.parameters) or "no parameters"
        raise InvalidArgumentError(f"The nonlinearity {name} takes {taken}, but {error}.") from None
    return builder(**parameters)


def from_module(module: object) -> Nonlinearity | None:
    """Return the Nonlinearity that a torch or transformers activation module applies.

    Goes by the class's name and package, so that nothing here has to import either. A subclass
    counts as its parent if it has its parent's ``forward``.

    Returns
    -------
    Nonlinearity or None
        None for what is not a known deterministic elementwise module, and for a PReLU whose
        channels have different slopes: no one function of x describes it.

    Examples
    --------
    >>> from torch import nn
    >>> from_module(nn.ELU(alpha=0.5))
    elu(alpha=0.5)
    >>> from_module(nn.Linear(2, 2)) is None
    True
    """
    for cls in type(module).__mro__:
        package = cls.__module__.partition(".")[0]
        read = _MODULES.get((package, cls.__name__))
        if read is not None:
            own = getattr(type(module), "forward", None) is not getattr(cls, "forward", None)
            return None if own else read(module)
    return None


def _read_prelu(module: Any) -> Nonlinearity | None:
    weight = module.weight.detach()
    if weight.is_meta:  # it has no values there, but the module remembers what it starts from
        return prelu(float(module.init))
    slopes = weight.double().unique()
    return prelu(float(slopes[0])) if slopes.numel() == 1 else None


_MODULES: dict[tuple[str, str], Callable[[Any], Nonlinearity | None]] = {
    ("torch", "CELU"): lambda module: celu(module.alpha),
    ("torch", "ELU"): lambda module: elu(module.alpha),
    ("torch", "GELU"): lambda module: gelu(module.approximate),
    ("torch", "Hardsigmoid"): lambda _: hardsigmoid(),
    ("torch", "Hardswish"): lambda _: hardswish(),
    ("torch", "Hardtanh"): lambda module: hardtanh(module.min_val, module.max_val),
    ("torch", "Identity"): lambda _: identity(),
    ("torch", "LeakyReLU"): lambda module: leaky_relu(module.negative_slope),
    ("torch", "Mish"): lambda _: mish(),
    ("torch", "PReLU"): _read_prelu,
    ("torch", "ReLU"): lambda _: relu(),
    ("torch", "ReLU6"): lambda _: relu6(),
    ("torch", "SELU"): lambda _: selu(),
    ("torch", "SiLU"): lambda _: silu(),
    ("torch", "Sigmoid"): lambda _: sigmoid(),
    ("torch", "Softplus"): lambda module: softplus(module.beta),
    ("torch", "Softsign"): lambda _: softsign(),
    ("torch", "Tanh"): lambda _: tanh(),
    ("transformers", "GELUActivation"): lambda _: gelu(),
    ("transformers", "GELUTanh"): lambda _: gelu("tanh"),
    ("transformers", "NewGELUActivation"): lambda _: gelu("tanh"),
    ("transformers", "QuickGELUActivation"): lambda _: quick_gelu(),
    ("transformers", "SiLUActivation"): lambda _: silu(),
}
