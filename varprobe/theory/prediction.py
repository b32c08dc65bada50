"""The call that predicts, and what it returns."""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils import _pytree as pytree

from varprobe.errors import InvalidArgumentError, UnsupportedModelError, VarprobeWarning
from varprobe.initializers.laws import WeightLaw
from varprobe.modules import Inputs, Loss, split_inputs
from varprobe.presentation import Presentable
from varprobe.recording import Site
from varprobe.schema import PREDICTION, build_frame
from varprobe.theory.backpropagation import Arriving, pull_back
from varprobe.theory.dtype_range import BEYOND, check_range
from varprobe.theory.law import Ignored, Known, Noise, Unknown, Value, Weight
from varprobe.theory.parameters import Parameter, read_parameters, replace_laws
from varprobe.theory.pointwise import remember
from varprobe.theory.propagation import Forward, propagate
from varprobe.theory.rows import (
    Expectation,
    expect_activation,
    expect_gradient,
    expect_weight,
    expect_weight_gradient,
)
from varprobe.theory.sampling import Sampled, sample
from varprobe.theory.subject import Initialization, Subject, take
from varprobe.theory.tracer import Slot, Tape, trace

if TYPE_CHECKING:
    import pandas as pd

OWN_LOSS = Unknown("the size of the gradient of a loss of one's own is not predicted", "loss")


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction(Presentable):
    """What theory expects of every tensor of a model.

    Parameters
    ----------
    expectations : tuple of Expectation
        One for each output of a module, its gradient, each parameter and its gradient, in order of
        depth.
    meta : mapping
        Model, initialization, batch size.
    unsupported : mapping of str to int
        Operations without a rule that a row suffers from, with the number of such rows.

    Examples
    --------
    >>> import torch, varprobe as vp
    >>> model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU())
    >>> prediction = vp.predict(model, torch.ones(1, 64), init="kaiming_normal")
    >>> prediction.to_frame().query("signal == 'activation'")["second_moment"].round(3).tolist()
    [2.0, 1.0, 1.0]
    """

    expectations: tuple[Expectation, ...]
    meta: Mapping[str, object] = field(default_factory=dict)
    unsupported: Mapping[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.expectations)

    def __iter__(self) -> Iterator[Expectation]:
        return iter(self.expectations)

    def find(self, site: Site) -> Expectation | None:
        """Return the expectation of one site, None if there is none."""
        return next((e for e in self.expectations if e.site == site), None)

    def to_frame(self) -> pd.DataFrame:
        """Return a tidy frame with the columns of `varprobe.schema.PREDICTION`."""
        return build_frame(PREDICTION, (e.to_row() for e in self.expectations))

    def plot(self, **options: Any) -> object:
        """Draw second moments over depth; see `varprobe.plot_depth`."""
        import varprobe

        return varprobe.plot_depth(None, self, **options)

    def __repr__(self) -> str:
        counts = Counter(e.site.signal for e in self.expectations)
        said = ", ".join(f"{count} {name}s" for name, count in counts.items()) or "nothing"
        statuses = Counter(e.status for e in self.expectations)
        how = ", ".join(f"{count} {status}" for status, count in statuses.items())
        return f"<Prediction for {self.meta.get('model', 'a model')}: {said} ({how})>"


