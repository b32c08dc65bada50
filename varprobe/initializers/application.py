"""Put an initialization on a model, or say what it would draw."""

from __future__ import annotations

import dataclasses
from typing import TypeVar

import torch
from torch import nn

from varprobe.errors import UnknownNameError
from varprobe.initializers.assignment import own_parameters, require_materialized
from varprobe.initializers.custom import CallPerModule, ModuleFunction
from varprobe.initializers.laws import WeightLaw
from varprobe.initializers.named import INITIALIZATIONS
from varprobe.initializers.scheme import Scheme, Settings
from varprobe.initializers.seeding import seeded
from varprobe.registry import split_options

M = TypeVar("M", bound=nn.Module)


def initialize(
    model: M,
    name: str | ModuleFunction,
    *,
    nonlinearity: str = "relu",
    negative_slope: float = 0.01,
    mode: str = "fan_in",
    bias: float | None = 0.0,
    norms: bool = False,
    embeddings: bool = False,
    seed: int | None = None,
    **options: object,
) -> M:
    """Draw the weights of ``model`` in place, and return it.

    The weights of Linear, ConvNd and ConvTransposeNd are drawn; fans count one group, and the
    channels of a transposed convolution the right way round. Norms and embeddings stay as they
    are unless asked for, and with an embedding every layer that shares its weight. All else stays
    too, with a VarprobeWarning if it has the form of a weight matrix. A shared parameter is drawn
    once, for the first of its layers. dtype and requires_grad do not change; bfloat16 and float16
    are drawn in float32 and rounded. On the meta device there is nothing to draw.

    Parameters
    ----------
    model : nn.Module
        The model, changed in place.
    name : str or callable
        One of

        - "default": the library's own. Each module's ``reset_parameters``, then a Hugging Face
          model's ``_init_weights`` and ``tie_weights``. What a constructor does by hand after
          that is not repeated. Of the settings below only ``seed`` applies.
        - "kaiming_normal", "kaiming_uniform": variance gain² / fan; option ``gain`` in place of
          that of ``nonlinearity``.
        - "xavier_normal", "xavier_uniform": 2 gain² / (fan_in + fan_out); option ``gain`` = 1.
        - "lecun_normal", "lecun_uniform": 1 / fan_in.
        - "orthogonal": semi-orthogonal per group; option ``gain`` = 1.
        - "lsuv": orthonormal, then each layer scaled, in the order of execution, until its output
          has variance 1 on a batch: options ``inputs`` and ``kwargs`` (as in `varprobe.profile`),
          ``tolerance`` = 0.01 and ``max_iterations`` = 10. For models that no theory reaches. The
          model runs once; but for its weights and biases it is as before.
        - "normal", "trunc_normal": options ``std`` and ``mean`` = 0, whatever the fan; the
          truncation at ±2 std leaves the variance 0.7737 std².
        - "constant": option ``value``.
        - a name registered with `initialization`.

        Options may stand in the name, "normal(std=0.02)". A callable(module) is called with every
        module, children before parents.
    nonlinearity : str
        Activation behind the layers, as in `torch.nn.init.calculate_gain`. Kaiming reads it; the
        other laws assume a linear layer.
    negative_slope : float
        Slope of the leaky ReLU for negative inputs, if that is the nonlinearity.
    mode : str
        "fan_in" keeps the scale of the activations, "fan_out" that of the gradients. Kaiming
        reads it.
    bias : float or None
        Value for the biases of the layers that are drawn: 0, as He 2015 and Glorot 2010 have it
        (functions of torch.nn.init see one tensor and leave the bias at its default). None keeps
        the biases.
    norms : bool
        Also set the scale of torch's normalization layers to 1 and their shift to 0. Running
        statistics stay.
    embeddings : bool
        Also draw Embedding and EmbeddingBag, as linear layers with fan_in 1 (one index feeds an
        output); the padding row is set to 0.
    seed : int, optional
        Seed of this draw. The global generators are as before afterwards. Without it, the numbers
        come from the global generators, as in torch.nn.init.
    **options
        Options of the named initialization.

    Returns
    -------
    nn.Module
        ``model`` itself.

    Raises
    ------
    UnknownNameError
        If the name, nonlinearity or mode does not exist.
    InvalidArgumentError
        If an option is missing, unknown or out of range.
    UnsupportedModelError
        If a weight cannot be set: in a lazy module, recomputed by a hook, or behind a
        parametrization that changes it (spectral_norm); or an output cannot be scaled ("lsuv").
        Nothing was changed then by a law.

    Examples
    --------
    >>> from torch import nn
    >>> layer = initialize(nn.Linear(1000, 1000), "kaiming_normal", seed=0)
    >>> print(f"{1000 * layer.weight.var():.2f} / fan_in")
    2.00 / fan_in
    """
    settings = Settings(
        nonlinearity=nonlinearity,
        negative_slope=negative_slope,
        mode=mode,
        bias=bias,
        norms=norms,
        embeddings=embeddings,
        options=options,
    )
    scheme, settings = _resolve(name, settings)
    require_materialized(model)
    with torch.no_grad(), seeded(model, seed):
        scheme.apply(model, settings)
    return model


