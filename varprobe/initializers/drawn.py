"""Initializations that are a law: a function from a layer to the distribution of its weight.

The same function says what a weight is drawn from and draws it, so prediction and model agree.
"""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

from varprobe.errors import InvalidArgumentError, UnsupportedModelError, VarprobeWarning
from varprobe.initializers.assignment import (
    Assignment,
    assign,
    dotted,
    own_parameters,
    require_lasting,
)
from varprobe.initializers.laws import WeightLaw
from varprobe.initializers.sampling import fill
from varprobe.initializers.scheme import Scheme, Settings
from varprobe.modules import compute_fans, name_modules

NORMS = (
    nn.modules.batchnorm._NormBase,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.RMSNorm,
)
EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """What a law may depend on: the fans of a layer, the form of its weight, the settings.

    Attributes
    ----------
    fan_in, fan_out : int
        Weights that feed one output element, and that one input element feeds; one group's.
    rows, columns : int
        Form of one group's weight as a matrix, all dimensions but the first flattened.
    nonlinearity : str
        As in `torch.nn.init.calculate_gain`.
    negative_slope : float
        Slope for negative inputs; read if ``nonlinearity`` is "leaky_relu".
    mode : str
        "fan_in" or "fan_out".
    """

    fan_in: int
    fan_out: int
    rows: int
    columns: int
    nonlinearity: str = "relu"
    negative_slope: float = 0.01
    mode: str = "fan_in"

    @property
    def fan(self) -> int:
        """The fan that ``mode`` names."""
        return self.fan_in if self.mode == "fan_in" else self.fan_out

    @property
    def gain(self) -> float:
        """The gain that torch recommends for the nonlinearity behind the layer."""
        if self.nonlinearity == "leaky_relu":
            return nn.init.calculate_gain("leaky_relu", self.negative_slope)
        return nn.init.calculate_gain(self.nonlinearity)  # type: ignore[arg-type]


LawFunction = Callable[..., WeightLaw]
"""``law(layer, *, option=…) -> WeightLaw``."""


class DrawnFromLaw(Scheme):
    """Draw the weight of every weighted layer from ``function(layer, **options)``."""

    def __init__(self, function: LawFunction) -> None:
        self._function = function

    def check(self, settings: Settings) -> None:
        """Raise InvalidArgumentError if the law's function does not take the options."""
        signature = inspect.signature(self._function)
        try:
            signature.bind(None, **settings.options)
        except TypeError as error:
            name = self._function.__name__
            takes = ", ".join(list(signature.parameters)[1:]) or "nothing"
            raise InvalidArgumentError(f"{name}: {error}; its options: {takes}.") from None

    def apply(self, model: nn.Module, settings: Settings) -> None:
        """Draw each weight once, in the order of ``named_modules()``."""
        assignments, left = self.plan(model, settings)
        assign(assignments)
        warn_of_left(left)

    def plan(self, model: nn.Module, settings: Settings) -> tuple[list[Assignment], list[str]]:
        """Return what would be drawn, and the names of the weights that there is no law for."""
        names = {module: name.name for module, name in name_modules(model).items()}
        done = set[int]() if settings.embeddings else _ids(_embedding_weights(names))
        assignments: list[Assignment] = []
        left: list[str] = []
        for module, name in names.items():
            for parameter in own_parameters(module):
                label = dotted(name, parameter)
                tensor = module._parameters.get(parameter)
                if tensor is not None and id(tensor) in done:
                    continue
                law = self.law(module, parameter, settings)
                if law is not None:
                    require_lasting(module, name)
                    require_real(tensor, label)
                    assignments.append(plan_draw(module, parameter, label, law))
                    done |= _ids([tensor])
                elif tensor is not None and _is_unexplained(module, tensor):
                    left.append(label)
        return assignments, left

    def law(self, module: nn.Module, parameter: str, settings: Settings) -> WeightLaw | None:
        """Return the law of one parameter, from nothing but its module and the settings."""
        if isinstance(module, NORMS):
            return WeightLaw.constant(float(parameter == "weight")) if settings.norms else None
        if isinstance(module, EMBEDDINGS) and not settings.embeddings:
            return None
        layer = _describe(module, settings)
        if layer is None or parameter not in ("weight", "bias"):
            return None
        if parameter == "bias":
            return None if settings.bias is None else WeightLaw.constant(settings.bias)
        return self._function(layer, **settings.options)


