"""Running a model once without its numbers, and writing down what it does.

The model runs on fake tensors, which have shapes and no storage, so nothing is allocated and
nothing of the model can change. A dispatch mode sees each aten operation; under inference mode
composite operations arrive whole (linear, batch_norm, scaled_dot_product_attention), and those
without a rule are taken apart by torch itself.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from traceback import walk_tb
from typing import Any

import torch
from torch import nn
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
)
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from varprobe.errors import UnsupportedModelError
from varprobe.modules import name_method, walk_tensors
from varprobe.observation.hooks import observe_modules
from varprobe.observation.preservation import preserved_attributes, preserved_random_states
from varprobe.theory.rules.pointwise import is_pointwise
from varprobe.theory.rules.registry import Rule, find_module_rule, find_rule

PASSED_OVER = frozenset({"prim", "profiler"})
"""Namespaces of operations that carry no signal."""


@dataclass(frozen=True, slots=True)
class Slot:
    """A tensor among the arguments of an operation, by the number of its value."""

    value: int


@dataclass(frozen=True, slots=True)
class Operation:
    """One line of the tape.

    Parameters
    ----------
    op : OpOverload or None
        The aten operation; None for a module with a rule of its own.
    name : str
        Its name, for messages.
    args, kwargs
        Its arguments, a `Slot` in place of each tensor.
    outputs : tuple of int
        Numbers of the values that it made.
    rule : callable or None
        The rule found for it.
    grad : bool
        Whether gradients were recorded when it ran.
    renames : tuple of int
        For a module with a rule of its own: the values that its inner operations made, in the order
        of the outputs that stand for them from then on.
    """

    op: OpOverload | None
    name: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    outputs: tuple[int, ...]
    rule: Rule | None
    grad: bool
    renames: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Output:
    """A tensor that a module returned."""

    module: str
    call: int
    path: str
    kind: str
    depth: int
    value: int


@dataclass(slots=True)
class Tape:
    """What the model did.

    Parameters
    ----------
    operations : list of Operation
        In order.
    outputs : list of Output
        Of every module, children before their container.
    sources : dict of int to Tensor
        Values that no operation made: parameters, buffers, inputs, constants.
    dtypes : dict of int to torch.dtype
        In which each value is computed.
    shapes : dict of int to tuple
        Shape of each value.
    inputs : set of int
        The sources that are inputs of the model.
    results : object
        What the model returned, a `Slot` in place of each tensor.
    lost : dict of int to int or None
        Values of which no law is known, because their memory was written to through another view;
        and what the same tensor held before.
    """

    operations: list[Operation] = field(default_factory=list)
    outputs: list[Output] = field(default_factory=list)
    sources: dict[int, torch.Tensor] = field(default_factory=dict)
    dtypes: dict[int, torch.dtype] = field(default_factory=dict)
    shapes: dict[int, tuple[int, ...]] = field(default_factory=dict)
    inputs: set[int] = field(default_factory=set)
    results: object = None
    lost: dict[int, int | None] = field(default_factory=dict)

    def carries_signal(self, value: int) -> bool:
        """Tell whether a value is a tensor of real or complex numbers, not of integers."""
        return self.dtypes[value].is_floating_point or self.dtypes[value].is_complex

    def trace_back(self, value: int) -> Iterator[int]:
        """Yield a value and, if it was lost, what the same tensor held before."""
        found: int | None = value
        while found is not None:
            yield found
            found = self.lost.get(found)


WHOLE = frozenset({torch.ops.aten.scaled_dot_product_attention})
"""Operations that are not taken apart even without a rule: what torch makes of them depends on what
requires a gradient, and under inference mode nothing does."""

Key = tuple[int, int, tuple[int, ...], tuple[int, ...]]


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Write each operation on the tape, with the identity of the tensors it reads and makes."""

    def __init__(self, tape: Tape, *, always_grad: bool) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.tape = tape
        self._always_grad = always_grad
        self._values: dict[Key, int] = {}
        self._memory: set[int] = set()
        self._objects: dict[int, int] = {}
        self._kept: list[torch.Tensor] = []
        self._count = 0

    def number(self, tensor: torch.Tensor) -> int:
        """Return the number of the value a tensor holds now."""
        known = self._values.get(_identify(tensor))
        if known is not None:
            return known
        if _identify(tensor)[0] in self._memory:
            # A view of memory that was written to through another view.
            before = self._objects.get(id(tensor))
            value = self.assign(tensor)
            self.tape.lost[value] = before
            return value
        return self.introduce(tensor, tensor)

    def introduce(self, tensor: torch.Tensor, source: torch.Tensor) -> int:
        """Give a tensor that no operation made a number; ``source`` is what it stands for."""
        value = self.assign(tensor)
        self.tape.sources[value] = source
        return value

    def assign(self, tensor: torch.Tensor) -> int:
        """Give what a tensor holds from now on a new number."""
        value, self._count = self._count, self._count + 1
        key = _identify(tensor)
        self._values[key] = value
        self._memory.add(key[0])
        self._objects[id(tensor)] = value
        # The key is made of addresses, which are those of this tensor only while it lives.
        self._kept.append(tensor)
        self.tape.dtypes[value] = tensor.dtype
        self.tape.shapes[value] = tuple(tensor.shape)
        return value

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        found = find_rule(func)
        if found is None and not _is_whole(func):
            with self:
                taken_apart = func.decompose(*args, **kwargs)
            if taken_apart is not NotImplemented:
                return taken_apart
        reads, options = pytree.tree_map_only(
            torch.Tensor, lambda t: Slot(self.number(t)), (args, kwargs)
        )
        result = func(*args, **kwargs)
        if func.namespace in PASSED_OVER:
            return result
        leaves = [leaf for leaf in pytree.tree_leaves(result) if isinstance(leaf, torch.Tensor)]
        if func._schema.is_mutable:
            self._forget_aliases([*leaves, *_mutated(func, args, kwargs)])
        outputs = tuple(self.assign(tensor) for tensor in leaves)
        name, grad = str(func), self.records_grad()
        self.tape.operations.append(Operation(func, name, reads, options, outputs, found, grad))
        return result

    def records_grad(self) -> bool:
        """Tell whether an operation that runs now is differentiated."""
        return self._always_grad or torch.is_grad_enabled()

    def _forget_aliases(self, tensors: Sequence[torch.Tensor]) -> None:
        """Drop what is known of other views of memory that has just been written to."""
        stale = {_identify(tensor)[0] for tensor in tensors}
        self._values = {key: v for key, v in self._values.items() if key[0] not in stale}


