"""Following what the operations of a constructor leave in its tensors.

The constructor runs on fake tensors, which have shapes and no memory and call themselves ordinary
ones, so that no library takes the short way that it has for the meta device. This mode sees each
aten operation, and keeps for each storage what its elements are: drawn numbers by their
distribution, others by themselves.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import count
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
)
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from varprobe.errors import UnsupportedModelError
from varprobe.initializers.capture.calls import Call, find_written, name_arguments
from varprobe.initializers.capture.elements import (
    Element,
    compute,
    constant,
    invert_error_function,
    normal,
    uniform,
)
from varprobe.initializers.capture.memory import (
    MOST_LABELS,
    MOST_NUMBERS,
    UNWRITTEN,
    Content,
    Lost,
    Memory,
    Patch,
    combine,
)
from varprobe.modules import name_method

aten = torch.ops.aten

FILLED: dict[Any, float | str] = {
    aten.zeros: 0.0,
    aten.zeros_like: 0.0,
    aten.new_zeros: 0.0,
    aten.zero_: 0.0,
    aten.ones: 1.0,
    aten.ones_like: 1.0,
    aten.new_ones: 1.0,
    aten.full: "fill_value",
    aten.full_like: "fill_value",
    aten.new_full: "fill_value",
    aten.fill_: "value",
}
"""Operations that write one number everywhere: the number, or the argument that is the number."""

EMPTY = frozenset(
    {aten.empty, aten.empty_like, aten.empty_strided, aten.new_empty, aten.new_empty_strided}
)

DRAWN: dict[Any, Callable[[Mapping[str, Any], int], Element]] = {
    aten.normal_: lambda given, source: normal(given["mean"], given["std"], source),
    aten.normal.float_float: lambda given, source: normal(given["mean"], given["std"], source),
    aten.uniform_: lambda given, source: uniform(given["from"], given["to"], source),
    aten.rand: lambda _, source: uniform(0.0, 1.0, source),
    aten.rand_like: lambda _, source: uniform(0.0, 1.0, source),
    aten.randn: lambda _, source: normal(0.0, 1.0, source),
    aten.randn_like: lambda _, source: normal(0.0, 1.0, source),
}
"""Operations that draw independent numbers, and from what."""

COPIED = frozenset({aten.clone, aten._to_copy, aten.contiguous, aten.lift_fresh, aten.lift})

MOVED = frozenset(
    {
        aten.cat, aten.stack, aten.repeat, aten.flip, aten.roll, aten.rot90, aten.index_select,
        aten.gather, aten.index, aten.repeat_interleave, aten.take, aten._unsafe_view,
        aten._reshape_copy, aten.block_diag,
    }
)  # fmt: skip
"""Operations that put elements elsewhere."""


class Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Keep for each storage what its elements are."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._memories: dict[int, tuple[torch.UntypedStorage, torch.dtype, Memory]] = {}
        self._sources = count()

    def follows(self, tensor: Tensor) -> bool:
        """Return whether the tensor has no numbers, so that they have to be described."""
        return isinstance(tensor, FakeTensor)

    def assume(self, tensor: Tensor, content: Content) -> None:
        """Let all elements of a tensor be what ``content`` says."""
        with _real_tensors():
            self._write(tensor, Patch([content]))

    def hold(self, tensor: Tensor, values: Tensor) -> None:
        """Let a tensor have the numbers of another, if that has any."""
        with _real_tensors():
            numbers = self.find_numbers(values.detach())
            if numbers is not None:
                self._keep(tensor, numbers)

    def describe(self, tensor: Tensor, draw: Callable[[int], Element]) -> None:
        """Let all elements of a tensor be what ``draw`` makes of a source that is new."""
        with _real_tensors():
            self._write(tensor, Patch([draw(next(self._sources))]))

    def memory(self, tensor: Tensor) -> Memory:
        """Return what is known of the storage that a tensor is a view of."""
        storage, dtype = tensor.untyped_storage(), tensor.dtype
        size = storage.nbytes() // tensor.element_size()
        known = self._memories.get(storage._cdata)
        if known is None:
            # The address tells storages apart only while they live: hence the reference.
            known = self._memories[storage._cdata] = storage, dtype, Memory(size)
            has_numbers = not isinstance(tensor, FakeTensor) and not tensor.is_meta
            if has_numbers and size <= MOST_NUMBERS:
                flat = tensor.as_strided((size,), (1,), 0)
                known[2].keep(flat, flat)
        if known[1] != dtype:
            return Memory(size, Lost("memory used as another type"))
        return known[2]

    def _open(self, tensor: Tensor) -> Memory:
        """Return what is known of a storage that is going to be written to."""
        memory = self.memory(tensor)
        known = self._memories[tensor.untyped_storage()._cdata][2]
        if memory is not known:
            known.forget("memory used as another type")
        return memory

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = dict(kwargs or {})
        if kwargs.get("device") is not None:
            # As for the functions that make tensors: `module.to(device)` is seen here only.
            kwargs["device"] = torch.device("cpu")
        try:
            result = func(*args, **kwargs)
        except (DataDependentOutputException, DynamicOutputShapeException) as error:
            result = self._look_at_numbers(error.func, func, args, kwargs)
        if func.namespace != "prim":
            with _real_tensors():
                self._follow(func, args, kwargs, result)
        return result

    def _look_at_numbers(
        self, op: OpOverload, func: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Run what depends on numbers, and not on their law, on the numbers that are known."""
        read = [t for t in pytree.tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        call = Call(func, args, kwargs, read, ())
        with _real_tensors():
            numbers = self._find_all_numbers(call)
            if numbers is None:
                raise UnsupportedModelError(
                    f"{name_method(_walk_stack()) or 'The constructor'} looks at numbers that were "
                    f"drawn ({op}). Expected a constructor that is followed without its numbers, "
                    "as far as they are drawn. Build the model and give it itself: its parameters "
                    "are then measured."
                )
            result = call.run(numbers)
        if not isinstance(result, Tensor):
            return result
        made = torch.empty_strided(result.shape, result.stride(), dtype=result.dtype)
        with _real_tensors():
            self._keep(made, result)
        return made

    def _follow(
        self, func: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any
    ) -> None:
        given = name_arguments(func, args, kwargs)
        read = [t for t in pytree.tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        made = [t for t in pytree.tree_leaves(result) if isinstance(t, Tensor)]
        storages = {t.untyped_storage()._cdata for t in read}
        targets = list(find_written(func, given)) or [
            t for t in made if t.untyped_storage()._cdata not in storages
        ]
        reshaped = torch.Tag.inplace_view in func.tags and func.overloadpacket is not aten.resize_
        if not targets or reshaped:
            return  # views: what a storage holds is the same whoever looks at it
        try:
            self._tell(func, given, Call(func, args, kwargs, read, targets))
        except Exception as error:
            # A rule that fails must not stop the constructor, which is sound.
            self._lose(targets, f"{func}: {type(error).__name__}: {error}")

    def _tell(self, func: OpOverload, given: Mapping[str, Any], call: Call) -> None:
        packet, target = func.overloadpacket, call.targets[0]
        if packet in EMPTY:
            self._write(target, Patch([UNWRITTEN]))
        elif packet in FILLED and not isinstance(given.get("value"), Tensor):
            value = FILLED[packet]
            value = given[value] if isinstance(value, str) else value
            self._write(target, Patch([_to_content(value)]))
        elif (draw := DRAWN.get(packet, DRAWN.get(func))) and target.is_floating_point():
            self._write(target, Patch([draw(given, next(self._sources))]))
        elif torch.Tag.nondeterministic_seeded in func.tags:
            self._lose(call.targets, f"{func} has no rule")
        elif packet is aten.copy_ or packet in COPIED:
            self._copy(target, given["src"] if packet is aten.copy_ else call.read[0])
        elif self._compute_numbers(call):
            return
        elif len(call.targets) == 1 and torch.Tag.pointwise in func.tags and call.operands:
            self._write(target, self._map(call))
        elif len(call.targets) == 1 and packet in MOVED:
            self._write(target, self._rearrange(call))
        else:
            self._lose(call.targets, f"{func} has no rule")

    def _write(self, target: Tensor, patch: Patch) -> None:
        self._open(target).write(target, patch)

    def _lose(self, targets: Sequence[Tensor], reason: str) -> None:
        for target in targets:
            self._write(target, Patch([Lost(reason)]))

    def find_numbers(self, tensor: Tensor) -> Tensor | None:
        """Return the numbers of a tensor that nothing has drawn, as a view that can be written."""
        numbers = self.memory(tensor).find_numbers(tensor.dtype)
        if numbers is None or numbers.dtype != tensor.dtype:
            return None
        return numbers.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())

    def _find_all_numbers(self, call: Call) -> list[Tensor] | None:
        """Return the numbers of all that an operation reads, None if some were drawn."""
        found = [self.find_numbers(tensor) for tensor in call.operands]
        numbers = [values for values in found if values is not None]
        return numbers if len(numbers) == len(found) else None

    def _copy(self, target: Tensor, source: Tensor) -> None:
        numbers = self.find_numbers(source)
        if numbers is not None and self._keep(target, numbers):
            return
        if source.is_floating_point() and not target.is_floating_point():
            self._lose([target], "draws made whole numbers")
            return
        patch = self.memory(source).read(source)
        if patch.labels is not None:
            patch = Patch(patch.contents, patch.labels.expand(target.shape))
        self._write(target, patch if self._keeps_places(source, target) else self._move(patch))

    def _keep(self, target: Tensor, numbers: Tensor) -> bool:
        """Let a tensor hold numbers, if its storage then holds nothing else."""
        memory, held = self._open(target), self.find_numbers(target)
        if held is not None:
            held.copy_(numbers)
        elif target.numel() == memory.size:
            memory.keep(numbers.expand(target.shape).to(target.dtype), target)
        else:
            return False
        return True

    def _keeps_places(self, source: Tensor, target: Tensor) -> bool:
        """Return whether each element of a storage goes to its own place in another."""
        return source.shape == target.shape and all(
            tensor.is_contiguous() and tensor.numel() == self.memory(tensor).size
            for tensor in (source, target)
        )

    def _compute_numbers(self, call: Call) -> bool:
        """Run an operation on numbers, if all that it reads are numbers."""
        if sum(target.numel() for target in call.targets) > MOST_NUMBERS:
            return False
        numbers = self._find_all_numbers(call)
        if numbers is None:
            return False
        result = call.run(numbers)
        if call.func._schema.is_mutable and not call.has_out:
            return True  # they were written to where they are kept
        made = [t for t in pytree.tree_leaves(result) if isinstance(t, Tensor)]
        for target, values in zip(call.targets, made, strict=True):
            if not self._keep(target, values):
                self._write(target, _distinguish(values))
        return True

    def _map(self, call: Call) -> Patch:
        """Tell what a pointwise operation makes of its elements."""
        operands = call.operands
        patches = combine(
            [self.memory(t).read(t) for t in operands], [tensor.shape for tensor in operands]
        )
        target = call.targets[0]
        patches = [
            patch if self._keeps_places(tensor, target) else self._move(patch)
            for patch, tensor in zip(patches, operands, strict=True)
        ]
        contents: list[Content] = []
        for combination in zip(*(patch.contents for patch in patches), strict=True):
            elements = [content for content in combination if isinstance(content, Element)]
            if len(elements) < len(combination):
                contents.append(next(Lost(c.reason) for c in combination if isinstance(c, Lost)))
            elif call.func.overloadpacket in (aten.erfinv, aten.erfinv_):
                contents.append(_told(invert_error_function(elements[0], next(self._sources))))
            else:
                contents.append(_told(compute(call.compute, elements)))
        labels = patches[0].labels
        return Patch(contents, None if labels is None else labels.expand(target.shape))

    def _rearrange(self, call: Call) -> Patch:
        """Run an operation that moves elements on their labels."""
        if call.targets[0].numel() > MOST_LABELS:
            return Patch([Lost("parts of a tensor too large to follow each element")])
        contents: list[Content] = []
        moved: list[Tensor] = []
        for tensor in call.operands:
            if not tensor.is_floating_point():
                index = self.find_numbers(tensor)
                if index is None:
                    return Patch([Lost(f"{call.func} with an index that is drawn")])
                moved.append(index)
                continue
            patch = self.memory(tensor).read(tensor)
            labels = torch.zeros((), dtype=torch.int64) if patch.labels is None else patch.labels
            moved.append((labels + len(contents)).expand(tensor.shape))
            contents += patch.contents
        return self._move(Patch(contents, call.run(moved)))

    def _move(self, patch: Patch) -> Patch:
        """Return the patch with elements that no longer lie where they were drawn.

        They are as dependent as ever on those that do, but on others of them. A source of their own
        keeps the two from being taken for functions of one number.
        """
        return Patch(
            [
                replace(content, source=next(self._sources))
                if isinstance(content, Element) and not content.is_constant
                else content
                for content in patch.contents
            ],
            patch.labels,
        )


@contextmanager
def _real_tensors() -> Iterator[None]:
    """Have tensors of one's own inside, whatever the constructor has set up."""
    with _disable_current_modes(), torch.device("cpu"):
        yield


def _distinguish(values: Tensor) -> Patch:
    held, labels = torch.unique(values, return_inverse=True)
    return Patch([constant(float(value)) for value in held], labels)


def _walk_stack() -> Iterator[FrameType]:
    """Yield the frames that are running now, the innermost first."""
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        yield frame
        frame = frame.f_back


def _told(outcome: Element | str) -> Content:
    return outcome if isinstance(outcome, Element) else Lost(outcome)


def _to_content(value: Any) -> Content:
    return Lost("a complex number") if isinstance(value, complex) else constant(float(value))
