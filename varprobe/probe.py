"""Put hooks on a model and take them off: the one place that does.

A forward hook on every module measures the output at once, inside the hook; a tap on every
differentiable output (`varprobe.gradients`) measures its gradient when it arrives. No tensor is
kept, none is replaced, and what could not be seen is listed.
"""

from __future__ import annotations

import threading
import weakref
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from types import TracebackType
from typing import Any, NamedTuple, Self, cast

import torch
from torch import nn

from varprobe.errors import NothingRecordedError, ProbeStateError, UnknownNameError
from varprobe.gradients import AnyForward, GradientTaps, RootForward
from varprobe.ledger import Entry, Ledger
from varprobe.modules import (
    WEIGHTED,
    compute_fans,
    is_lazy,
    name_modules,
    own_parameters,
    walk_tensors,
)
from varprobe.recording import UNKNOWN_CALL, Recording, Site, Unobserved
from varprobe.refusals import choose_stance
from varprobe.schema import SIGNALS
from varprobe.statistics import Reading, measure_linear_input

STATS = ("moments", "full")

OnOutput = Callable[[str, nn.Module, tuple[Any, ...], Any], None]
OnRoot = Callable[[tuple[Any, ...]], None]


class _Label(NamedTuple):
    """What a tapped gradient is booked under."""

    site: Site
    kind: str
    depth: int | None


class _Hook:
    """A forward hook that is inert wherever it was not put: after deepcopy, pickle, or detaching.

    Averaged copies of a model (EMA) are made while it is being watched.
    """

    def __init__(self, call: Callable[..., None] | None = None, module: nn.Module | None = None):
        self._call = call
        self._module = None if module is None else weakref.ref(module)

    def __call__(self, module: nn.Module, *args: Any) -> None:
        if self._call is not None and self._module is not None and self._module() is module:
            self._call(module, *args)

    def disarm(self) -> None:
        self._call = None

    def __deepcopy__(self, memo: object) -> _Hook:
        return _Hook()

    def __reduce__(self) -> tuple[type[_Hook], tuple[()]]:
        return _Hook, ()


class ModuleHooks:
    """Forward hooks on every module of a model, and a pre-hook on its root."""

    def __init__(self, model: nn.Module, on_output: OnOutput, on_root: OnRoot) -> None:
        self._hooks: list[_Hook] = []
        self._handles: list[torch.utils.hooks.RemovableHandle] = []
        names = name_modules(model)
        try:
            begin = self._arm(lambda _, args: on_root(args), model)
            self._handles.append(model.register_forward_pre_hook(begin, prepend=True))
            for module, known in names.items():
                see = self._arm(_bind_name(known.name, on_output), module)
                self._handles.append(module.register_forward_hook(see))
        except BaseException:
            self.remove()
            raise

    def _arm(self, call: Callable[..., None], module: nn.Module) -> _Hook:
        hook = _Hook(call, module)
        self._hooks.append(hook)
        return hook

    def remove(self) -> None:
        """Take the hooks off."""
        for handle in self._handles:
            handle.remove()
        for hook in self._hooks:
            hook.disarm()


def _bind_name(name: str, on_output: OnOutput) -> Callable[..., None]:
    return lambda module, args, output: on_output(name, module, args, output)


@contextmanager
def observe_modules(
    model: nn.Module, on_output: OnOutput, on_root: OnRoot | None = None
) -> Iterator[None]:
    """Call ``on_output(name, module, args, output)`` after every forward of every module.

    Children come before their container. ``on_root(args)`` is called before the root's forward. The
    hooks are gone when the block is left, in whatever way.
    """
    hooks = ModuleHooks(model, on_output, on_root or (lambda _: None))
    try:
        yield
    finally:
        hooks.remove()


