"""Count the steps of a training loop, and put a probe on every k-th.

Between the sampled steps a model carries one pre-hook, which counts.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import Any, Self

import torch
from torch import distributed, nn

from varprobe.errors import InvalidArgumentError, NothingRecordedError, ProbeStateError
from varprobe.modules import name_modules
from varprobe.monitoring.calls import HookedCalls, watch_calls
from varprobe.monitoring.sample import Sample, StepProbe, summarize
from varprobe.observation.filters import Filters
from varprobe.observation.gathering import gather
from varprobe.observation.grad_scale import GradScale
from varprobe.observation.parts import Part
from varprobe.recording import Recording, RecordKey, Unobserved


class Monitor:
    """Record the moments of activations and gradients at every k-th step of a training loop.

    A step is one forward of the model in training mode with gradients enabled, and everything
    until the next one: backward passes, the optimizer. A sampled step is watched that long, so a
    backward pass of its graph that comes later is not seen. Forwards in evaluation mode or under
    ``no_grad`` are no steps, and leave no record. Where a step has several forwards (accumulated
    gradients, closures of LBFGS, the two passes of a GAN), say where one ends by `step`.

    The weights that a training loop reaches are bitwise those it reaches without a monitor.

    Parameters
    ----------
    model : torch.nn.Module
        The model that is trained: called itself, or by a wrapper such as DistributedDataParallel.
    every : int
        Sample the steps 0, ``every``, 2 ``every``, … As an attribute, the interval that is in
        force now; see ``max_steps``.
    stats, signals, include, exclude, grad_scale, max_elements, ops, compiled, run
        As for `varprobe.Probe`. With ``compiled="eager"`` the sampled steps run in eager mode, and
        all others as compiled.
    max_steps : int
        How many sampled steps to keep. When there is no room for another, every second one is
        dropped and ``every`` doubles: what is kept is always spread evenly over the whole training,
        its first step included. Memory is that many times about a kilobyte for each record of a
        step.

    Raises
    ------
    InvalidArgumentError
        If ``every`` or ``max_steps`` is not positive.
    VarprobeError
        Whatever `varprobe.Probe` raises, and before the training begins.

    Examples
    --------
    >>> import torch, varprobe as vp
    >>> model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.ReLU(), torch.nn.Linear(8, 1))
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> with vp.Monitor(model, every=2) as monitor:
    ...     for _ in range(5):
    ...         optimizer.zero_grad()
    ...         model(torch.randn(4, 8)).square().mean().backward()
    ...         optimizer.step()
    >>> gradients = monitor.recording.to_frame().query("signal == 'gradient' and module == '0'")
    >>> gradients["step"].tolist()
    [0, 2, 4]
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        every: int = 100,
        stats: str = "moments",
        signals: Sequence[str] = ("activation", "gradient", "weight"),
        include: Filters | None = None,
        exclude: Filters = (),
        grad_scale: GradScale | None = None,
        max_elements: int | None = None,
        ops: bool = False,
        max_steps: int = 200,
        compiled: str = "error",
        run: str = "",
    ) -> None:
        for name, value in (("every", every), ("max_steps", max_steps)):
            if value < 1:
                raise InvalidArgumentError(f"{name} is {value}; give a number of steps, 1 or more.")
        self.model = model
        self.every = every
        self.max_steps = max_steps
        self._build_probe = partial(
            StepProbe,
            model,
            stats=stats,
            signals=signals,
            include=include,
            exclude=exclude,
            grad_scale=grad_scale,
            max_elements=max_elements,
            ops=ops,
            compiled=compiled,
            run=run,
        )
        self._build_probe()  # refuses now, and not in the middle of the training
        self._root = next(module for module, known in name_modules(model).items() if not known.name)
        self._lock = threading.RLock()
        self._exit = ExitStack()
        self._started = False
        self._samples: list[Sample] = []
        self._probe: StepProbe | None = None
        self._steps = 0
        """How many were begun."""
        self._ends_by_hand = False
        self._is_within_step = False
        """Where steps end by hand: whether the current one has begun."""
        self._evaluations = 0

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
        """Begin to count steps; ``with`` does it for you.

        Raises
        ------
        ProbeStateError
            If the monitor was started before.
        """
        if self._started:
            raise ProbeStateError(
                "This monitor was started before. Make a new one with another run= for a second "
                "training; recordings can be merged."
            )
        self._started = True
        self._exit.callback(self._rest)
        self._calls = watch_calls(self.model, self._root, self._on_call)
        self._exit.callback(self._calls.remove)

    def stop(self) -> None:
        """Take every hook off; may be repeated."""
        with self._lock:
            self._exit.close()

    def step(self) -> None:
        """Say that a step ends here; from the first time on, forwards are not counted any more.

        Call it after every ``optimizer.step()``, or before the first forward of every step. All
        forwards in between are one step, and their records are pooled. A call without a forward
        since the last one changes nothing.

        Raises
        ------
        ProbeStateError
            If the first call comes when several forwards have been taken for a step each already.
        """
        with self._lock:
            if not self._ends_by_hand and self._steps > 1:
                raise ProbeStateError(
                    f"monitor.step() was called for the first time after {self._steps} forwards "
                    "that had been taken for a step each. If a step has several forwards, call "
                    "monitor.step() once before the first of them, too."
                )
            self._ends_by_hand = True
            self._is_within_step = False
            self._rest()

    @property
    def recording(self) -> Recording:
        """What was recorded so far, with the step that each record belongs to.

        ``meta["steps"]`` is the number of steps that were begun, ``meta["every"]`` the interval
        between those that are kept.

        Raises
        ------
        NothingRecordedError
            If no step was sampled (VP001).
        """
        with self._lock:
            recordings, failures = [], []
            for sample in self._samples:
                try:
                    recordings.append(sample.probe.recording)
                except NothingRecordedError as error:
                    failures.append((sample.step, error))
            steps = self._steps
        if not recordings:
            raise failures[0][1] if failures else NothingRecordedError(self._explain_nothing())
        pooled = recordings[0].merge(*recordings[1:])
        missed = (
            Unobserved(module="", reason=f"step {step}: its forward came to nothing")
            for step, _ in failures
        )
        return replace(
            pooled,
            meta={**pooled.meta, "training": True, "steps": steps, "every": self.every},
            unobserved=(*summarize(recordings), *missed),
        )

    def gather(
        self, *, group: distributed.ProcessGroup | None = None, stage: int | None = None
    ) -> Recording:
        """Return what all ranks recorded, on every rank; see `varprobe.Probe.gather`.

        Steps have to be the same on all ranks: give every rank's monitor the same ``every`` and
        ``max_steps``, and call `step` alike.
        """
        return gather(self._read_share, group=group, stage=stage)

    def _read_share(self) -> tuple[Recording, dict[RecordKey, Part]]:
        with self._lock:
            recording = self.recording
            parts = [sample.probe.list_parts() for sample in self._samples]
        return recording, {key: part for known in parts for key, part in known.items()}

    def __repr__(self) -> str:
        kept = f"{len(self._samples)} of {self._steps} steps kept"
        return f"<Monitor of {type(self._root).__name__}: every {self.every}, {kept}>"

    def _explain_nothing(self) -> str:
        kind = type(self._root).__name__
        if self._evaluations:
            return (
                f"VP001: {kind} was called {self._evaluations} times while the monitor was on, but "
                "always in evaluation mode or without gradients, and such forwards are no steps. "
                "Call model.train(), and train outside of torch.no_grad()."
            )
        return (
            f"VP001: {kind} was not called while the monitor was on. Train inside `with "
            "vp.Monitor(model):`, and call the model itself, not its .forward, a copy, or a "
            "compiled function around it; or monitor the part that you call."
        )

    def _on_call(self, _: nn.Module, *inputs: Any) -> None:
        # Between samples this is all that a monitor does, at every step of the training.
        if torch.compiler.is_compiling() or torch._C._current_graph_task_id() != -1:
            return
        if not (self._root.training and torch.is_grad_enabled()):
            self._evaluations += 1
        elif not self._is_within_step:
            self._begin_step(inputs)

    def _begin_step(self, inputs: tuple[Any, ...]) -> None:
        with self._lock:
            step = self._steps
            self._steps = step + 1
            self._is_within_step = self._ends_by_hand
            self._rest()
            if step % self.every:
                return
            if len(self._samples) == self.max_steps:
                self._thin_out()
            if not step % self.every:
                self._sample(step, inputs)

    def _thin_out(self) -> None:
        self.every *= 2
        self._samples = [sample for sample in self._samples if not sample.step % self.every]

    def _sample(self, step: int, inputs: tuple[Any, ...]) -> None:
        self._probe = self._build_probe(step=step)
        self._probe.start()
        self._samples.append(Sample(step, self._probe))
        if isinstance(self._calls, HookedCalls) and self._calls.module is self._root:
            # Torch has made its list of the root's pre-hooks already: the probe's is not in it.
            self._probe.begin_forward(inputs)
            self._calls.come_first()

    def _rest(self) -> None:
        if self._probe is not None:
            self._probe.stop()
            self._probe = None
