"""One shape for everything that users may add: initializations, rules of theory, checks."""

from __future__ import annotations

import ast
from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import Generic, TypeVar

from varprobe.errors import DuplicateNameError, InvalidArgumentError, UnknownNameError

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Registry(Mapping[K, V], Generic[K, V]):
    """Map names to what was registered under them, loudly.

    A duplicate raises unless ``overwrite=True``; a failed look-up lists the names and suggests the
    nearest. It is a read-only mapping: registering is the one way to write.

    Examples
    --------
    >>> greetings = Registry("greeting")
    >>> @greetings.register("polite")
    ... def polite(name):
    ...     return f"Good morning, {name}"
    >>> greetings["polite"]("Ada")
    'Good morning, Ada'
    >>> greetings["polit"]
    Traceback (most recent call last):
        ...
    varprobe.errors.UnknownNameError: There is no greeting named 'polit'. Did you mean 'polite'?...
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._entries: dict[K, V] = {}

    def register(self, name: K, *names: K, overwrite: bool = False) -> Callable[[V], V]:
        """Return a decorator that files its argument under each of these names."""
        names = (name, *names)

        def file(entry: V) -> V:
            taken = [name for name in names if name in self._entries]
            if taken and not overwrite:
                raise DuplicateNameError(
                    f"The {self._what} {_spell(taken[0])!r} is registered already. "
                    "Choose another name, or pass overwrite=True to replace it."
                )
            for name in names:
                self._entries[name] = entry
            return entry

        return file

    def __getitem__(self, name: K) -> V:
        try:
            return self._entries[name]
        except KeyError:
            known = (_spell(key) for key in self._entries)
            raise UnknownNameError.among(self._what, _spell(name), known) from None

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[K]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, name: K, default: V | None = None) -> V | None:  # type: ignore[override]
        """Return what is registered under ``name``, or ``default``."""
        return self._entries.get(name, default)


def _spell(name: object) -> str:
    return name.__qualname__ if isinstance(name, type) else str(name)


def split_options(what: str, name: str, *, example: str) -> tuple[str, dict[str, object]]:
    """Split a name from the options that stand in it as keywords.

    Parameters
    ----------
    what : str
        What it is the name of, for the message of the error.
    name : str
        The name, with or without options.
    example : str
        How it is to be written, for the same message.

    Raises
    ------
    InvalidArgumentError
        If what stands in the brackets are no keywords with plain values.

    Examples
    --------
    >>> split_options("initialization", "normal(std=0.02)", example="normal(std=1)")
    ('normal', {'std': 0.02})
    """
    head, opening, _ = name.partition("(")
    if not opening:
        return name, {}
    try:
        call = ast.parse(name.strip(), mode="eval").body
        if not isinstance(call, ast.Call) or call.args:
            raise ValueError
        return head.strip(), {_read_key(k): ast.literal_eval(k.value) for k in call.keywords}
    except (SyntaxError, ValueError):
        raise InvalidArgumentError(
            f"Cannot read the {what} {name!r}. "
            f"Options stand in it as keywords, for example {example!r}."
        ) from None


def _read_key(keyword: ast.keyword) -> str:
    if keyword.arg is None:
        raise ValueError
    return keyword.arg