def predict(
    model: nn.Module | Callable[[], nn.Module],
    inputs: Inputs | Callable[[int], Inputs],
    *,
    kwargs: Mapping[str, Any] | None = None,
    init: Initialization | None = None,
    laws: Mapping[str, WeightLaw] = MappingProxyType({}),
    loss: Loss | bool | None = None,
    draws: int = 16,
    seed: int = 0,
) -> Prediction:
    """Predict the moments of every activation, gradient and weight gradient.

    The model runs once on tensors without numbers; then laws of second order are sent along what it
    did, forward and back, with the scatter that finite width gives one draw of the weights. Where
    an operation has no rule, what it did is run again on numbers, for some draws of the weights
    side by side, and the rows behind it say what came out. The model is not changed.

    Parameters
    ----------
    model : torch.nn.Module or callable
        A model, or a function without arguments that builds one. The function is called once
        without memory, to follow what it draws each parameter from. Only where that cannot be
        told, or the model does not run without numbers, it is called again to build the model.
    inputs : tensor, tuple, mapping or callable
        As in `varprobe.profile`. Given numbers are taken as they are: only the weights are random.
        Tensors on the meta device stand for independent standard normals.
    kwargs : mapping, optional
        Keyword arguments beside a tensor or a tuple.
    init : str or callable, optional
        The initialization whose laws the weights have. None, and what the initialization leaves
        alone: the laws that the function draws from; of a model, the moments that the weights have
        now, or, if it is on the meta device, what ``init="default"`` would draw.
    laws : mapping of str to WeightLaw
        Laws of single parameters, by their names in ``named_parameters()``, in place of those:
        what would be if these were drawn anew.
    loss : None, False or callable
        None sends independent N(0, 1) gradients into every differentiable output. False predicts no
        gradients. The gradients of a loss of one's own follow from draws alone.
    draws : int
        Draws of the weights for what no rule reaches, 2 or more; they cost a forward and a backward
        pass each, and memory for all of them at once, so that large models get fewer. 0 for none.
        Weights of unknown form are drawn as normal numbers of the mean and variance that they have.
    seed : int
        The same seed gives the same numbers.

    Returns
    -------
    Prediction
        Rows whose sites are those that `varprobe.Probe` records. A row that is estimated from draws
        has status "approximate" and says so. One that neither rules nor draws reach has status
        "unknown" or "tainted" and NaN in place of numbers.

    Raises
    ------
    InvalidArgumentError
        If ``draws`` is 1 or negative.
    UnknownNameError
        If ``init`` is no known name, or ``laws`` names a parameter that the model does not have.
    UnsupportedModelError
        If the function that should build a model does not, or if it looks at numbers that it draws
        and yet returns a model without numbers.

    Warns
    -----
    VarprobeWarning
        If rows are left without numbers, with the operations that want a rule; and if an output
        leaves the range of its dtype: theory computes with real numbers.

    Examples
    --------
    >>> import torch, varprobe as vp
    >>> model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU())
    >>> prediction = vp.predict(model, torch.randn(8, 64), init="kaiming_normal")
    >>> prediction
    <Prediction for Sequential: 2 weights, 3 activations, 3 gradients, 2 weight_gradients ...>
    """
    prediction = predict_silently(
        model, inputs, kwargs=kwargs, init=init, laws=laws, loss=loss, draws=draws, seed=seed
    )
    missing = [e for e in prediction if e.status in {"unknown", "tainted"}]
    if missing:
        first = missing[0]
        wanted = ", ".join(f"{name} for {n} rows" for name, n in prediction.unsupported.items())
        warnings.warn(
            f"{len(missing)} of {len(prediction)} rows have no numbers; the {first.site.signal} "
            f"{first.site} is the first: {first.reason}. "
            + (f"Rules are missing: {wanted}; give one with @vp.rule." if wanted else ""),
            VarprobeWarning,
            stacklevel=2,
        )
    beyond = [e for e in prediction if e.reason.startswith(BEYOND)]
    if beyond:
        warnings.warn(
            f"{len(beyond)} of {len(prediction)} rows are {BEYOND}; the {beyond[0].site.signal} "
            f"{beyond[0].site} is the first: {beyond[0].reason.removeprefix(BEYOND + ': ')}. From "
            "there on a run gives other numbers than these. Use a dtype with a larger range, a "
            "smaller initialization, or a norm.",
            VarprobeWarning,
            stacklevel=2,
        )
    return prediction


@remember()
def predict_silently(
    model: nn.Module | Callable[[], nn.Module],
    inputs: Inputs | Callable[[int], Inputs],
    *,
    kwargs: Mapping[str, Any] | None = None,
    init: Initialization | None = None,
    laws: Mapping[str, WeightLaw] = MappingProxyType({}),
    loss: Loss | bool | None = None,
    draws: int = 16,
    seed: int = 0,
) -> Prediction:
    """Return what `predict` returns, for a caller that shows missing rows itself."""
    if draws < 0 or draws == 1:
        raise InvalidArgumentError(
            f"draws={draws}: two draws are the fewest from which a scatter can be told; 0 leaves "
            "what no rule reaches unknown."
        )
    given = inputs(0) if _is_function(inputs) else inputs
    args, keywords = split_inputs(given, kwargs)
    subject, tape, results = _trace(take(model, init), args, keywords)
    built = subject.model
    parameters = replace_laws(read_parameters(subject, init), laws)
    forward = propagate(tape, _read_sources(tape, parameters))
    gradients = None
    if loss is not False:
        gradients = _find_gradients(tape, forward, results, own=callable(loss))
    unsupported = _count_unsupported(tape, forward, gradients)
    sampled = Sampled(reason="no draws were asked for")
    if draws and (unsupported or callable(loss)):
        known = _find_parameters(tape, parameters)
        sampled = sample(tape, known, results=results, loss=loss, draws=draws, seed=seed)
    expectations = tuple(_list_rows(tape, forward, gradients, parameters, sampled))
    return Prediction(
        expectations=expectations,
        meta={
            "model": type(built).__name__,
            "init": init if isinstance(init, str) else getattr(init, "__name__", None),
            "training": built.training,
            "operations": len(tape.operations),
            "draws": sampled.draws,
            "no_draws": sampled.reason if unsupported else "",
        },
        unsupported=unsupported,
    )


