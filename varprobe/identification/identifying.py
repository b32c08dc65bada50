"""The call: identify the parameters of a model."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import nn

from varprobe.errors import NothingRecordedError
from varprobe.identification.expectation import (
    Followers,
    expect,
    follow_calls,
    follow_registration,
    list_nonlinearities,
)
from varprobe.identification.numbers import Numbers
from varprobe.identification.origins import Identification, Origin
from varprobe.identification.parameters import Parameter, list_parameters
from varprobe.identification.recognition import recognize
from varprobe.identification.recognized import FIXED, Recognized
from varprobe.identification.variance_laws import GAINS, VarianceLaw, find_compatible
from varprobe.modules import Inputs
from varprobe.profiling import build_model, profile
from varprobe.recording import Unobserved
from varprobe.theory.followers import MAX_DEPARTURE
from varprobe.theory.integrals import Nonlinearity

SIGNIFICANCE = 4.0
"""Standard errors that the logarithm of a second moment may be off by chance."""


def identify(
    model: nn.Module | Callable[[], nn.Module],
    inputs: Inputs | None = None,
    *,
    kwargs: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> Identification:
    """Tell which initializer drew each parameter of a model, from its numbers.

    From 1,500 numbers on the distribution is right in more than 99 of 100 draws, and the variance
    law that was used is in the returned set. Of fewer numbers the distribution may be a set, too.
    What is returned is what is *compatible* with the numbers: laws that coincide for a shape (in a
    square matrix fan_in = fan_out) cannot be told apart by anybody.

    Nothing of the model changes. A shared parameter has one row; a parametrized weight is read off
    a copy. Parameters without numbers (meta, lazy, quantized, sharded) are in ``unobserved``.

    Parameters
    ----------
    model : nn.Module or callable
        The model, or a function without arguments that builds one.
    inputs : tensor, tuple or mapping, optional
        As in `varprobe.profile`. With them one forward pass tells which nonlinearity comes behind
        which layer, also where it is a function (``F.relu``) that has no module and is not the last
        step of one. Without them the order in which modules were registered does; layers that it
        leaves in doubt have no expected law.
    kwargs : mapping, optional
        Keyword arguments beside a tensor or a tuple.
    seed : int
        For a function that builds a model.

    Returns
    -------
    Identification
        A row for each parameter.

    Raises
    ------
    NothingRecordedError
        If the model has no parameters.
    UnsupportedModelError
        If it is no module, or cannot run on the inputs.

    Examples
    --------
    >>> import torch, varprobe as vp
    >>> model = torch.nn.Sequential(torch.nn.Linear(300, 200), torch.nn.ReLU())
    >>> origin = vp.identify(model)["0.weight"]
    >>> origin.distribution, [law.name for law in origin.laws]
    ('uniform', ['torch default'])
    >>> origin.follower, origin.expected.name, f"{origin.ratio:.2f}", origin.z < -4
    ('relu', '2/fan_in', '0.17', True)
    """
    built = model if isinstance(model, nn.Module) else build_model(model, seed=seed)
    followers = _find_followers(built, inputs, kwargs)
    gains = _collect_gains([*list_nonlinearities(built).values(), *followers.values()])
    origins: list[Origin] = []
    unread: list[Unobserved] = []
    with torch.no_grad():
        for parameter in list_parameters(built):
            if isinstance(parameter, Unobserved):
                unread.append(parameter)
            else:
                origins.append(_trace(parameter, gains, followers))
    name = type(built).__name__
    if not origins and not unread:
        raise NothingRecordedError(
            f"{name} has no parameters, so there is nothing to identify. Give the model that holds "
            "the weights."
        )
    return Identification(
        origins=tuple(origins),
        unobserved=tuple(unread),
        meta={"model": name, "order": "registration" if inputs is None else "calls"},
    )


def _find_followers(
    model: nn.Module, inputs: Inputs | None, kwargs: Mapping[str, Any] | None
) -> Followers:
    if inputs is None:
        if kwargs:
            raise TypeError("kwargs= go beside inputs: give the inputs as well.")
        return follow_registration(model)
    recording = profile(model, inputs, kwargs=kwargs, loss=False, stats="moments", ops=True)
    return follow_calls(model, recording)


def _collect_gains(present: Iterable[Nonlinearity]) -> dict[str, float]:
    """Return squared gains by nonlinearity: those that torch recommends, and of what is present."""
    own = {
        repr(nonlinearity): nonlinearity.gain**2
        for nonlinearity in present
        # Sigmoid has torch's gain of a linear layer.
        if nonlinearity.name not in {*GAINS, "sigmoid"}
    }
    return {**GAINS, **own}


def _trace(parameter: Parameter, gains: Mapping[str, float], followers: Followers) -> Origin:
    first = parameter.owners[0]
    numbers = Numbers(parameter.values)
    recognized = recognize(parameter.values, groups=parameter.groups, blocks=parameter.blocks)
    follower, expected = _find_expected(parameter, followers)
    ratio, z, fits = _compare(numbers, recognized, expected)
    return Origin(
        module=first.name,
        parameter=first.parameter,
        kind=type(first.module).__name__,
        shape=parameter.shape,
        mean=numbers.mean,
        variance=numbers.variance,
        candidates=recognized.candidates,
        laws=find_compatible(recognized, parameter.forms, gains, centre=numbers.centre),
        p_value=recognized.p_value,
        follower=follower,
        expected=expected,
        ratio=ratio,
        z=z,
        fits=fits,
        note="; ".join(filter(None, (recognized.note, parameter.note))),
    )


def _find_expected(parameter: Parameter, followers: Followers) -> tuple[str, VarianceLaw | None]:
    """Return the nonlinearity behind the first layer that has one, and the law that suits it."""
    for owner in parameter.owners:
        if owner.role == "weight" and owner.name in followers:
            follower = followers[owner.name]
            return repr(follower), expect(owner.module, follower)
    return "", None


def _compare(
    numbers: Numbers, recognized: Recognized, expected: VarianceLaw | None
) -> tuple[float, float, bool | None]:
    """Return the ratio of measured and expected second moment, its significance, and if it fits.

    An orthogonal matrix, and what is constant, has no scatter: no significance.
    """
    if expected is None:
        return math.nan, math.nan, None
    ratio = numbers.second_moment / expected.variance
    if recognized.candidates[0] in FIXED:
        return ratio, math.nan, 1 / MAX_DEPARTURE <= ratio <= MAX_DEPARTURE
    error = math.sqrt((recognized.kurtosis - 1) / numbers.count)
    departure = math.log(ratio)
    fits = abs(departure) <= math.log(MAX_DEPARTURE) + SIGNIFICANCE * error
    return ratio, departure / error, fits
