"""Tap the gradient of a tensor without changing how autograd runs.

Hooks sit on the tensors themselves. Module backward hooks wrap a module's inputs and outputs in an
autograd function of their own, which breaks every in-place operation on them.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, MutableMapping, Sequence
from typing import NamedTuple

import torch
from torch.utils.hooks import RemovableHandle
from torch.utils.weak import WeakTensorKeyDictionary

from varprobe.observation.forwards import RootForward
from varprobe.statistics.quiet import quiet
from varprobe.statistics.tensors import is_plain

OnGradient = Callable[[Sequence[object], torch.Tensor, int], None]
"""Called with the labels of a tensor, its gradient, and the index of the backward pass."""


class GradientTaps:
    """All taps of one probe."""

    def __init__(self, on_gradient: OnGradient) -> None:
        self.on_gradient = on_gradient
        self.active = True
        self.reference = weakref.ref(self)
        # Labels whose gradient was that of a region of another tensor, see `_BaseTap`.
        self.through_base: dict[object, None] = {}
        self._leaf_handles: MutableMapping[torch.Tensor, dict[object, RemovableHandle]] = (
            WeakTensorKeyDictionary()
        )
        self._last: tuple[weakref.ref[torch.Tensor], int | None, _Tap] | None = None

    def tap(self, tensor: torch.Tensor, label: object, forward: RootForward) -> None:
        """Call ``on_gradient(labels, gradient, pass)`` whenever the tensor's gradient arrives.

        The gradient is that of the tensor as it is now: what is done to it in place later comes
        after.
        """
        if self._joins_last(tensor, label, forward):
            return
        tap = _Tap(self, label, forward)
        handle = _hook(tensor, tap)
        if tensor.is_leaf:
            # It outlives its graphs (a module that returns a Parameter): hooks would pile up.
            handles = self._leaf_handles.setdefault(tensor, {})
            if label in handles:
                handles[label].remove()
            handles[label] = handle
        else:
            forward.keep(handle)
        self._last = (weakref.ref(tensor), _identify(tensor), tap)
        base = _find_base(tensor)
        if base is not None:
            tap.delivered = set()
            forward.keep(_hook(base, _BaseTap(tap, tensor, base)))

    def remove(self) -> None:
        """Hear nothing any more. The hooks on a graph are kept and removed by its forward."""
        self.active = False
        for handles in list(self._leaf_handles.values()):
            for handle in handles.values():
                handle.remove()
        self._leaf_handles.clear()
        self._last = None

    def _joins_last(self, tensor: torch.Tensor, label: object, forward: RootForward) -> bool:
        # A container returns the tensor of its last child: one hook serves both.
        if self._last is None:
            return False
        last, version, tap = self._last
        if (
            last() is not tensor
            or tensor.is_leaf
            or version != _identify(tensor)
            or tap.forward is not forward
        ):
            return False
        tap.labels.append(label)
        return True


class _Tap:
    """The hook on a tensor. It holds neither the tensor nor, strongly, the probe."""

    __slots__ = ("_number", "_owner", "delivered", "forward", "labels")

    def __init__(self, owner: GradientTaps, label: object, forward: RootForward) -> None:
        self._owner = owner.reference
        self.forward = forward
        # A tap set during a backward pass belongs to a checkpoint that computes again; the passes
        # that it sees are parts of the one that is running now.
        task = torch._C._current_graph_task_id()
        self._number = None if task == -1 else forward.number_enclosing_pass(task)
        self.labels = [label]
        # The passes that it saw, where there is a `_BaseTap` that asks.
        self.delivered: set[int] | None = None

    def number_pass(self) -> int:
        if self._number is not None:
            return self._number
        return self.forward.number_pass(torch._C._current_graph_task_id())

    def deliver(self, gradient: torch.Tensor, number: int, *, through_base: bool = False) -> None:
        owner = self._owner()
        if owner is None or not owner.active:
            return
        if through_base:
            owner.through_base.update(dict.fromkeys(self.labels))
        owner.on_gradient(self.labels, gradient, number)

    def __call__(self, gradient: torch.Tensor | None) -> None:
        if gradient is None:
            return  # of two results of one function the loss depends on the other
        number = self.number_pass()
        if self.delivered is not None:
            self.delivered.add(number)
        self.deliver(gradient, number)


class _Region(NamedTuple):
    size: torch.Size
    stride: tuple[int, ...]
    offset: int


class _BaseTap:
    """The hook on the base of a view, for the case that the view's own never fires.

    When a view is modified in place autograd re-roots its graph and drops the hook in silence. The
    base's gradient from before the modification always arrives, after the view's would have. It
    is that of the view unless the base had other uses before the modification, hence
    `GradientTaps.through_base`.
    """

    __slots__ = ("_base_layout", "_region", "_tap", "_version", "_watch")

    def __init__(self, tap: _Tap, view: torch.Tensor, base: torch.Tensor) -> None:
        self._tap = tap
        offset = int(view.storage_offset()) - int(base.storage_offset())
        self._region = _Region(view.size(), view.stride(), offset)
        self._base_layout = base.size(), base.stride()
        self._watch, self._version = _watch_version(view), view._version

    def __call__(self, gradient: torch.Tensor | None) -> None:
        if gradient is None or self._watch._version == self._version:
            return
        number = self._tap.number_pass()
        if self._tap.delivered and number in self._tap.delivered:
            return
        with quiet(gradient), torch.no_grad():
            size, stride = self._base_layout
            whole = torch.empty_strided(size, stride, dtype=gradient.dtype, device=gradient.device)
            part = whole.copy_(gradient).as_strided(*self._region)
        self._tap.deliver(part, number, through_base=True)


def _hook(tensor: torch.Tensor, call: Callable[[torch.Tensor | None], None]) -> RemovableHandle:
    handle: RemovableHandle = tensor.register_hook(call)  # type: ignore[no-untyped-call]
    return handle


def _find_base(tensor: torch.Tensor) -> torch.Tensor | None:
    """Return the tensor of which this one is a view, if an in-place change could lose its hook."""
    if not tensor._is_view() or not is_plain(tensor) or tensor.is_inference():
        return None
    base = tensor._base
    if base is None or not base.requires_grad or base.is_leaf or base.dtype != tensor.dtype:
        return None
    return base


def _identify(tensor: torch.Tensor) -> int | None:
    # An in-place operation moves the version; a tensor without one never changes.
    return None if tensor.is_inference() else tensor._version


def _watch_version(tensor: torch.Tensor) -> torch.Tensor:
    """Return an empty tensor that shares the version counter and keeps no memory alive."""
    with torch.no_grad(), torch._C.DisableTorchFunction():
        watch = tensor.detach()
        watch.data = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
    return watch
