"""Watch a model in the user's own loop.

A forward hook on every module measures the output at once, inside the hook; a tap on every
differentiable output (`varprobe.observation.gradients`) measures its gradient when it arrives. No
tensor is kept, none is replaced, and what could not be seen is listed.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from types import TracebackType
from typing import Any, Self, cast

import torch
from torch import distributed, nn

from varprobe.errors import NothingRecordedError, ProbeStateError, UnknownNameError
from varprobe.modules import WEIGHTED, collect_tensors, list_tensors, name_kind, name_modules
from varprobe.observation.dataflow import Dataflow
from varprobe.observation.facts import describe_model
from varprobe.observation.filters import Filters, choose_modules
from varprobe.observation.forwards import Forwards, RootForward
from varprobe.observation.gathering import gather
from varprobe.observation.grad_scale import GradScale, Unscaling
from varprobe.observation.gradients import GradientTaps
from varprobe.observation.hooks import ModuleHooks, OnOutput
from varprobe.observation.ledger import Ledger, Place
from varprobe.observation.operations import Operations, unseen
from varprobe.observation.parameters import Parameters
from varprobe.observation.parts import Part
from varprobe.observation.refusals import choose_stance
from varprobe.observation.rehearsal import is_rehearsal
from varprobe.recording import Recording, RecordKey, Unobserved
from varprobe.schema import SIGNALS
from varprobe.statistics import Reading, measure_linear_input

STATS = ("moments", "full")


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
        switched on, or when a lazy module gets it; a weight gradient at every backward pass.
    include, exclude : str, class, callable, or sequence of these
        Which modules to watch, all by default: those that one of ``include`` matches, without those
        that one of ``exclude`` does. A string is a pattern of names as in ``named_modules()``
        ("encoder.*", where ``*`` stands for anything, dots included; "" for the model itself), a
        class matches its instances, a function is called with name and module
        (`varprobe.is_leaf`, `varprobe.is_container`, one of your own). It decides about outputs,
        their gradients, and the module's own weights, not about the modules inside. What is left
        out has no hook.
    grad_scale : float, GradScaler or callable, optional
        The factor that the loss is multiplied by before the backward pass: a number, an object
        with ``get_scale()``, or a function without arguments. It is asked once in each backward
        pass, and gradients are divided by it as they arrive. Without it they are recorded as they
        flow.
    max_elements : int, optional
        Read at most so many elements of one tensor, a random sample spread evenly over it, and
        estimate its moments from those, with the records' ``mean_error`` and
        ``second_moment_error``. The largest magnitude is that of the sample, and some non-finite
        elements may escape it. It costs about 0.1 ms, which pays for a million elements on a CPU.
    ops : bool
        Also record what functions return within the modules: F.relu, residual additions, attention
        products. ``site.output`` is then the operation ("add()", "add().1" for the second of its
        kind in a call) and ``kind`` its name. Not recorded are views, copies, casts, and what a
        module returns as it came; in torch's own layers the layer is the operation.
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
    UnknownNameError
        For a value that does not exist, and a pattern that matches no module.
    InvalidArgumentError
        If the filters leave nothing to record, ``grad_scale`` is not positive, or ``max_elements``
        is too small for an error bar.

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
        include: Filters | None = None,
        exclude: Filters = (),
        grad_scale: GradScale | None = None,
        max_elements: int | None = None,
        ops: bool = False,
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
        self._labels: dict[str, Any] = {"run": run, "draw": draw, "step": step}
        self._stance = choose_stance(model, compiled)
        names = name_modules(model)
        self._root = next(module for module, known in names.items() if not known.name)
        self._choice = choose_modules(names, include, exclude)
        self._names = self._choice.chosen
        self._unscaling = None if grad_scale is None else Unscaling(grad_scale)
        self._ledger = Ledger(full=stats == "full", max_elements=max_elements)
        self._taps = GradientTaps(self._on_gradient)
        self._forwards = Forwards()
        books = self._ledger, self._taps
        self._parameters = Parameters(model, self.signals, *books)
        self._operations = Operations(self._names, self.signals, *books) if ops else None
        self._dataflow: Dataflow | None = None
        self._first: RootForward | None = None
        self._exit = ExitStack()
        self._started = False
        self._last: tuple[weakref.ref[torch.Tensor], int, Reading] | None = None
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
        if self._started:
            raise ProbeStateError(
                "This probe was started before. Make a new one for a second recording; "
                "vp.Probe(model) is cheap."
            )
        self._started = True
        with ExitStack() as stack:
            stack.enter_context(self._stance)
            stack.callback(self._forwards.remove_hooks)
            stack.callback(self._taps.remove)
            if "weight" in self.signals or "weight_gradient" in self.signals:
                self._parameters.measure(self._names)
            hooks = ModuleHooks()
            stack.callback(hooks.remove)
            hooks.before(self._root, lambda _, *inputs: self.begin_forward(inputs))
            on_output: OnOutput = self._on_output
            if self._operations is not None:
                stack.callback(self._operations.stop)
                self._operations.hook(name_modules(self.model), self._root, hooks)
                on_output = unseen(on_output)
            for module, name in self._names.items():
                hooks.after(module, partial(on_output, name))
            self._exit = stack.pop_all()

    def stop(self) -> None:
        """Take every hook off, also those on graphs that are still alive; may be repeated."""
        self._exit.close()
        self._last = None

    @property
    def recording(self) -> Recording:
        """What was recorded so far.

        Raises
        ------
        NothingRecordedError
            If the model was not called while the probe was on, or nothing that it returns holds a
            tensor (VP001).
        """
        kind = type(self.model).__name__
        if self._forwards.find() is None:
            parts = " Only parts of it were." if self._ledger.early else ""
            raise NothingRecordedError(
                f"VP001: {kind} was not called while the probe was on.{parts} Call the model "
                "itself, not its .forward, a copy, or a compiled function around it; or probe the "
                "part that you call."
            )
        if "activation" in self.signals and not self._ledger.has_any("activation"):
            which = "its modules" if self._choice.is_whole else "the modules that the filters leave"
            raise NothingRecordedError(
                f"VP001: {kind} was called, but no output of any of {which} holds a tensor "
                "with numbers: nothing was recorded."
            )
        return Recording(
            records=self._ledger.close(**self._labels),
            meta=self._describe(),
            unobserved=tuple(self._list_unobserved()),
        )

    def gather(
        self, *, group: distributed.ProcessGroup | None = None, stage: int | None = None
    ) -> Recording:
        """Return what all ranks recorded, on every rank: the one collective of a probe.

        Every rank of the group has to call it. Records of one site are pooled: rows of the batch
        (data parallelism) and shards (tensor parallelism) add up, copies count once.

        Parameters
        ----------
        group : torch.distributed.ProcessGroup, optional
            The ranks to gather from; None for all. Without torch.distributed being initialized
            there is one rank, and this returns `recording`.
        stage : int, optional
            Which stage of a pipeline this rank's model is, from 0: given by every rank, or by none.
            The stages are put behind each other, as in the whole model.

        Returns
        -------
        Recording
            The same on every rank; its ``meta["world_size"]`` counts them. Gradients are those of
            each rank's own loss, as they flow: where each of n ranks averages over an n-th of the
            batch, they are n times those of the average over the whole batch.

        Raises
        ------
        NothingRecordedError
            If a rank recorded nothing (VP001); on every rank, so that none waits for another.
        InvalidArgumentError
            If this rank is not in ``group``, or the ranks' models differ.

        Examples
        --------
        >>> import torch, varprobe as vp
        >>> with vp.Probe(torch.nn.Linear(8, 4)) as probe:
        ...     _ = probe.model(torch.randn(2, 8))
        >>> probe.gather()
        <Recording of Linear: 1 draw, 2 weights, 1 activations, 1 unobserved>
        """
        return gather(lambda: (self.recording, self.list_parts()), group=group, stage=stage)

    def list_parts(self) -> dict[RecordKey, Part]:
        """Return which parts of distributed tensors were recorded here, by the records' keys."""
        return self._ledger.list_parts(**self._labels)

    def _describe(self) -> dict[str, object]:
        places = cast("Sequence[Place]", list(self._taps.through_base))
        return {
            **describe_model(self.model, self._root),
            "batch_size": self._batch_size,
            "recomputed_calls": self._ledger.recomputed.total(),
            "gradients_through_base": [str(place.site) for place in places],
            "max_elements": self._ledger.max_elements,
            "ops": True if self._operations else None,
            **self._choice.describe(),
        }

    def hears_forward(self) -> bool:
        """Tell whether the forward that the root begins now is to be recorded."""
        return True

    def begin_forward(self, inputs: tuple[Any, ...]) -> None:
        """Begin a forward of the root, called with these positional and keyword arguments."""
        if torch._C._current_graph_task_id() != -1:
            return
        if is_rehearsal():
            self._forwards.begin(is_recorded=False)
            self._ledger.rehearsals += 1
            return
        if not self.hears_forward():
            self._forwards.begin(is_recorded=False)
            return
        forward = self._forwards.begin()
        first = next((tensor for part in inputs for tensor in collect_tensors(part)), None)
        if first is not None and first.dim():
            self._batch_size = first.size(0)
        # What a module that is left out returns looks like the result of an operation.
        is_first = self._dataflow is None and self._choice.is_whole
        self._first = forward if is_first else None
        self._dataflow = Dataflow(self.model, inputs) if is_first else self._dataflow
        if self._operations is not None:
            self._operations.begin(self._root, forward, self._dataflow if is_first else None)

    def _on_output(self, name: str, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        task = torch._C._current_graph_task_id()
        if task != -1:
            self._on_output_again(name, module, output, task)
            return
        forward = self._forwards.find()
        if forward is None:
            self._ledger.early.add(name)
            return
        if not forward.is_recorded:
            return
        has_graph = torch.is_grad_enabled()
        call = forward.count_call(name, has_graph=has_graph)
        self._ledger.note_call(name, call)
        self._parameters.measure_late(module, name)
        if forward is self._first and self._dataflow is not None:
            self._dataflow.follow(name, module, args, output)
        kind, outputs = name_kind(module), list_tensors(output)
        for path, tensor in outputs:
            if "activation" in self.signals:
                place = self._ledger.find_place(name, call, path, "activation", kind)
                self._add_activation(place, tensor, module, args)
            if has_graph and "gradient" in self.signals and tensor.requires_grad:
                place = self._ledger.find_place(name, call, path, "gradient", kind)
                self._tap_output(place, tensor, forward)
        if not outputs and output is not None:
            self._ledger.opaque[name] = type(output).__name__

    def _on_output_again(self, name: str, module: nn.Module, output: Any, task: int) -> None:
        # Inside a backward pass a module runs again for a checkpoint: its activation was counted,
        # but its gradient is still to come if it had no graph then.
        self._ledger.recomputed[name] += 1
        again = self._forwards.find_again(name, task) if torch.is_grad_enabled() else None
        if again is None:
            return
        for path, tensor in list_tensors(output):
            if "gradient" in self.signals and tensor.requires_grad:
                kind = name_kind(module)
                place = self._ledger.find_place(name, again.call, path, "gradient", kind)
                self._tap_output(place, tensor, again.forward)

    def _tap_output(self, place: Place, tensor: torch.Tensor, forward: RootForward) -> None:
        place.awaited = True
        self._taps.tap(tensor, place, forward)

    def _add_activation(
        self, place: Place, tensor: torch.Tensor, module: nn.Module, args: tuple[Any, ...]
    ) -> None:
        reading = self._reuse(tensor)
        if reading is None:
            reading = self._ledger.measure(place, tensor)
            if reading is None:
                return
            if not tensor.is_inference():
                self._last = weakref.ref(tensor), tensor._version, reading
        received = None
        wants_input = self._ledger.full and isinstance(module, WEIGHTED) and args
        if wants_input and self._ledger.reads_whole(tensor, args[0]):
            received = measure_linear_input(module, args[0])
        self._ledger.add(place, reading, tensor, linear_input=received)

    def _reuse(self, tensor: torch.Tensor) -> Reading | None:
        # A container returns the tensor that its last child returned a moment ago.
        if self._last is None:
            return None
        last, version, reading = self._last
        return reading if last() is tensor and tensor._version == version else None

    def _on_gradient(self, labels: Sequence[object], gradient: torch.Tensor, backward: int) -> None:
        reading: Reading | None = None
        for place in cast("Sequence[Place]", labels):
            if reading is None:
                reading = self._ledger.measure(place, gradient)
                if reading is not None and self._unscaling is not None:
                    reading = self._unscaling.apply(reading)
            if reading is not None:
                self._ledger.add(place, reading, gradient, backward=backward)

    def _list_unobserved(self) -> Iterator[Unobserved]:
        yield from self._choice.list_unobserved()
        yield from self._ledger.list_unobserved(self._names)
        if self._operations is not None:
            yield from self._operations.list_unobserved()
        if self._dataflow is not None:
            yield from self._dataflow.list_unobserved(self._ledger.called)
