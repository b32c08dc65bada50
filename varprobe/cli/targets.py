"""From TARGET to a model: import what it names, and see what that gives."""

from __future__ import annotations

import contextlib
import difflib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from varprobe.cli.commands import Failure, summarize_error
from varprobe.cli.sources import find_source

if TYPE_CHECKING:
    from torch import nn

    from varprobe.reporting import Source

FORM = "package.module:name or path/to/file.py:name"
GIFT = "a torch.nn.Module, (model, inputs) or (model, inputs, loss)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What a TARGET gave.

    Parameters
    ----------
    model : nn.Module or callable
        The model itself, or a function that builds one, if the target is a function: then each
        draw can have a model of its own.
    sample : nn.Module
        A model, to look at.
    inputs : object
        What the model is to be called with; None if the target does not say.
    loss : object
        From the model's output to a scalar; None if the target does not say.
    source : Source
        Where it is written down.
    """

    model: nn.Module | Callable[[], nn.Module]
    sample: nn.Module
    inputs: Any
    loss: Any
    source: Source


def load_target(spec: str, *, meta: bool = False) -> Target:
    """Return what a TARGET gives.

    Parameters
    ----------
    spec : str
        ``package.module:name`` or ``path/to/file.py:name``; the name may have dots. It stands for
        a module, a tuple, or a function or class without required arguments.
    meta : bool
        Whether it is called under torch's meta device, so that what it makes takes no memory.

    Raises
    ------
    Failure
        If it cannot be imported, has no such name, or gives something else; on the meta device also
        if there is nothing to call, or it needs numbers.
    """
    place, colon, name = spec.rpartition(":")
    if not (place and colon and name):
        raise Failure(f"TARGET {spec!r} is not of the form {FORM}, for example models.py:build.")
    with _importing(spec):
        module = _import_file(Path(place)) if place.endswith(".py") else _import_module(place)
    found = _find(module, name, spec)
    return _read(found, spec, find_source(spec, found, module), meta=meta)


@contextlib.contextmanager
def _importing(spec: str) -> Iterator[None]:
    try:
        yield
    except Failure:
        raise
    # A script without a main guard may exit, and with 0: that is no verdict.
    except (Exception, SystemExit) as error:
        what = summarize_error(error)
        raise Failure(f"TARGET {spec!r} cannot be imported: {what}.") from error


def _import_module(name: str) -> ModuleType:
    # As `python -m` does: a console script does not see the current directory by itself.
    _put_on_path(Path.cwd())
    return importlib.import_module(name)


def _import_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise Failure(f"TARGET names the file {str(path)!r}, which does not exist.")
    # Its neighbours are importable, as when it is run as a script.
    _put_on_path(path.resolve().parent)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None, "there is a loader for what ends in .py"
    module = importlib.util.module_from_spec(spec)
    # Dataclasses and pickles look their module up by its name. An installed module of that name
    # stays what it is.
    sys.modules.setdefault(path.stem, module)
    spec.loader.exec_module(module)
    return module


def _put_on_path(directory: Path) -> None:
    if str(directory) not in sys.path:
        sys.path.insert(0, str(directory))


def _find(module: ModuleType, name: str, spec: str) -> Any:
    found: Any = module
    for part in name.split("."):
        if not hasattr(found, part):
            near = difflib.get_close_matches(part, vars(found), n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise Failure(f"TARGET {spec!r}: there is no {part!r}.{hint}")
        found = getattr(found, part)
    return found


def _read(found: Any, spec: str, source: Source, *, meta: bool) -> Target:
    from torch import nn

    if isinstance(found, nn.Module | tuple):
        if meta:
            raise Failure(
                f"TARGET {spec!r} is a model already, with numbers in memory. On the meta device "
                "it is built without: name a function that builds it, or leave out --meta."
            )
        model, inputs, loss = _split(found, spec)
        return Target(model=model, sample=model, inputs=inputs, loss=loss, source=source)
    if not callable(found):
        kind = type(found).__name__
        raise Failure(f"TARGET {spec!r} is of type {kind}, expected {GIFT}, or a function of it.")
    _check_signature(found, spec)
    if meta:
        found = _move_to_meta(found, spec)
    # Called once to see what comes with the model; the draws build theirs from their own seeds.
    model, inputs, loss = _split(found(), spec)
    return Target(
        model=lambda: _split(found(), spec)[0],
        sample=model,
        inputs=inputs,
        loss=loss,
        source=source,
    )


def _check_signature(function: Callable[..., object], spec: str) -> None:
    try:
        signature = inspect.signature(function)
    except ValueError:
        return  # A builtin that has none: the call itself will tell.
    try:
        signature.bind()
    except TypeError as error:
        raise Failure(
            f"TARGET {spec!r} must be callable without arguments ({error}): name a function that "
            "fills them in."
        ) from None


def _move_to_meta(build: Callable[[], object], spec: str) -> Callable[[], object]:
    """Return the function under the meta device."""
    import torch

    def build_on_meta() -> object:
        try:
            with torch.device("meta"):
                return build()
        except (RuntimeError, NotImplementedError) as error:
            raise Failure(
                f"TARGET {spec!r} cannot be built on the meta device: {summarize_error(error)}. "
                "Its constructor looks at numbers, which do not exist there: leave out --meta."
            ) from error

    return build_on_meta


def _split(given: object, spec: str) -> tuple[nn.Module, Any, Any]:
    from torch import nn

    parts = given if isinstance(given, tuple) else (given,)
    if not (1 <= len(parts) <= 3 and isinstance(parts[0], nn.Module)):
        kinds = ", ".join(type(part).__name__ for part in parts)
        shown = f"({kinds})" if isinstance(given, tuple) else kinds
        raise Failure(f"TARGET {spec!r} gives {shown}, expected {GIFT}.")
    model, inputs, loss = (*parts, None, None)[:3]
    return model, inputs, loss
