"""Which nonlinearity comes behind a layer with weights, and what scale it wants of them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from varprobe.theory.integrals import Nonlinearity

Role = Literal["weighted", "nonlinearity", "rescaling", "other"]

CENTRED = frozenset({"tanh", "sigmoid"})
"""Nonlinearities that saturate: kept in their linear part around 0, they want Glorot's weights."""

MAX_DEPARTURE = 1.25
"""Factor between a weight's variance and the law that fits. LeCun for SiLU or Kaiming for GELU are
choices that people make on purpose and nobody trips over at any depth below ten."""


def find_wanted_gain(nonlinearity: Nonlinearity) -> float:
    """Return g such that weights of variance g² / fan_in keep the scale of a unit signal.

    The signal is z ~ N(0, 1) before and φ(z) behind the nonlinearity φ, and g = 1/sqrt(E φ(z)²);
    1 for nonlinearities that are centred and saturate.

    Examples
    --------
    >>> from varprobe.theory.nonlinearities import get_nonlinearity
    >>> [round(find_wanted_gain(get_nonlinearity(name)), 4) for name in ("relu", "tanh", "gelu")]
    [1.4142, 1.0, 1.5335]
    """
    return 1.0 if nonlinearity.name in CENTRED else nonlinearity.gain


def find_followers(calls: Iterable[tuple[str, Role]]) -> dict[str, str]:
    """Return the nonlinearity behind each weighted layer that has one before the next layer.

    Parameters
    ----------
    calls : iterable of (str, Role)
        Names of what is called, and what it is, in that order. What has the role "other" (dropout,
        pooling, a block as a whole) does not matter.

    Returns
    -------
    dict of str to str
        Nonlinearity by layer. A layer behind which a "rescaling" comes first is not in it: a
        normalization takes the scale away again.

    Examples
    --------
    >>> find_followers([("fc1", "weighted"), ("act", "nonlinearity"), ("fc2", "weighted")])
    {'fc1': 'act'}
    """
    followers: dict[str, str] = {}
    pending: str | None = None
    for name, role in calls:
        if role == "weighted":
            pending = name
        elif role == "nonlinearity" and pending is not None:
            followers[pending] = name
            pending = None
        elif role == "rescaling":
            pending = None
    return followers