class Probe:
    """Record the moments of activations and gradients of a model in the user's own loop.

    Parameters
    ----------
    model : torch.nn.Module
        The model to observe, in any mode; outputs, gradients, buffers and random numbers stay
        bitwise what they are without the probe.
    stats : {"moments", "full"}
        "full" also counts zeros, takes a histogram over powers of two, and sums up the inputs of
        Linear and ConvNd for the local test of their gain.
    signals : sequence of str
        Which of `varprobe.schema.SIGNALS` to record. A weight is measured once, when the probe is
        switched on; a weight gradient at every backward pass.
    compiled : {"error", "eager"}
        torch.compile skips hooks that come after it in silence: refuse such a model, or run it in
        eager mode while the probe is on.
    run, draw, step
        Labels of the records.

    Raises
    ------
    UnsupportedModelError
        For TorchScript modules, compiled models (unless ``compiled="eager"``), and DataParallel on
        several devices.

    Examples
    --------
    >>> import torch, varprobe as vp
    >>> model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.ReLU())
    >>> with vp.Probe(model) as probe:
    ...     model(torch.randn(4, 8)).sum().backward()
    >>> [record.site.module for record in probe.recording.select(signal="gradient")]
    ['0', '1', '']
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        stats: str = "moments",
        signals: Sequence[str] = ("activation", "gradient", "weight"),
        compiled: str = "error",
        run: str = "",
        draw: int = 0,
        step: int = 0,
    ) -> None:
        for what, value, known in (
            ("stats", stats, STATS),
            ("compiled", compiled, ("error", "eager")),
            *(("signal", signal, SIGNALS) for signal in signals),
        ):
            if value not in known:
                raise UnknownNameError.among(what, value, known)
        self.model = model
        self.signals = tuple(signals)
        self._labels = {"run": run, "draw": draw, "step": step}
        self._names = {module: known.name for module, known in name_modules(model).items()}
        self._stance = choose_stance(self._names, compiled)
        self._ledger = Ledger(full=stats == "full")
        self._taps = GradientTaps(self._on_gradient)
        self._hooks: ModuleHooks | None = None
        self._forward = RootForward()
        self._calls: Counter[str] = Counter()
        self._graphless: defaultdict[str, list[int]] = defaultdict(list)
        self._called: set[str] = set()
        self._last: tuple[weakref.ref[torch.Tensor], int, Reading] | None = None
        self._lock = threading.RLock()
        self._batch_size: int | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Put the hooks on; ``with`` does it for you.

        Raises
        ------
        ProbeStateError
            If the probe was started before: a second recording needs a second probe.
        """
        if self._hooks is not None:
            raise ProbeStateError(
                "This probe was started before. Make a new one for a second recording; "
                "vp.Probe(model) is cheap."
            )
        if self._stance is not None:
            self._stance.__enter__()
        try:
            self._measure_weights()
            self._hooks = ModuleHooks(self.model, self._on_output, self._on_root)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Take every hook off, also those on graphs that are still alive; may be repeated."""
        if self._hooks is not None:
            self._hooks.remove()
        self._taps.remove()
        self._last = None
        if self._stance is not None:
            self._stance.__exit__(None, None, None)
            self._stance = None

    @property
    def recording(self) -> Recording:
        """What was recorded so far.

        Raises
        ------
        NothingRecordedError
            If no module was called while the probe was on (VP001).
        """
        if self._ledger.is_empty:
            raise NothingRecordedError(
                f"VP001: no output of {type(self.model).__name__} was recorded. Call the model "
                "itself inside the probe, not a copy, a compiled outer function or a model that "
                "was replaced in between; outputs that hold no tensor count as nothing, too."
            )
        return Recording(
            records=self._ledger.close(**self._labels),  # type: ignore[arg-type]
            meta=self._describe(),
            unobserved=(*self._list_uncalled(), *self._ledger.list_missing()),
        )

    def _describe(self) -> dict[str, object]:
        tensors = [*self.model.parameters(), *self.model.buffers()]
        return {
            "model": type(self.model).__name__,
            "parameters": sum(p.numel() for p in self.model.parameters() if not is_lazy(p)),
            "device": str(tensors[0].device) if tensors else "cpu",
            "dtype": str(tensors[0].dtype).removeprefix("torch.") if tensors else "float32",
            "training": self.model.training,
            "batch_size": self._batch_size,
            "recomputed_calls": self._ledger.recomputed,
            "torch": str(torch.__version__),
        }

    def _on_root(self, args: tuple[Any, ...]) -> None:
        if torch._C._current_graph_task_id() != -1:
            return
        with self._lock:
            self._forward = RootForward()
            self._calls.clear()
            self._graphless.clear()
            first = next((tensor for _, tensor in walk_tensors(args)), None)
            if first is not None and first.dim():
                self._batch_size = first.shape[0]

    def _on_output(self, name: str, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        self._called.add(name)
        # Inside a backward pass a module runs again for a checkpoint: its activation was counted.
        again = torch._C._current_graph_task_id() != -1
        call = self._find_call_again(name) if again else self._count_call(name)
        if call is None:
            return
        depth = self._ledger.open_site(name, call)
        kind = type(module).__name__
        for path, tensor in walk_tensors(output):
            if not again and "activation" in self.signals:
                site = Site(module=name, call=call, output=path)
                self._add_activation(site, kind, depth, tensor, module, args)
            if "gradient" in self.signals and tensor.requires_grad and torch.is_grad_enabled():
                site = Site(module=name, call=call, output=path, signal="gradient")
                self._ledger.await_gradient(site)
                self._taps.tap(tensor, _Label(site, kind, depth), self._forward)

    def _count_call(self, name: str) -> int:
        with self._lock:
            call = self._calls[name]
            self._calls[name] += 1
            if not torch.is_grad_enabled():
                self._graphless[name].append(call)
        return call

    def _find_call_again(self, name: str) -> int | None:
        """Return the call that is being computed again, if its gradient was not tapped then."""
        self._ledger.count_recomputation()
        waiting = self._graphless[name]
        if not waiting or not torch.is_grad_enabled():
            return None
        return waiting.pop() if len(waiting) == 1 else UNKNOWN_CALL

    def _add_activation(
        self,
        site: Site,
        kind: str,
        depth: int,
        tensor: torch.Tensor,
        module: nn.Module,
        args: tuple[Any, ...],
    ) -> None:
        reading = self._reuse(tensor)
        if reading is None:
            reading = self._ledger.measure(site, tensor)
            if reading is None:
                return
            if not tensor.is_inference():
                self._last = weakref.ref(tensor), tensor._version, reading
        received = None
        if self._ledger.full and isinstance(module, WEIGHTED) and args:
            received = measure_linear_input(module, args[0])
        shape = tuple(tensor.shape)
        self._ledger.add(site, Entry(kind, depth, reading, shape, linear_input=received))

    def _reuse(self, tensor: torch.Tensor) -> Reading | None:
        # A container returns the tensor that its last child returned a moment ago.
        if self._last is None:
            return None
        last, version, reading = self._last
        return reading if last() is tensor and tensor._version == version else None

    def _on_gradient(self, labels: Sequence[object], gradient: torch.Tensor, backward: int) -> None:
        reading: Reading | None = None
        for label in cast("Sequence[_Label]", labels):
            reading = reading or self._ledger.measure(label.site, gradient)
            if reading is not None:
                entry = Entry(label.kind, label.depth, reading, tuple(gradient.shape))
                self._ledger.add(label.site, entry, backward)

    def _measure_weights(self) -> None:
        pooled = AnyForward()
        for owner, name, parameter in own_parameters(self._names):
            label, kind = self._names[owner], type(owner).__name__
            fans = compute_fans(owner) if name == "weight" else None
            site = Site(module=label, output=name, signal="weight")
            if "weight" in self.signals:
                reading = self._ledger.measure(site, parameter)
                if reading is not None:
                    shape = tuple(parameter.shape)
                    self._ledger.add(site, Entry(kind, None, reading, shape, fans))
            if "weight_gradient" in self.signals and parameter.requires_grad:
                site = replace(site, signal="weight_gradient")
                self._ledger.await_gradient(site)
                self._taps.tap(parameter, _Label(site, kind, None), pooled)

    def _list_uncalled(self) -> Iterator[Unobserved]:
        for module, name in self._names.items():
            if name in self._called or not _has_forward(module):
                continue
            held = any(True for _ in module.parameters(recurse=False))
            use = "; its weights may be used without it, as a function's arguments" if held else ""
            yield Unobserved(module=name, reason=f"never called{use}")
        for module, name in self._names.items():
            if nn.utils.parametrize.is_parametrized(module):
                reason = "weight: it is parametrized, and reading it could change it"
                yield Unobserved(module=name, reason=reason)


def _has_forward(module: nn.Module) -> bool:
    # ModuleList and its kin are containers that nobody calls.
    return type(module).forward is not nn.Module.forward
