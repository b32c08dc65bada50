"""Hooks on modules, inert wherever they were not put."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import nn
from torch.utils.hooks import RemovableHandle

from varprobe.modules import name_modules

OnOutput = Callable[[str, nn.Module, tuple[Any, ...], Any], None]
"""Called with the name of a module, the module, its positional arguments, and its output."""


class Hook:
    """A hook of a module that is inert after deepcopy, pickle, or disarming.

    Averaged copies of a model (EMA) are made while it is being watched.
    """

    __slots__ = ("_call", "_module")

    def __init__(
        self,
        call: Callable[[nn.Module, Any, Any], None] | None = None,
        module: nn.Module | None = None,
    ) -> None:
        self._call = call
        self._module = None if module is None else weakref.ref(module)

    # ``rest`` is spelled out, since packing a tuple costs as much as the whole call. A pre-hook
    # that is taken off while torch walks its list is called as one without keyword arguments.
    def __call__(self, module: nn.Module, args: Any, rest: Any = None) -> None:
        """Pass on the arguments, and the keyword arguments before or the output after a call."""
        if self._call is not None and self._module is not None and self._module() is module:
            self._call(module, args, rest)

    def disarm(self) -> None:
        """Do nothing from now on, also where torch has it in a list already."""
        self._call = None

    def __deepcopy__(self, memo: object) -> Hook:
        return Hook()

    def __reduce__(self) -> tuple[type[Hook], tuple[()]]:
        return Hook, ()


class ModuleHooks:
    """The hooks of one observer, on any modules, which come off together."""

    def __init__(self) -> None:
        self._hooks: list[Hook] = []
        self._handles: list[RemovableHandle] = []

    def before(self, module: nn.Module, call: Callable[[nn.Module, Any, Any], None]) -> None:
        """Call ``call(module, args, kwargs)`` before every forward, and before other hooks."""
        hook = self._arm(call, module)
        self._handles.append(module.register_forward_pre_hook(hook, prepend=True, with_kwargs=True))

    def after(
        self,
        module: nn.Module,
        call: Callable[[nn.Module, Any, Any], None],
        *,
        always: bool = False,
    ) -> None:
        """Call ``call(module, args, output)`` after every forward, and after other hooks.

        ``always``: also after one that raised; its output is None then.
        """
        hook = self._arm(call, module)
        self._handles.append(module.register_forward_hook(hook, always_call=always))

    def _arm(self, call: Callable[[nn.Module, Any, Any], None], module: nn.Module) -> Hook:
        hook = Hook(call, module)
        self._hooks.append(hook)
        return hook

    def remove(self) -> None:
        """Take the hooks off."""
        for handle in self._handles:
            handle.remove()
        for hook in self._hooks:
            hook.disarm()


@contextmanager
def observe_modules(model: nn.Module, on_output: OnOutput) -> Iterator[None]:
    """Call ``on_output(name, module, args, output)`` after every forward of every module.

    Children come before their container. The hooks are gone when the block is left, in whatever
    way.
    """
    hooks = ModuleHooks()
    try:
        for module, known in name_modules(model).items():
            hooks.after(module, partial(on_output, known.name))
        yield
    finally:
        hooks.remove()
