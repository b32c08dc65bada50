"""``[tool.varprobe]`` of pyproject.toml, read and checked as far as that needs nothing else.

::

    [tool.varprobe]
    preset = "strict"                                   # or "default", "lenient"
    select = ["VP1", "VP2"]                             # only these checks
    ignore = ["VP103"]                                  # not these
    levels = { VP301 = "error" }                        # error, warning, info
    per-layer-ignores = { "decoder.head*" = ["VP301"] } # not these, there
    draws = 3
    seed = 0

The codes are looked up later, when all checks are registered (see `varprobe.Policy`).
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from varprobe.errors import SettingsError, UnknownNameError

TABLE = "[tool.varprobe]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a project asks for; the fields are the keys of its table, and the file it is in.

    Parameters
    ----------
    preset, select, ignore, levels, per_layer_ignores
        As in `varprobe.Policy`.
    draws, seed : int or None
        As in `varprobe.profile`; None where the project does not say.
    path : Path or None
        The file; None if no project says anything.
    """

    preset: str = "default"
    select: tuple[str, ...] | None = None
    ignore: tuple[str, ...] = ()
    levels: Mapping[str, str] = field(default_factory=dict)
    per_layer_ignores: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    draws: int | None = None
    seed: int | None = None
    path: Path | None = None

    def blame(self, what: str) -> SettingsError:
        """Return the error that says what is wrong, and in which file."""
        return SettingsError(f"{self.path}, {TABLE}: {what}")


def find_settings(directory: str | os.PathLike[str] = ".") -> Settings:
    """Return the settings of the nearest project, from this directory upwards.

    Raises
    ------
    SettingsError
        If a pyproject.toml on the way cannot be read, or its table has a key or a value that means
        nothing.
    """
    start = Path(directory).resolve()
    for folder in (start, *start.parents):
        path = folder / "pyproject.toml"
        table = _read_table(path) if path.is_file() else None
        if table is not None:
            return _interpret(table, path)
    return Settings()


def _read_table(path: Path) -> Mapping[str, object] | None:
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise SettingsError(f"{path} cannot be read: {error}. Correct or remove it.") from error
    table = document.get("tool", {}).get("varprobe")
    if table is not None and not isinstance(table, dict):
        raise SettingsError(f"{path}: tool.varprobe is {table!r}, expected a table, {TABLE}.")
    return table


def _interpret(table: Mapping[str, object], path: Path) -> Settings:
    blame = Settings(path=path).blame
    values = {}
    for key, value in table.items():
        if key not in _KEYS:
            raise blame(str(UnknownNameError.among("key", key, _KEYS)))
        name, expected, read = _KEYS[key]
        read_value = read(value)
        if read_value is None:
            raise blame(f"{key} = {value!r} means nothing, expected {expected}.")
        values[name] = read_value
    return Settings(**values, path=path)  # type: ignore[arg-type]  # each is read by its key


_Read = Callable[[object], object]
"""Returns the value as `Settings` holds it; None if it is something else."""


def _read_text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _read_codes(value: object) -> tuple[str, ...] | None:
    if isinstance(value, list) and all(isinstance(code, str) for code in value):
        return tuple(value)
    return None


def _read_number(minimum: int) -> _Read:
    def read(value: object) -> int | None:
        whole = isinstance(value, int) and not isinstance(value, bool)
        return value if whole and isinstance(value, int) and value >= minimum else None

    return read


def _read_mapping(read_item: _Read) -> _Read:
    def read(value: object) -> dict[str, object] | None:
        if not isinstance(value, dict):
            return None
        items = {key: read_item(item) for key, item in value.items()}
        return None if None in items.values() else items

    return read


_KEYS: Mapping[str, tuple[str, str, _Read]] = {
    "preset": ("preset", '"strict", "default" or "lenient"', _read_text),
    "select": ("select", 'a list of codes, as ["VP1", "VP2"]', _read_codes),
    "ignore": ("ignore", 'a list of codes, as ["VP103"]', _read_codes),
    "levels": ("levels", 'a level by code, as { VP301 = "error" }', _read_mapping(_read_text)),
    "per-layer-ignores": (
        "per_layer_ignores",
        'lists of codes by pattern, as { "head.*" = ["VP301"] }',
        _read_mapping(_read_codes),
    ),
    "draws": ("draws", "a whole number from 1 on", _read_number(1)),
    "seed": ("seed", "a whole number from 0 on", _read_number(0)),
}
"""By key: the field of `Settings`, what is expected, and what reads it."""