def _trace(
    subject: Subject, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[Subject, Tape, list[int]]:
    """Trace the model; where it does not run without numbers, the one that is built with them."""
    try:
        tape, results = trace(subject.model, args, kwargs)
        if not any(isinstance(tensor, FakeTensor) for tensor in tape.sources.values()):
            return subject, tape, results
        failure: Exception = UnsupportedModelError(
            f"{type(subject.model).__name__} reads a tensor that its constructor made and that is "
            "not in its modules, and it is too large to be built for the sake of that tensor. "
            "Register the tensor as a buffer, or give the model itself."
        )
    except Exception as error:
        failure = error
    built = subject.materialize()
    if built is None:
        raise failure
    return built, *trace(built.model, args, kwargs)


def _is_function(inputs: object) -> bool:
    return callable(inputs) and not isinstance(inputs, torch.Tensor | Mapping)


def _read_sources(tape: Tape, parameters: list[Parameter]) -> dict[int, Value]:
    """Return the values of parameters and inputs; buffers and constants are what they are."""
    laws = {id(parameter.tensor): (index, parameter) for index, parameter in enumerate(parameters)}
    sources: dict[int, Value] = {}
    for number, tensor in tape.sources.items():
        if id(tensor) in laws:
            index, parameter = laws[id(tensor)]
            sources[number] = (
                Unknown("no law is known for the parameter", "initialization")
                if parameter.law is None
                else Weight(parameter.law, tuple(tensor.shape), 1 << index)
            )
        elif tensor.is_meta and number in tape.inputs:
            sources[number] = (
                Noise(tuple(tensor.shape))
                if tensor.is_floating_point()
                else Ignored(tuple(tensor.shape))
            )
        elif tensor.is_meta and isinstance(tensor, nn.Parameter):
            # Of a parametrization: no row speaks of it, and no law is asked for.
            sources[number] = Unknown("a parametrization has no numbers here", "initialization")
        elif tensor.is_meta:
            sources[number] = Ignored(tuple(tensor.shape))
        else:
            sources[number] = Known(tensor)
    return sources


def _find_parameters(tape: Tape, parameters: list[Parameter]) -> dict[int, Parameter]:
    """Return the parameters that the model used, by their values on the tape."""
    known = {id(parameter.tensor): parameter for parameter in parameters}
    return {n: known[id(tensor)] for n, tensor in tape.sources.items() if id(tensor) in known}


class _Gradients:
    """The gradients that arrive, and which values have one."""

    def __init__(self, arrived: dict[int, Arriving], needed: set[int]) -> None:
        self.arrived = arrived
        self.needed = needed


def _find_gradients(tape: Tape, forward: Forward, results: list[int], *, own: bool) -> _Gradients:
    needed = {n for n, tensor in tape.sources.items() if tensor.requires_grad}
    for operation in tape.operations:
        read = (
            leaf.value
            for leaf in pytree.tree_leaves((operation.args, operation.kwargs))
            if isinstance(leaf, Slot)
        )
        traced = (before for n in read for before in tape.trace_back(n))
        if operation.grad and operation.name not in CUTS and not needed.isdisjoint(traced):
            needed.update(n for n in operation.outputs if tape.carries_signal(n))
    arrived = pull_back(tape, forward, results, needed.__contains__)
    if own:
        arrived = dict.fromkeys(arrived, OWN_LOSS)
    return _Gradients(arrived, needed)


CUTS = frozenset({"aten.detach.default", "aten.detach_.default"})
"""Operations through which no gradient goes."""


def _list_rows(
    tape: Tape,
    forward: Forward,
    gradients: _Gradients | None,
    parameters: list[Parameter],
    sampled: Sampled,
) -> Iterator[Expectation]:
    depths: dict[str, int] = {}
    for output in tape.outputs:
        depths.setdefault(output.module, output.depth)
    last = 1 + max((output.depth for output in tape.outputs), default=-1)
    numbers = {id(tensor): number for number, tensor in tape.sources.items()}
    found: list[Expectation] = []
    for parameter in parameters:
        depth = depths.get(parameter.module, last)
        found.append(expect_weight(parameter, depth))
        number = numbers.get(id(parameter.tensor))
        if gradients is not None and number in gradients.arrived:
            drawn = sampled.find_gradient(number)
            found.append(expect_weight_gradient(parameter, depth, gradients.arrived[number], drawn))
    for output in tape.outputs:
        value = forward.values[output.value]
        if isinstance(value, Ignored):
            continue
        row = expect_activation(output, value, sampled.find_activation(output.value))
        size = math.prod(tape.shapes[output.value])
        found.append(check_range(row, tape.dtypes[output.value], size))
        if gradients is not None and output.value in gradients.arrived:
            gradient = gradients.arrived[output.value]
            drawn = sampled.find_gradient(output.value)
            found.append(expect_gradient(output, gradient, value, drawn))
    return iter(sorted(found, key=lambda e: (SIGNAL_ORDER[e.site.signal], e.depth)))


SIGNAL_ORDER = {"weight": 0, "activation": 1, "gradient": 2, "weight_gradient": 3}


def _count_unsupported(
    tape: Tape, forward: Forward, gradients: _Gradients | None
) -> Mapping[str, int]:
    values = [forward.values[output.value] for output in tape.outputs]
    if gradients is not None:
        values += [gradients.arrived[o.value] for o in tape.outputs if o.value in gradients.arrived]  # type: ignore[misc]
    unknown = (value for value in values if isinstance(value, Unknown) and value is not OWN_LOSS)
    return dict(Counter(value.op for value in unknown).most_common())
