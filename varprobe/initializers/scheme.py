"""What every initialization can do, and the settings that it is given."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import nn

from varprobe.errors import InvalidArgumentError, UnknownNameError
from varprobe.initializers.laws import WeightLaw

MODES = ("fan_in", "fan_out")

NONLINEARITIES = (
    "linear",
    "conv1d",
    "conv2d",
    "conv3d",
    "conv_transpose1d",
    "conv_transpose2d",
    "conv_transpose3d",
    "sigmoid",
    "tanh",
    "relu",
    "leaky_relu",
    "selu",
)
"""What torch.nn.init.calculate_gain has a gain for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How a named initialization is to be applied; `initialize` explains each."""

    nonlinearity: str = "relu"
    negative_slope: float = 0.01
    mode: str = "fan_in"
    bias: float | None = 0.0
    norms: bool = False
    embeddings: bool = False
    options: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise UnknownNameError.among("mode", self.mode, MODES)
        if self.nonlinearity not in NONLINEARITIES:
            error = UnknownNameError.among("nonlinearity", self.nonlinearity, NONLINEARITIES)
            raise UnknownNameError(
                f"{error} For any other activation φ pass gain=, 1/sqrt(E φ(z)²) for z ~ N(0, 1)."
            )


class Scheme(ABC):
    """One way to set the weights of a model."""

    @abstractmethod
    def check(self, settings: Settings) -> None:
        """Raise InvalidArgumentError if ``settings.options`` are not those of this scheme."""

    @abstractmethod
    def apply(self, model: nn.Module, settings: Settings) -> None:
        """Draw the weights of ``model`` in place, from torch's global generators."""

    @abstractmethod
    def law(self, module: nn.Module, parameter: str, settings: Settings) -> WeightLaw | None:
        """Return what ``parameter`` of ``module`` is drawn from; None if it is left as it is."""


def refuse_options(settings: Settings, whose: str) -> None:
    """Raise InvalidArgumentError if there are any options, for a scheme that takes none."""
    if settings.options:
        raise InvalidArgumentError(f"{whose} takes no options, got {', '.join(settings.options)}.")