def _is_whole(func: OpOverload) -> bool:
    return is_pointwise(func) or func.overloadpacket in WHOLE or func.namespace != "aten"


def _mutated(func: OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Any]:
    arguments = func._schema.arguments
    given = [*args, *(kwargs.get(a.name) for a in arguments[len(args) :])]
    pairs = zip(arguments, given, strict=False)
    return [
        value
        for argument, value in pairs
        if argument.alias_info is not None
        and argument.alias_info.is_write
        and isinstance(value, torch.Tensor)
    ]


def _identify(tensor: torch.Tensor) -> Key:
    if tensor.layout is not torch.strided:
        return id(tensor), 0, tuple(tensor.shape), ()
    return (
        tensor.untyped_storage()._cdata,
        int(tensor.storage_offset()),
        tuple(tensor.shape),
        tuple(tensor.stride()),
    )


def trace(
    model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[Tape, list[int]]:
    """Run the model on fake tensors.

    Returns
    -------
    tape : Tape
        What it did.
    results : list of int
        The values of the tensors that the model itself returned.
    """
    tensors = [*model.parameters(), *model.buffers(), *pytree.tree_leaves((args, kwargs))]
    has_numbers = not any(isinstance(t, torch.Tensor) and t.is_meta for t in tensors)
    with preserved_random_states():
        for with_numbers in (False, True) if has_numbers else (False,):
            fake = None if with_numbers else FakeTensorMode(allow_non_fake_inputs=True)
            for graph in (True, False):
                try:
                    return _run(model, args, kwargs, fake, graph=graph)
                except Exception as error:
                    failure = error
    # Neither without its numbers nor with them: the model is at fault, and says how.
    if not isinstance(failure, DataDependentOutputException | DynamicOutputShapeException):
        raise failure
    running = reversed([frame for frame, _ in walk_tb(failure.__traceback__)])
    raise UnsupportedModelError(
        f"{name_method(running) or 'The model'} looks at numbers ({failure.func}), and on the meta "
        "device there are none. Expected a forward pass that depends on shapes alone. Give a model "
        "and inputs with numbers, on the CPU: the parameters are then measured."
    ) from failure


def _run(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    fake: FakeTensorMode | None,
    *,
    graph: bool,
) -> tuple[Tape, list[int]]:
    """Run once, on fake tensors or on copies of the real ones.

    Without ``graph`` autograd stays off, and all operations count as differentiable: an autograd
    function of the model's own (activation checkpointing) cannot save tensors of inference mode.
    """
    tape = Tape()
    recorder = _Recorder(tape, always_grad=not graph)
    standins: dict[int, torch.Tensor] = {}

    def stand_in(tensor: torch.Tensor) -> torch.Tensor:
        if id(tensor) not in standins:
            standins[id(tensor)] = _copy(tensor, fake)
            recorder.introduce(standins[id(tensor)], tensor)
        return standins[id(tensor)]

    with (
        _decomposed_attention(),
        torch.inference_mode(),
        torch.set_grad_enabled(graph),
        fake or contextlib.nullcontext(),
    ):
        args, kwargs = pytree.tree_map_only(torch.Tensor, stand_in, (args, dict(kwargs)))
        tape.inputs.update(tape.sources)
        watcher = _Watcher(recorder)
        with _swapped(model, stand_in), observe_modules(model, watcher.on_output), recorder:
            result = model(*args, **kwargs)
        results = [recorder.number(tensor) for _, tensor in walk_tensors(result)]
        tape.results = pytree.tree_map_only(
            torch.Tensor, lambda tensor: Slot(recorder.number(tensor)), result
        )
    return tape, results


@contextlib.contextmanager
def _decomposed_attention() -> Iterator[None]:
    """Keep encoder layers from their fused path.

    They take it wherever nothing requires a gradient, as under inference mode; the path that a
    training step takes is the one to write down.
    """
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)


