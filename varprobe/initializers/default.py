"""The initialization that a library gives its modules when nothing is asked of it.

For torch that is each module's own ``reset_parameters``. A model that follows the protocol of
Hugging Face's ``PreTrainedModel`` then has its ``_init_weights(module)`` called for every module
below it, children first, a nested model's own in its part, and at the end its ``tie_weights()``.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear
from torch.nn.utils import parametrize

from varprobe.initializers.assignment import (
    Assignment,
    assign,
    dotted,
    own_parameters,
    require_lasting,
)
from varprobe.initializers.custom import ModuleFunction, measure
from varprobe.initializers.drawn import is_matrix, matrix_form, warn_of_left
from varprobe.initializers.laws import WeightLaw, default_variance
from varprobe.initializers.scheme import Scheme, Settings, refuse_options
from varprobe.initializers.seeding import seeded
from varprobe.modules import name_modules

HF_FLAG = "_is_hf_initialized"
"""transformers marks with it the modules and tensors that its functions must not draw again."""


class ModulesOwn(Scheme):
    """Have every module reset itself, then a Hugging Face model apply its scheme."""

    def check(self, settings: Settings) -> None:
        """Raise InvalidArgumentError on any option."""
        refuse_options(settings, "default")

    def apply(self, model: nn.Module, settings: Settings) -> None:  # noqa: ARG002
        """Reset all modules, children before parents."""
        names = {module: name.name for module, name in name_modules(model).items()}
        for module, name in names.items():
            require_lasting(module, name)
        _rehearse(model, names)
        with _flags_lifted(model):
            left = _reset_all(model, names)
        warn_of_left(left)

    def law(self, module: nn.Module, parameter: str, settings: Settings) -> WeightLaw | None:  # noqa: ARG002
        """Return the law of a torch module from its source; of any other, from one draw."""
        if _find_reset(module) is None:
            return None
        known = find_known_law(module, parameter)
        return known or measure(lambda twin: _reset(twin, ""), module, parameter)


def find_known_law(module: nn.Module, parameter: str) -> WeightLaw | None:
    """Return what torch's own ``reset_parameters`` draws a parameter from; None for any other's."""
    known = LAWS.get(getattr(_find_reset(module), "__func__", None))
    recurrent = isinstance(module, nn.RNNBase | nn.RNNCellBase)
    if known is None or not (recurrent or parameter in ("weight", "bias")):
        return None
    return known(module, parameter)


def _reset_all(model: nn.Module, names: dict[nn.Module, str]) -> list[str]:
    """Reset the modules of ``model`` and return the weights that nothing has drawn."""
    drawn: set[int] = set()
    left: list[str] = []
    tied: list[Callable[[], object]] = []
    for module, scheme, covered in _walk(model, None, False, set()):
        own = module.named_parameters(recurse=False)
        kept = [(tensor, tensor.clone()) for _, tensor in own if id(tensor) in drawn]
        _reset(module, names[module])
        if scheme is not None:
            scheme(module)
        for tensor, value in kept:
            tensor.copy_(value)
        for name, tensor in module.named_parameters(recurse=False):
            if not covered and is_matrix(tensor):
                left.append(dotted(names[module], name))
            drawn.add(id(tensor))
        tie = getattr(module, "tie_weights", None)
        if callable(tie) and _hf_scheme(module) is not None:
            tied.append(tie)
    for tie in tied:
        tie()
    return left


def _rehearse(model: nn.Module, names: dict[nn.Module, str]) -> None:
    """Reset copies of the parametrized modules, so that one that cannot be fails before any is."""
    parametrized = [module for module in names if parametrize.is_parametrized(module)]
    if parametrized:
        with seeded(model, 0):
            for module in parametrized:
                _reset(copy.deepcopy(module), names[module])


def _walk(
    module: nn.Module, scheme: ModuleFunction | None, covered: bool, seen: set[nn.Module]
) -> Iterator[tuple[nn.Module, ModuleFunction | None, bool]]:
    """Yield every module once, children first, with the Hugging Face scheme it falls under.

    The flag says whether the module, one above it, or a scheme is there to draw its parameters.
    """
    if module in seen:
        return
    seen.add(module)
    scheme = _hf_scheme(module) or scheme
    covered = covered or scheme is not None or _find_reset(module) is not None
    parametrized = parametrize.is_parametrized(module)
    for name, child in module.named_children():
        if not (parametrized and name == "parametrizations"):
            yield from _walk(child, scheme, covered, seen)
    yield module, scheme, covered


def _hf_scheme(module: nn.Module) -> ModuleFunction | None:
    return _find_method(module, "_init_weights", module)


def _find_reset(module: nn.Module) -> Callable[[], object] | None:
    return _find_method(module, "reset_parameters") or _find_method(module, "_reset_parameters")


def _find_method(module: nn.Module, name: str, *arguments: object) -> Callable[..., object] | None:
    """Return the method of this name if it can be called with just these arguments."""
    method: Callable[..., object] | None = getattr(module, name, None)
    if not callable(method):
        return None
    try:
        inspect.signature(method).bind(*arguments)
    except TypeError:
        return None
    return method


def _reset(module: nn.Module, name: str) -> None:
    reset = _find_reset(module)
    if reset is None:
        return
    if parametrize.is_parametrized(module):
        _reset_through_twin(module, name)
    else:
        reset()


def _reset_through_twin(module: nn.Module, name: str) -> None:
    # A parametrized weight is computed anew at each access, so reset_parameters would write to
    # a temporary. A twin of the original class, with plain parameters, takes the draw instead.
    # (remove_parametrizations on a deep copy would also change the class of the module itself.)
    twin: nn.Module = nn.Module.__new__(parametrize.type_before_parametrizations(module))
    twin.__dict__.update(module.__dict__)
    drawn = {
        parameter: nn.Parameter(getattr(module, parameter).clone())
        for parameter in own_parameters(module)
    }
    children = dict(module.named_children())
    children.pop("parametrizations")
    twin.__dict__.update(_parameters=drawn, _modules=children)
    reset = _find_reset(twin)
    assert reset is not None
    reset()
    assign(
        [
            Assignment(module, parameter, dotted(name, parameter), _copier(value))
            for parameter, value in drawn.items()
        ]
    )


def _copier(value: torch.Tensor) -> Callable[[torch.Tensor], None]:
    def copy_into(tensor: torch.Tensor) -> None:
        tensor.copy_(value)

    return copy_into


@contextmanager
def _flags_lifted(model: nn.Module) -> Iterator[None]:
    marked = [
        (owner, getattr(owner, HF_FLAG))
        for owner in chain(model.modules(), model.parameters(), model.buffers())
        if hasattr(owner, HF_FLAG)
    ]
    for owner, _ in marked:
        delattr(owner, HF_FLAG)
    try:
        yield
    finally:
        for owner, value in marked:
            setattr(owner, HF_FLAG, value)


def _law_of_layer(module: nn.Module, parameter: str) -> WeightLaw:
    # torch takes all dimensions of the weight but the first for the fan_in, of weight and bias
    # alike. In a transposed convolution, stored as (in, out / groups, …), that is the fan_out.
    if isinstance(module, NonDynamicallyQuantizableLinear) and parameter == "bias":
        return WeightLaw.constant(0.0)  # the projection of MultiheadAttention, which zeroes it
    _, columns = matrix_form(module)
    return WeightLaw.uniform(default_variance(columns))


def _law_of_recurrent(module: nn.Module, parameter: str) -> WeightLaw:  # noqa: ARG001
    assert isinstance(module, nn.RNNBase | nn.RNNCellBase)
    return WeightLaw.uniform(default_variance(module.hidden_size))


def _law_of_bilinear(module: nn.Module, parameter: str) -> WeightLaw:  # noqa: ARG001
    assert isinstance(module, nn.Bilinear)
    return WeightLaw.uniform(default_variance(module.in1_features))


def _law_of_norm(module: nn.Module, parameter: str) -> WeightLaw:  # noqa: ARG001
    return WeightLaw.constant(float(parameter == "weight"))


def _law_of_embedding(module: nn.Module, parameter: str) -> WeightLaw:  # noqa: ARG001
    return WeightLaw.normal(1.0)


LAWS: dict[object, Callable[[nn.Module, str], WeightLaw]] = {
    nn.Linear.reset_parameters: _law_of_layer,
    _ConvNd.reset_parameters: _law_of_layer,
    nn.Bilinear.reset_parameters: _law_of_bilinear,
    nn.RNNBase.reset_parameters: _law_of_recurrent,
    nn.RNNCellBase.reset_parameters: _law_of_recurrent,
    _NormBase.reset_parameters: _law_of_norm,
    nn.LayerNorm.reset_parameters: _law_of_norm,
    nn.GroupNorm.reset_parameters: _law_of_norm,
    nn.RMSNorm.reset_parameters: _law_of_norm,
    nn.Embedding.reset_parameters: _law_of_embedding,
    nn.EmbeddingBag.reset_parameters: _law_of_embedding,
}
"""By the method that draws: a subclass with a ``reset_parameters`` of its own is not in it."""
