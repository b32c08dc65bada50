"""What the parameters of a model are drawn from, read off the code that draws them.

The code runs without memory, so that a model of any size is built in a second.
"""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._device import _device_constructors

from varprobe.errors import UnsupportedModelError
from varprobe.initializers.capture.elements import Element, pool
from varprobe.initializers.capture.memory import Lost
from varprobe.initializers.capture.recorder import Recorder
from varprobe.initializers.capture.samplers import diverted
from varprobe.initializers.laws import WeightLaw
from varprobe.observation.preservation import preserved_defaults, preserved_random_states


@dataclass(frozen=True, slots=True)
class Captured:
    """The laws of a model's parameters, by their names in ``named_parameters()``.

    Attributes
    ----------
    model : nn.Module
        The model.
    laws : mapping of str to WeightLaw or None
        None where nothing was drawn, or no law could be told.
    reasons : mapping of str to str
        Why no law could be told.
    """

    model: nn.Module
    laws: Mapping[str, WeightLaw | None]
    reasons: Mapping[str, str]


def capture_construction(build: Callable[[], nn.Module]) -> Captured:
    """Return the model that a function builds, and what it draws its parameters from.

    Parameters
    ----------
    build : callable
        Builds a model. It is called once and sees fake tensors, on the CPU, that have shapes and no
        numbers. Numbers that are not drawn it can read. What it keeps of these tensors outside the
        model (a cache) stays fake.

    Returns
    -------
    Captured
        The model with parameters on the meta device, but for those that are known numbers. Buffers
        have the numbers that they would have, or are on the meta device if these were drawn.
        Random generators, default dtype and default device are as before.

    Raises
    ------
    UnsupportedModelError
        If ``build`` looks at numbers that were drawn, or returns no module.
    Exception
        What ``build`` raises.

    Examples
    --------
    >>> from torch import nn
    >>> captured = capture_construction(lambda: nn.Linear(300, 200))
    >>> captured.laws["weight"]
    WeightLaw(distribution='uniform', mean=0.0, variance=0.001111..., kurtosis=1.8)
    """
    with _recording() as recorder:
        model = build()
    if not isinstance(model, nn.Module):
        raise UnsupportedModelError(
            f"The function that should build a model returned a {type(model).__name__}, "
            "not a torch.nn.Module."
        )
    laws, reasons = _read_laws(model, recorder, {})
    _land(model, recorder)
    return Captured(model, laws, reasons)


def capture_draw(model: nn.Module, draw: Callable[[nn.Module], object]) -> Captured:
    """Return what a function draws the parameters of a model from.

    Parameters
    ----------
    model : nn.Module
        Any model, on any device. It is not changed: ``draw`` gets a copy without numbers.
    draw : callable
        Sets parameters in place.

    Returns
    -------
    Captured
        The model itself, and a law for each parameter that was drawn.

    Raises
    ------
    UnsupportedModelError
        If ``draw`` looks at numbers that were drawn, or at those of the parameters.
    Exception
        What ``draw`` raises, and what a deep copy of the modules raises.

    Examples
    --------
    >>> from torch import nn
    >>> layer = nn.Linear(300, 200)
    >>> captured = capture_draw(layer, lambda copied: nn.init.eye_(copied.weight).mul_(3))
    >>> captured.laws["weight"].mean, captured.laws["bias"]
    (0.01, None)
    """
    with _recording() as recorder:
        tensors: dict[int, Tensor] = {}
        before: dict[int, Lost] = {}
        for parameter in model.parameters():
            shed = tensors[id(parameter)] = _shed(parameter)
            before[id(shed)] = Lost("made of the numbers that were there before")
            recorder.assume(shed, before[id(shed)])
        for buffer in model.buffers():
            tensors[id(buffer)] = _shed(buffer)
            recorder.hold(tensors[id(buffer)], buffer)
        twin = copy.deepcopy(model, dict(tensors))
        with torch.no_grad():
            draw(twin)
    laws, reasons = _read_laws(twin, recorder, before)
    return Captured(model, laws, reasons)


@contextmanager
def _recording() -> Iterator[Recorder]:
    recorder = Recorder()
    with (
        preserved_random_states(),
        preserved_defaults(),
        warnings.catch_warnings(),
        _silenced(logging.getLogger("torch._subclasses.fake_tensor")),
        diverted(recorder),
        _swapped_by_data(),
        _Arrange(),
        FakeTensorMode(allow_non_fake_inputs=True),
        recorder,
    ):
        # copy.deepcopy asks a tensor for its address, to find out that it has none.
        warnings.filterwarnings("ignore", "Accessing the data pointer of FakeTensor")
        yield recorder


