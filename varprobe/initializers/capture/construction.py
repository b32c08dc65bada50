"""What the parameters of a model are drawn from, read off the code that draws them.

The code runs without memory, so that a model of any size is built in a second. What it does not
tell (a norm of what was drawn, a shuffle) can still be measured on models that are really built.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils import _pytree as pytree

from varprobe.initializers.capture.elements import Element, Moments, pool, pool_moments
from varprobe.initializers.capture.memory import Lost
from varprobe.initializers.capture.recorder import Recorder
from varprobe.initializers.capture.samplers import diverted
from varprobe.initializers.laws import WeightLaw
from varprobe.observation.preservation import preserved_random_states, seed_generators

LEFT = Lost("left as it was, in part")
"""What a parameter is before anything is drawn."""


@dataclass(frozen=True, slots=True)
class Captured:
    """The laws of a model's parameters, by their names in ``named_parameters()``.

    Attributes
    ----------
    model : nn.Module
        The model, with parameters on the meta device.
    laws : mapping of str to WeightLaw or None
        None where nothing was drawn, or no law could be told.
    reasons : mapping of str to str
        Why no law could be told.
    """

    model: nn.Module
    laws: Mapping[str, WeightLaw | None]
    reasons: Mapping[str, str] = field(default_factory=dict)


def capture_construction(build: Callable[[], nn.Module]) -> Captured:
    """Return the model that a function builds, and what it draws its parameters from.

    Parameters
    ----------
    build : callable
        Builds a model. It is called once and sees fake tensors: shapes without numbers, on the
        device that it asks for. Numbers that are not drawn it can read.

    Returns
    -------
    Captured
        The model with parameters on the meta device, but for those that are known numbers. Buffers
        have the numbers that they would have, or are on the meta device if these were drawn. The
        random generators are as before.

    Raises
    ------
    Exception
        What ``build`` raises; a function that looks at numbers it has drawn cannot go on.

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
        return Captured(model, {})
    laws, reasons = _read_laws(model, recorder)
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
        The copy, and a law for each parameter that was drawn.

    Raises
    ------
    Exception
        What ``draw`` raises, and what a deep copy of the modules raises.
    """
    with _recording() as recorder:
        parameters = {id(parameter): _shed(parameter) for parameter in model.parameters()}
        for parameter in parameters.values():
            recorder.assume(parameter, LEFT)
        twin = copy.deepcopy(model, dict(parameters))
        draw(twin)
    laws, reasons = _read_laws(twin, recorder)
    _land(twin, recorder)
    return Captured(twin, laws, reasons)


def measure_laws(build: Callable[[], nn.Module], builds: int) -> dict[str, WeightLaw | None]:
    """Return the laws of the parameters of a model, measured on several that are really built.

    Parameters
    ----------
    build : callable
        Builds and draws a model with numbers, from the global generators, which are seeded here
        and restored.
    builds : int
        How many are built.
    """
    found: dict[str, list[tuple[Moments, int]]] = {}
    with preserved_random_states():
        for seed in range(builds):
            seed_generators(seed)
            for name, parameter in build().named_parameters(remove_duplicate=False):
                if parameter.is_floating_point() and parameter.numel():
                    found.setdefault(name, []).append((_measure(parameter), parameter.numel()))
    return {name: pool_moments(parts) for name, parts in found.items()}


def _measure(tensor: Tensor) -> Moments:
    values = tensor.detach().double()
    mean = values.mean()
    powers = [float((values - mean).pow(k).mean()) for k in (2, 3, 4)]
    return Moments(float(mean), *powers)


@contextmanager
def _recording() -> Iterator[Recorder]:
    recorder = Recorder()
    with (
        preserved_random_states(),
        warnings.catch_warnings(),
        diverted(recorder),
        FakeTensorMode(allow_non_fake_inputs=True),
        recorder,
    ):
        # copy.deepcopy asks a tensor for its address, to find out that it has none.
        warnings.filterwarnings("ignore", "Accessing the data pointer of FakeTensor")
        yield recorder


def _shed(parameter: nn.Parameter) -> nn.Parameter:
    """Return a parameter without numbers; inside a recording."""
    empty = torch.empty_strided(
        parameter.shape, parameter.stride(), dtype=parameter.dtype, device=parameter.device
    )
    shed = nn.Parameter(empty, requires_grad=parameter.requires_grad)
    # Flags by which some libraries mark what must not be drawn again.
    vars(shed).update(vars(parameter))
    return shed


def _read_laws(
    model: nn.Module, recorder: Recorder
) -> tuple[dict[str, WeightLaw | None], dict[str, str]]:
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
        elif [part for part, _ in parts] != [LEFT]:
            reasons[name] = "; ".join(lost)
    return laws, reasons


def _land(model: nn.Module, recorder: Recorder) -> None:
    """Replace the fake tensors of a model, each by one other."""
    landed: dict[int, Tensor] = {}

    def replace(tensor: FakeTensor) -> Tensor:
        if id(tensor) not in landed:
            landed[id(tensor)] = _make(tensor, recorder)
        return landed[id(tensor)]

    for module in model.modules():
        for name, value in vars(module).items():
            if any(isinstance(leaf, FakeTensor) for leaf in pytree.tree_leaves(value)):
                vars(module)[name] = pytree.tree_map_only(FakeTensor, replace, value)


def _make(tensor: FakeTensor, recorder: Recorder) -> Tensor:
    numbers = recorder.find_numbers(tensor)
    parameter = isinstance(tensor, nn.Parameter)
    # Of a parameter that is one number everywhere the law says all.
    if numbers is not None and not (parameter and bool((numbers == numbers.flatten()[0]).all())):
        made = numbers.clone()
    else:
        made = torch.empty_strided(
            tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta"
        )
    return nn.Parameter(made, tensor.requires_grad) if parameter else made