def warn_of_left(labels: list[str]) -> None:
    """Warn of weights that an initialization has no law for."""
    if labels:
        warnings.warn(
            f"Left as they are, for want of a law: {', '.join(labels)}. Set them yourself, or "
            "pass a callable(module) that does.",
            VarprobeWarning,
            stacklevel=4,
        )


def is_matrix(tensor: torch.Tensor) -> bool:
    """Return whether a parameter has the form of a weight matrix, and so deserves a warning.

    Vectors are biases and scales; a leading 1 marks a class token or learned positions.
    """
    return tensor.dim() > 1 and tensor.shape[0] > 1


def matrix_form(module: nn.Module) -> tuple[int, int]:
    """Return the form of one group's weight of a weighted layer or embedding, as a matrix.

    It is told from the attributes: to read a parametrized weight runs its parametrization, and
    that of spectral_norm changes its state at each reading.
    """
    if isinstance(module, EMBEDDINGS):
        return module.num_embeddings, module.embedding_dim
    if isinstance(module, nn.Linear):
        return module.out_features, module.in_features
    assert isinstance(module, _ConvNd)
    window = math.prod(module.kernel_size)
    sides = module.out_channels // module.groups, module.in_channels // module.groups
    rows, others = reversed(sides) if module.transposed else sides
    return rows, others * window


def _describe(module: nn.Module, settings: Settings) -> Layer | None:
    # An index is a one-hot input: one weight feeds each output element.
    fans = (1, module.embedding_dim) if isinstance(module, EMBEDDINGS) else compute_fans(module)
    if fans is None:
        return None
    rows, columns = matrix_form(module)
    return Layer(
        fan_in=fans[0],
        fan_out=fans[1],
        rows=rows,
        columns=columns,
        nonlinearity=settings.nonlinearity,
        negative_slope=settings.negative_slope,
        mode=settings.mode,
    )


def plan_draw(module: nn.Module, parameter: str, label: str, law: WeightLaw) -> Assignment:
    """Return the assignment that draws one parameter, group by group, padding left at 0."""
    groups = _groups(module)
    padding = getattr(module, "padding_idx", None)

    def draw(tensor: torch.Tensor) -> None:
        fill(tensor, law, groups=groups)
        if padding is not None:
            tensor[padding].zero_()

    return Assignment(module, parameter, label, draw)


def _groups(module: nn.Module) -> int:
    groups = getattr(module, "groups", 1)
    assert isinstance(groups, int)
    return groups


def _embedding_weights(modules: Iterable[nn.Module]) -> list[torch.Tensor]:
    return [module.weight for module in modules if isinstance(module, EMBEDDINGS)]


def _ids(tensors: Iterable[torch.Tensor | None]) -> set[int]:
    return {id(tensor) for tensor in tensors if tensor is not None}


def _is_unexplained(module: nn.Module, tensor: torch.Tensor) -> bool:
    known = isinstance(module, NORMS + EMBEDDINGS) or compute_fans(module) is not None
    return not known and is_matrix(tensor)


def require_real(tensor: torch.Tensor | None, label: str) -> None:
    """Raise UnsupportedModelError if a parameter is of integers or complex numbers."""
    if tensor is not None and not tensor.is_floating_point():
        raise UnsupportedModelError(
            f"{label} has dtype {tensor.dtype}; a variance law is about real floating-point "
            "weights. Set it yourself, by a callable(module)."
        )