@contextmanager
def _silenced(logger: logging.Logger) -> Iterator[None]:
    """Keep torch from writing of an operation that fails: the exception says so, too."""
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


class _Arrange(TorchFunctionMode):
    """Have functions of torch do what fake tensors can bear.

    All tensors are made on the CPU, where libraries draw them: on meta some leave it, and nothing
    has memory here, so that one place is as good as another. A deep copy is a clone: to copy the
    storage, as torch does, fails for fake tensors, and can bring the process down.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is Tensor.__deepcopy__:
            tensor, memo = args
            copied = tensor.detach().clone().requires_grad_(tensor.requires_grad)
            if isinstance(tensor, nn.Parameter):
                copied = nn.Parameter(copied, tensor.requires_grad)
            memo[id(tensor)] = copied
            return copied
        kwargs = dict(kwargs or {})
        if func in _device_constructors() or kwargs.get("device") is not None:
            kwargs["device"] = torch.device("cpu")
        return func(*args, **kwargs)


@contextmanager
def _swapped_by_data() -> Iterator[None]:
    """Let ``module.to(dtype)`` set the data of fake parameters.

    It would exchange the tensor objects, which fails for fake ones: their mode refers to them.
    """
    swap = torch.utils.swap_tensors

    def set_data(tensor: Tensor, other: Tensor) -> None:
        if isinstance(tensor, FakeTensor):
            tensor.data = other
        else:
            swap(tensor, other)  # type: ignore[no-untyped-call]

    torch.utils.swap_tensors = set_data
    try:
        yield
    finally:
        torch.utils.swap_tensors = swap


def _shed(tensor: Tensor) -> Tensor:
    """Return a tensor without numbers; inside a recording."""
    shed = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype)
    if isinstance(tensor, nn.Parameter):
        shed = nn.Parameter(shed, requires_grad=tensor.requires_grad)
        # Flags by which some libraries mark what must not be drawn again.
        vars(shed).update(vars(tensor))
    return shed


def _read_laws(
    model: nn.Module, recorder: Recorder, before: Mapping[int, Lost]
) -> tuple[dict[str, WeightLaw | None], dict[str, str]]:
    """Return the laws, and reasons; neither for what is as ``before``."""
    laws: dict[str, WeightLaw | None] = {}
    reasons: dict[str, str] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        laws[name] = None
        if not parameter.is_floating_point() or parameter.numel() == 0:
            reasons[name] = "no real numbers"
            continue
        parts = recorder.memory(parameter).count(parameter)
        drawn = [(part, count) for part, count in parts if isinstance(part, Element)]
        lost = dict.fromkeys(part.reason for part, _ in parts if isinstance(part, Lost))
        if not lost:
            laws[name] = pool(drawn)
        elif [part for part, _ in parts] != [before.get(id(parameter))]:
            reasons[name] = "; ".join(lost)
    return laws, reasons


def _land(model: nn.Module, recorder: Recorder) -> None:
    """Replace the fake tensors of a model, each by one other."""
    landed: dict[int, Tensor] = {}

    def replace(tensor: FakeTensor) -> Tensor:
        if id(tensor) not in landed:
            landed[id(tensor)] = _make(tensor, recorder)
        return landed[id(tensor)]

    def replace_all(value: Any) -> Any:
        return pytree.tree_map_only(FakeTensor, replace, value)

    for module in model.modules():
        for name, value in vars(module).items():
            if name in ("_parameters", "_buffers"):
                value.update(replace_all(dict(value)))
            elif any(isinstance(leaf, FakeTensor) for leaf in pytree.tree_leaves(value)):
                vars(module)[name] = replace_all(value)


def _make(tensor: FakeTensor, recorder: Recorder) -> Tensor:
    numbers = recorder.find_numbers(tensor)
    parameter = isinstance(tensor, nn.Parameter)
    # Of a parameter that is one number everywhere the law says all.
    if numbers is not None and not (parameter and bool((numbers == numbers.flatten()[:1]).all())):
        made = numbers.clone()
    else:
        made = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")
    return nn.Parameter(made, tensor.requires_grad) if parameter else made
