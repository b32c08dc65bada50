"""See the operations between modules: functions, residual additions, attention products.

A mode of torch sees every function that is called with tensors, as the model's code calls it:
F.gelu and ``x + y``, not the kernels that they become. It gets the very tensors that the model
works on, so that their gradients can be tapped; a dispatch mode sees them below autograd, where
they have none. It is on while the root's forward runs, in the thread that runs it, and at no other
time: not in backward passes, where checkpoints compute again, and not in the optimizer.

The result of an operation is booked when the next function is called, before that can change it. So
it is known whether a module returned the result as it came: then it is recorded as the module's.
"""

from __future__ import annotations

import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.overrides import TorchFunctionMode, _pop_mode, _push_mode

from varprobe.modules import list_tensors
from varprobe.observation.dataflow import Dataflow, read_version
from varprobe.observation.filters import is_leaf
from varprobe.observation.forwards import RootForward
from varprobe.observation.gradients import GradientTaps
from varprobe.observation.hooks import ModuleHooks, OnOutput
from varprobe.observation.ledger import Ledger
from varprobe.observation.naming import is_new, may_make_numbers, name_operation
from varprobe.recording import Unobserved


def unseen(on_output: OnOutput) -> OnOutput:
    """Return a hook whose own use of tensors is no operation of the model."""

    def call(name: str, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        with torch._C.DisableTorchFunction():
            on_output(name, module, args, output)

    return call


class _Frame:
    """A call of a module that has not returned."""

    __slots__ = ("counts", "is_open", "module", "name")

    def __init__(self, module: nn.Module, name: str, *, is_open: bool) -> None:
        self.module = module
        self.name = name
        self.is_open = is_open
        """Whether operations are recorded here."""
        self.counts: Counter[str] = Counter()


class _Result(NamedTuple):
    """What an operation returned, not booked yet."""

    frame: _Frame
    kind: str
    number: int
    tensors: Sequence[tuple[str, torch.Tensor]]
    has_graph: bool


class Operations:
    """The operations of one model, in all threads that run it.

    Parameters
    ----------
    names : mapping of torch.nn.Module to str
        The modules whose operations are recorded. Those of torch's own layers are not: there the
        layer is the operation.
    signals : sequence of str
        What is recorded of them, if it is "activation" or "gradient".
    ledger, taps
        Where it is booked.
    """

    def __init__(
        self,
        names: Mapping[nn.Module, str],
        signals: Sequence[str],
        ledger: Ledger,
        taps: GradientTaps,
    ) -> None:
        self.signals = signals
        self.active = True
        self._names = names
        self._ledger = ledger
        self._taps = taps
        self._of_thread = threading.local()
        self._graphless: defaultdict[str, set[tuple[int, str]]] = defaultdict(set)

    def hook(self, modules: Iterable[nn.Module], root: nn.Module, hooks: ModuleHooks) -> None:
        """Follow the calls of all modules: also those inside of what is left out."""
        for module in modules:
            if module is not root:
                hooks.before(module, lambda called, *_: self.enter(called))
            hooks.after(
                module, lambda called, _, output: self.leave(root, called, output), always=True
            )

    def begin(self, root: nn.Module, forward: RootForward, dataflow: Dataflow | None) -> None:
        """Watch the forward of the root that begins in this thread; ``dataflow`` learns from it."""
        self.end()
        watch = _Watch(self, forward, dataflow)
        self._of_thread.watch = watch
        watch.frames.append(self._open(root))
        _push_mode(watch)  # type: ignore[no-untyped-call]

    def end(self) -> None:
        """Watch no more in this thread."""
        watch = self._find_watch()
        if watch is not None:
            _remove(watch)
            self._of_thread.watch = None

    def stop(self) -> None:
        """Watch no more, and record nothing of forwards that still run in other threads."""
        self.active = False
        self.end()

    def enter(self, module: nn.Module) -> None:
        """Say that a module inside the root is called."""
        watch = self._find_watch()
        if watch is not None and torch._C._current_graph_task_id() == -1:
            watch.settle()
            watch.frames.append(self._open(module))

    def leave(self, root: nn.Module, module: nn.Module, output: object) -> None:
        """Say that a module returned its output, or None with an exception."""
        watch = self._find_watch()
        if watch is None or torch._C._current_graph_task_id() != -1:
            return
        with torch._C.DisableTorchFunction():
            watch.settle(returned={id(tensor) for _, tensor in list_tensors(output)})
        # A call whose end was never told, for want of an exception that torch tells of, ends here.
        while watch.frames and watch.frames.pop().module is not module:
            pass
        if module is root or not watch.frames:
            self.end()

    def list_unobserved(self) -> Iterator[Unobserved]:
        """Yield the modules with operations whose gradients nobody can see."""
        for module, outputs in self._graphless.items():
            yield Unobserved(
                module=module,
                reason=f"gradient: {len(outputs)} of its operations ran without a graph "
                "(checkpointing, a custom function, or torch.no_grad)",
            )

    def book(
        self, result: _Result, output: str, tensor: torch.Tensor, forward: RootForward
    ) -> None:
        """Record a tensor that an operation returned."""
        name, kind = result.frame.name, result.kind
        call = forward.next_call(name)
        self._ledger.note_call(name, call, output)
        if "activation" in self.signals:
            place = self._ledger.find_place(name, call, output, "activation", kind)
            reading = self._ledger.measure(place, tensor)
            if reading is not None:
                self._ledger.add(place, reading, tensor)
        if "gradient" not in self.signals:
            return
        if result.has_graph and tensor.requires_grad:
            place = self._ledger.find_place(name, call, output, "gradient", kind)
            place.awaited = True
            self._taps.tap(tensor, place, forward)
        elif forward.has_graph and not result.has_graph:
            self._graphless[name].add((call, output))

    def _find_watch(self) -> _Watch | None:
        watch: _Watch | None = getattr(self._of_thread, "watch", None)
        return watch

    def _open(self, module: nn.Module) -> _Frame:
        is_open = module in self._names and not _is_layer(module)
        return _Frame(module, self._names.get(module, ""), is_open=is_open)


class _Watch(TorchFunctionMode):
    """The mode that is on during one forward of the root, in one thread."""

    def __init__(self, owner: Operations, forward: RootForward, dataflow: Dataflow | None) -> None:
        super().__init__()
        self.frames: list[_Frame] = []
        self._owner = owner
        self._forward = forward
        self._dataflow = dataflow
        self._pending: _Result | None = None

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        named = kwargs or {}
        if torch.compiler.is_compiling():
            # A compiled function inside of the model: torch compiles this mode with it, as nothing.
            return func(*args, **named)
        if not self._owner.active or torch._C._current_graph_task_id() != -1 or not self.frames:
            return func(*args, **named)
        frame, kind = self.frames[-1], name_operation(func)
        if kind is None:
            # Attributes of a tensor change nothing, but may be tensors, as ``x.T`` is.
            return self._learn(func(*args, **named))
        self.settle()
        if not frame.is_open:
            return func(*args, **named)
        if not may_make_numbers(kind):
            return self._learn(func(*args, **named))
        with torch._C.DisableTorchFunction():
            given = {id(t): (t, read_version(t)) for t in _list_arguments(args, named)}
        result = func(*args, **named)
        made = self._learn(args[0] if kind == "setitem" else result)
        with torch._C.DisableTorchFunction():
            tensors = [(p, tensor) for p, tensor in list_tensors(made) if is_new(tensor, given)]
        if tensors:
            number = frame.counts[kind]
            frame.counts[kind] += 1
            self._pending = _Result(frame, kind, number, tensors, torch.is_grad_enabled())
        return result

    def settle(self, returned: frozenset[int] | set[int] = frozenset()) -> None:
        """Book the last result, but for the tensors that its module ``returned``."""
        result, self._pending = self._pending, None
        if result is None:
            return
        with torch._C.DisableTorchFunction():
            for path, tensor in result.tensors:
                if id(tensor) not in returned:
                    self._owner.book(result, _spell(result, path), tensor, self._forward)

    def _learn(self, result: Any) -> Any:
        if self._dataflow is not None:
            with torch._C.DisableTorchFunction():
                self._dataflow.learn(tensor for _, tensor in list_tensors(result))
        return result


def _spell(result: _Result, path: str) -> str:
    number = f".{result.number}" if result.number else ""
    return f"{result.kind}(){number}{f'[{path}]' if path else ''}"


def _list_arguments(args: tuple[Any, ...], named: Mapping[str, Any]) -> Iterator[torch.Tensor]:
    for value in (*args, *named.values()):
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, tuple | list):
            yield from (item for item in value if isinstance(item, torch.Tensor))


def _is_layer(module: nn.Module) -> bool:
    """Tell whether a module is one of torch's own that calls no other."""
    is_torchs = type(module).__module__.startswith("torch.")
    # Attention has a projection inside, whose weights it uses without calling it.
    return is_torchs and (is_leaf("", module) or isinstance(module, nn.MultiheadAttention))


def _remove(watch: _Watch) -> None:
    """Take a mode off torch's stack, from below those that were put there later."""
    above = []
    while torch._C._len_torch_function_stack():
        mode = _pop_mode()  # type: ignore[no-untyped-call]
        if mode is watch:
            break
        above.append(mode)
    for mode in reversed(above):
        _push_mode(mode)  # type: ignore[no-untyped-call]