def _copy(tensor: torch.Tensor, fake: FakeTensorMode | None) -> torch.Tensor:
    if fake is None:
        return tensor.detach().clone()
    # A model on the meta device makes its constants on the CPU; both then live there.
    device = torch.device("cpu") if tensor.is_meta else tensor.device
    with fake:
        return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=device)


@contextlib.contextmanager
def _swapped(model: nn.Module, stand_in: Callable[[torch.Tensor], torch.Tensor]) -> Iterator[None]:
    """Put stand-ins in the place of parameters and buffers.

    What the forward pass writes into the modules' attributes (counters, caches) is undone, too.
    torch.func.functional_call leaves its stand-ins behind in a module that is registered twice.
    """
    with preserved_attributes(model):
        for module in model.modules():
            for tensors in (module._parameters, module._buffers):
                for name, tensor in tensors.items():
                    if tensor is not None:
                        tensors[name] = stand_in(tensor)  # type: ignore[assignment]
        yield


class _Watcher:
    """Align the outputs of modules with values, and put modules that have a rule on the tape."""

    def __init__(self, recorder: _Recorder) -> None:
        self.recorder = recorder
        self._calls: dict[str, int] = {}
        self._depth = 0

    def on_output(self, name: str, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        tape = self.recorder.tape
        call, depth = self._calls.get(name, 0), self._depth
        self._calls[name], self._depth = call + 1, depth + 1
        found = find_module_rule(module)
        tensors = list(walk_tensors(output))
        if found is not None and tensors:
            slots = pytree.tree_map_only(
                torch.Tensor, lambda t: Slot(self.recorder.number(t)), args
            )
            inner = tuple(self.recorder.number(tensor) for _, tensor in tensors)
            outputs = tuple(self.recorder.assign(tensor) for _, tensor in tensors)
            kind = type(module).__name__
            grad = self.recorder.records_grad()
            tape.operations.append(
                Operation(None, kind, (module, *slots), {}, outputs, found, grad, inner)
            )
        for path, tensor in tensors:
            value = self.recorder.number(tensor)
            tape.outputs.append(Output(name, call, path, type(module).__name__, depth, value))
