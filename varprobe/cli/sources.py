"""Where a TARGET is written down, for the formats that point to a line of a change."""

from __future__ import annotations

import ast
import inspect
import os
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from varprobe.reporting import Source


def find_source(spec: str, found: object, module: ModuleType) -> Source:
    """Return the file and line of what a target names, if it is in this repository.

    Parameters
    ----------
    spec : str
        The target.
    found : object
        What it stands for.
    module : module
        Where it was looked up.
    """
    from varprobe.reporting import Source

    place = _find_definition(found) or _find_assignment(spec.rpartition(":")[2], module)
    if place is None:
        return Source(name=spec)
    path, line = place
    # Where the repository lies: that is what annotations count from.
    root = Path(os.environ.get("GITHUB_WORKSPACE") or Path.cwd()).resolve()
    if not path.resolve().is_relative_to(root):
        return Source(name=spec)
    return Source(name=spec, path=path.resolve().relative_to(root).as_posix(), line=line)


def _find_definition(found: object) -> tuple[Path, int] | None:
    """Return where a function or a class begins."""
    function = inspect.unwrap(found) if callable(found) else found
    if not (inspect.isfunction(function) or inspect.isclass(function)):
        return None
    try:
        return Path(inspect.getfile(function)), inspect.getsourcelines(function)[1]
    except (OSError, TypeError):  # builtin, or its file is gone
        return None


def _find_assignment(name: str, module: ModuleType) -> tuple[Path, int] | None:
    """Return where a module sets a name; its first line if that is not plain to see."""
    path = Path(module.__file__ or "")
    if path.suffix != ".py":
        return None
    lines = [
        node.lineno
        for node in ast.walk(ast.parse(path.read_bytes()))
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and node.id == name
    ]
    return path, lines[-1] if lines else 1
