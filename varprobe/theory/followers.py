"""Which nonlinearity comes behind a layer with weights, and what scale it wants of them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from varprobe.theory.integrals import Nonlinearity

Role = Literal["weighted", "nonlinearity", "norm", "other"]

CENTRED = frozenset({"tanh", "sigmoid"})
"""Nonlinearities that saturate: kept in their linear part around 0, they want Glorot's weights."""


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


def role_of_kind(kind: str) -> Role:
    """Return the role of a module neither weighted nor a nonlinearity, by its class name."""
    return "norm" if "Norm" in kind else "other"


def find_followers(calls: Iterable[tuple[str, Role]]) -> dict[str, str]:
    """Return the nonlinearity behind each weighted layer that has one before the next layer.

    Parameters
    ----------
    calls : iterable of (str, Role)
        Modules and what they are, in the order in which they are called. What has the role "other"
        (dropout, pooling, a block as a whole) does not matter.

    Returns
    -------
    dict of str to str
        Nonlinearity by layer. A layer behind which a normalization comes first is not in it: that
        takes the scale away again.

    Examples
    --------
    >>> find_followers([("fc1", "weighted"), ("act", "nonlinearity"), ("fc2", "weighted")])
    {'fc1': 'act'}
    """
    followers: dict[str, str] = {}
    pending: str | None = None
    for module, role in calls:
        if role == "weighted":
            pending = module
        elif role == "nonlinearity" and pending is not None:
            followers[pending] = module
            pending = None
        elif role == "norm":
            pending = None
    return followers
