"""Number what happens: calls within a forward of the root, backward passes that reach it.

Both numbers begin anew with every forward. Numbers that run on would grow with the steps of a
training loop, and the records with them.
"""

from __future__ import annotations

import itertools
import threading
import weakref
from collections import Counter, defaultdict
from typing import NamedTuple

import torch
from torch.utils.hooks import RemovableHandle

from varprobe.recording import UNKNOWN_CALL


class RootForward:
    """One forward of the root module; it lives as long as a graph that it made."""

    __slots__ = (
        "__weakref__",
        "_again",
        "_calls",
        "_graphless",
        "_handles",
        "_passes",
        "has_graph",
        "is_recorded",
    )

    def __init__(self, *, is_recorded: bool = True) -> None:
        self.is_recorded = is_recorded
        self.has_graph = torch.is_grad_enabled()
        """Whether gradients were on when it began."""
        self._calls: dict[str, int] = {}
        self._graphless: defaultdict[str, list[int]] = defaultdict(list)
        self._again: Counter[tuple[str, int]] = Counter()
        self._passes: dict[int, int] = {}
        self._handles: list[RemovableHandle] = []

    def count_call(self, module: str, *, has_graph: bool) -> int:
        """Return the index of this call of a module.

        A call without a graph may be computed again with one: a checkpoint in its reentrant form
        runs without gradients first.
        """
        call = self._calls.get(module, 0)
        self._calls[module] = call + 1
        if not has_graph:
            self._graphless[module].append(call)
        return call

    def next_call(self, module: str) -> int:
        """Return the index of the call of a module that is running, or comes next."""
        return self._calls.get(module, 0)

    def list_graphless(self, module: str) -> list[int]:
        """Return the calls of a module that ran without a graph."""
        return self._graphless.get(module, [])

    def awaits_again(self, module: str, graph_task: int) -> bool:
        """Tell whether a graphless call was not computed again in this backward pass."""
        return self._again[module, graph_task] < len(self.list_graphless(module))

    def count_again(self, module: str, graph_task: int) -> None:
        """Book that a graphless call is computed again in this backward pass."""
        self._again[module, graph_task] += 1

    def is_reached_by(self, graph_task: int) -> bool:
        """Tell whether a gradient of this backward pass has arrived."""
        return graph_task in self._passes

    def number_pass(self, graph_task: int) -> int:
        """Return the index of a backward pass among those that reached this forward."""
        return self._passes.setdefault(graph_task, len(self._passes))

    def number_enclosing_pass(self, graph_task: int) -> int:
        """Return the index of the pass within which something is computed again.

        A reentrant checkpoint runs a backward pass of its own for what it computed. That pass is
        one that did not arrive at the root's output, as the enclosing one did before it.
        """
        if self._passes and graph_task not in self._passes:
            return len(self._passes) - 1
        return self.number_pass(graph_task)

    def keep(self, handle: RemovableHandle) -> None:
        """Keep the handle of a hook on the graph, as long as the graph is there."""
        self._handles.append(handle)

    def remove_hooks(self) -> None:
        """Take the hooks off the graph."""
        while self._handles:
            self._handles.pop().remove()


class AnyForward(RootForward):
    """Stands for all forwards at once: a parameter's gradient belongs to no single one."""

    __slots__ = ()

    def number_pass(self, graph_task: int) -> int:  # noqa: ARG002
        """Return 0: all passes are pooled."""
        return 0


class CallAgain(NamedTuple):
    """A call that is computed again inside a backward pass."""

    forward: RootForward
    call: int


class Forwards:
    """The forwards of one model, in all threads that run it."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._serial = itertools.count()
        self._alive: weakref.WeakValueDictionary[int, RootForward] = weakref.WeakValueDictionary()
        self._of_thread = threading.local()
        self._latest: RootForward | None = None

    def begin(self, *, is_recorded: bool = True) -> RootForward:
        """Begin a forward in this thread."""
        forward = self._of_thread.forward = RootForward(is_recorded=is_recorded)
        if is_recorded:
            with self._lock:
                self._alive[next(self._serial)] = self._latest = forward
        return forward

    def find(self) -> RootForward | None:
        """Return the forward that this thread runs; None before the first."""
        # A thread that never ran the root helps one that does.
        return getattr(self._of_thread, "forward", self._latest)

    def remove_hooks(self) -> None:
        """Take all hooks off the graphs that are still alive."""
        with self._lock:
            alive = list(self._alive.values())
        for forward in alive:
            forward.remove_hooks()

    def find_again(self, module: str, graph_task: int) -> CallAgain | None:
        """Return the call of ``module`` that is computed again now; None if there is none to be.

        Of several calls in one forward it cannot be told which. Of several forwards in one backward
        pass it cannot be told either, and need not be: each has its turn.
        """
        with self._lock:
            alive = list(self._alive.values())
            candidates = [f for f in alive if f.awaits_again(module, graph_task)]
            if not candidates:
                return None
            reached = (f for f in candidates if f.is_reached_by(graph_task))
            forward = next(reached, candidates[0])
            forward.count_again(module, graph_task)
            calls = {call for f in alive for call in f.list_graphless(module)}
        return CallAgain(forward, calls.pop() if len(calls) == 1 else UNKNOWN_CALL)
