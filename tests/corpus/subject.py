"""A model of the corpus, with what it is called with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn


@dataclass(frozen=True)
class Subject:
    """A model with random weights, and the arguments of one call.

    Builders draw weights and inputs from the global generators, so that the same seed gives the
    same subject.
    """

    model: nn.Module
    inputs: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)


Builder = Callable[[], Subject]