def law_of(
    name: str | ModuleFunction,
    module: nn.Module,
    parameter: str = "weight",
    *,
    nonlinearity: str = "relu",
    negative_slope: float = 0.01,
    mode: str = "fan_in",
    bias: float | None = 0.0,
    norms: bool = False,
    embeddings: bool = False,
    **options: object,
) -> WeightLaw | None:
    """Return what an initialization draws one parameter of ``module`` from.

    The law of a callable, or of a module whose ``reset_parameters`` is not torch's, is measured
    on one draw of a copy (distribution "measured"). Only ``module`` is looked at: what an
    enclosing model does to it later (a Hugging Face ``_init_weights``, tied weights) is not seen.

    Parameters
    ----------
    name, nonlinearity, negative_slope, mode, bias, norms, embeddings, **options
        As in `initialize`.
    module : nn.Module
        The module that owns the parameter; never changed. It may be on the meta device.
    parameter : str
        Name of the parameter in it. In an embedding, the law is that of the rows but padding.

    Returns
    -------
    WeightLaw or None
        None if the initialization leaves the parameter as it is.

    Raises
    ------
    UnknownNameError
        If the name, the parameter, the nonlinearity or the mode does not exist.
    MissingRuleError
        If the law would have to be measured and the module is on the meta device.

    Examples
    --------
    >>> from torch import nn
    >>> law_of("default", nn.Conv2d(4, 8, 5))
    WeightLaw(distribution='uniform', mean=0.0, variance=0.0033333333333333335, kurtosis=1.8)
    """
    settings = Settings(
        nonlinearity=nonlinearity,
        negative_slope=negative_slope,
        mode=mode,
        bias=bias,
        norms=norms,
        embeddings=embeddings,
        options=options,
    )
    scheme, settings = _resolve(name, settings)
    require_materialized(module)
    known = own_parameters(module)
    if parameter not in known:
        raise UnknownNameError.among(f"parameter of {type(module).__name__}", parameter, known)
    return scheme.law(module, parameter, settings)


def _resolve(name: str | ModuleFunction, settings: Settings) -> tuple[Scheme, Settings]:
    """Return the scheme, and the settings with those that stand in the name put in."""
    if not isinstance(name, str):
        scheme: Scheme = CallPerModule(name)
    else:
        head, inline = split_options("initialization", name, example="normal(std=0.02)")
        scheme = INITIALIZATIONS[head]
        fields = {field.name for field in dataclasses.fields(Settings)} - {"options"}
        general = {key: value for key, value in inline.items() if key in fields}
        special = {key: value for key, value in inline.items() if key not in fields}
        options = {**settings.options, **special}
        settings = dataclasses.replace(settings, options=options, **general)  # type: ignore[arg-type]
    scheme.check(settings)
    return scheme, settings
