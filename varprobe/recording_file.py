"""The file of a recording: one JSON document that a person can read and any language can parse.

::

    {"format": "varprobe recording", "version": 3,
    "meta": {"model": "Sequential"},
    "unobserved": [{"module": "head", "reason": "never called"}],
    "records": [
    {"run": "", "draw": 0, …, "site": {…}, "moments": {"numel": 8, "mean": 0.5, …}, …},
    …
    ]}

Below its first line it is the `Recording`, field by field, a record a line. A field's type says how
it is written: a float that JSON cannot spell is the string "nan", "inf" or "-inf". In ``meta``,
where fields have no types, it is ``{"$float": "nan"}``, and a key that begins with "$" gets another
"$" in front. Finite floats come back bit for bit: Python writes the shortest decimal that does.

Other fields would be another version; version 1 had no ``sampling``, version 2 no
``distinct_rows`` and no spreads. Reading runs no code that the file brings.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import os
import re
import secrets
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, get_args, get_origin, get_type_hints

from varprobe.errors import RecordingFormatError
from varprobe.recording import Recording
from varprobe.schema import SIGNALS

FORMAT = "varprobe recording"
VERSION = 3


def write(recording: Recording, path: str | os.PathLike[str]) -> None:
    """Write ``recording`` to ``path``, wholly or not at all.

    Raises
    ------
    TypeError
        If a field holds something other than its type says, or ``recording.meta`` something other
        than JSON scalars, lists and dicts.
    """
    try:
        body = codec_of(Recording).encode(recording)
    except _Misfit as misfit:
        raise TypeError(f"The recording cannot be saved: {misfit}.") from None
    records = ",\n".join(_dump(record) for record in body["records"])
    text = (
        f'{{"format": "{FORMAT}", "version": {VERSION},\n'
        f'"meta": {_dump(body["meta"])},\n'
        f'"unobserved": {_dump(body["unobserved"])},\n'
        f'"records": [\n{records}\n]}}\n'
    )
    _replace(Path(os.path.realpath(path)), text)


def read(path: str | os.PathLike[str]) -> Recording:
    """Return the recording that `write` wrote to ``path``.

    Raises
    ------
    RecordingFormatError
        If the file is not a recording, is truncated, has fields of other types than a recording's,
        or was written by a newer format.
    """
    name = os.fspath(path)
    document = _parse(name, Path(path).read_bytes())
    try:
        recording: Recording = codec_of(Recording).decode(document)
        _check_signals(recording)
    except _Misfit as misfit:
        raise RecordingFormatError(
            f"{name} is a damaged recording: {misfit}. It was altered after Recording.save wrote "
            "it, or written by something else; save the recording again."
        ) from None
    return recording


def _check_signals(recording: Recording) -> None:
    """Refuse a signal that a frame would silently turn into NaN."""
    for index, record in enumerate(recording.records):
        if record.site.signal not in SIGNALS:
            misfit = _Misfit(record.site.signal, f"one of {', '.join(SIGNALS)}")
            misfit.path = [f"records[{index}].site.signal"]
            raise misfit


def _replace(path: Path, text: str) -> None:
    """Put ``text`` at ``path`` in one step: a reader sees the old file or the whole new one."""
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with beside.open("x", encoding="ascii", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def _dump(value: object) -> str:
    return json.dumps(value, allow_nan=False)


def _parse(name: str, content: bytes) -> dict[str, object]:
    """Return the fields of the document, its two header fields checked and removed."""
    try:
        document = json.loads(content, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        # The name stands in the first line: what has it and is no JSON was a recording once.
        if FORMAT.encode() in content[:100]:
            raise RecordingFormatError(
                f"{name} begins as a recording and cannot be read to its end ({error}). It was cut "
                "off or altered after Recording.save wrote it; copy or save the recording again."
            ) from None
        found = f"{len(content)} bytes that are no JSON" if content else "nothing"
        raise _foreign(name, found) from None
    if not isinstance(document, dict):
        raise _foreign(name, f"the JSON value {_shorten(document)}")
    if document.get("format") != FORMAT:
        raise _foreign(name, f'an object with "format": {_shorten(document.get("format"))}')
    version = document.get("version")
    if not (type(version) is int and version >= 1):
        raise RecordingFormatError(
            f"{name} is a damaged recording: its version is {_shorten(version)}, expected a whole "
            f"number from 1 to {VERSION}. Save the recording again."
        )
    if version > VERSION:
        raise RecordingFormatError(
            f"{name} is a recording of format version {version}, and this varprobe reads up to "
            f"version {VERSION}. Upgrade varprobe to read it."
        )
    fields = {key: value for key, value in document.items() if key not in ("format", "version")}
    return _upgrade(fields) if version < VERSION else fields


def _upgrade(fields: dict[str, Any]) -> dict[str, object]:
    """Return the fields of a document of an older version: what it did not have was not measured.

    All was read whole before there was ``sampling``.
    """
    records = fields.get("records")
    if isinstance(records, list) and all(isinstance(record, dict) for record in records):
        fields["records"] = [_upgrade_record(record) for record in records]
    return fields


def _upgrade_record(record: dict[str, Any]) -> dict[str, Any]:
    received = record.get("linear_input")
    if isinstance(received, dict):
        record["linear_input"] = {"sample_spread": None, "token_spread": None, **received}
    return {"sampling": None, "distinct_rows": None, **record}


def _foreign(name: str, found: str) -> RecordingFormatError:
    return RecordingFormatError(
        f'{name} is not a recording: it holds {found}, not a JSON object with "format": '
        f'"{FORMAT}". Give a file that Recording.save wrote.'
    )


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON value")


def _shorten(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:59]}…"


class _Misfit(Exception):
    """A value of another type than its field's, and the path that leads to it."""

    def __init__(self, value: object, expected: str) -> None:
        self.path: list[str] = []
        self.value = value
        self.expected = expected

    def __str__(self) -> str:
        where = "".join(reversed(self.path)).lstrip(".") or "the document"
        return f"{where} is {_shorten(self.value)}, expected {self.expected}"


@dataclass(frozen=True, slots=True)
class _Codec:
    """How values of one type become JSON, and how they come back."""

    encode: Callable[[Any], Any]
    decode: Callable[[Any], Any]


@functools.cache
def codec_of(kind: Any) -> _Codec:
    """Return the codec of a field's type."""
    if kind in _SCALARS:
        return _SCALARS[kind]
    if dataclasses.is_dataclass(kind):
        return _object_codec(kind)
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is tuple:
        return _list_codec(codec_of(arguments[0]))
    if origin is Mapping:
        return _FACTS if arguments == (str, object) else _histogram_codec()
    present, _none = arguments
    return _optional_codec(codec_of(present))


def _at(step: str, convert: Callable[[Any], Any], value: object) -> Any:
    try:
        return convert(value)
    except _Misfit as misfit:
        misfit.path.append(step)
        raise


def _expect(kind: type, value: Any, expected: str) -> Any:
    # Not isinstance: True is no number here.
    if type(value) is not kind:
        raise _Misfit(value, expected)
    return value


def _string(value: Any) -> str:
    return str(_expect(str, value, "a string"))


def _boolean(value: Any) -> bool:
    return bool(_expect(bool, value, "true or false"))


def _integer(value: Any) -> int:
    return int(_expect(int, value, "a whole number"))


def _write_float(value: Any) -> float | str:
    if not isinstance(value, float | int):
        raise _Misfit(value, "a number")
    return float(value) if math.isfinite(value) else repr(float(value))


def _read_float(value: Any) -> float:
    if isinstance(value, str) and value in _NON_FINITE:
        return _NON_FINITE[value]
    # A number without a fraction may have lost its ".0" to another program. One that is too large
    # for a float reads as infinite, which is not what anybody measured.
    if type(value) not in (float, int) or not abs(value) <= sys.float_info.max:
        raise _Misfit(value, 'a finite number, "nan", "inf" or "-inf"')
    return float(value)


def _object_codec(kind: Any) -> _Codec:
    @functools.cache
    def list_codecs() -> dict[str, _Codec]:
        # Not before they are needed: an object may hold others of its own type.
        hints = get_type_hints(kind)
        return {field.name: codec_of(hints[field.name]) for field in dataclasses.fields(kind)}

    def encode(value: Any) -> dict[str, Any]:
        fields = list_codecs().items()
        return {n: _at(f".{n}", codec.encode, getattr(value, n)) for n, codec in fields}

    def decode(value: Any) -> Any:
        codecs = list_codecs()
        if not isinstance(value, dict) or value.keys() != codecs.keys():
            raise _Misfit(value, f"an object of exactly {', '.join(codecs)}")
        return kind(**{n: _at(f".{n}", codec.decode, value[n]) for n, codec in codecs.items()})

    return _Codec(encode, decode)


def _list_codec(inner: _Codec) -> _Codec:
    def each(convert: Callable[[Any], Any], values: Any) -> list[Any]:
        return [_at(f"[{index}]", convert, value) for index, value in enumerate(values)]

    return _Codec(
        encode=lambda values: each(inner.encode, values),
        decode=lambda values: tuple(each(inner.decode, _expect(list, values, "a list"))),
    )


def _histogram_codec() -> _Codec:
    """Return the codec of counts by whole numbers, which as keys of JSON are strings."""

    def decode(value: Any) -> dict[int, int]:
        counts = _expect(dict, value, "an object")
        if wrong := [key for key in counts if not re.fullmatch("0|-?[1-9][0-9]*", key)]:
            raise _Misfit(wrong[0], "a whole number as key")
        return {int(key): _at(f"[{key}]", _integer, count) for key, count in counts.items()}

    return _Codec(lambda value: {str(k): _integer(v) for k, v in value.items()}, decode)


def _optional_codec(inner: _Codec) -> _Codec:
    return _Codec(
        encode=lambda value: None if value is None else inner.encode(value),
        decode=lambda value: None if value is None else inner.decode(value),
    )


def _write_fact(value: Any) -> Any:
    """Return a value of ``meta``, whose type is its own affair, as JSON has it."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {_FLOAT_KEY: repr(float(value))}
    if isinstance(value, list):
        return [_at(f"[{index}]", _write_fact, item) for index, item in enumerate(value)]
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {_escape(key): _at(f"[{key!r}]", _write_fact, item) for key, item in value.items()}
    raise _Misfit(
        value, "None, a bool, a number, a string, a list or a dict with string keys; try str()"
    )


def _escape(key: str) -> str:
    return f"${key}" if key.startswith("$") else key


def _read_fact(value: Any) -> Any:
    if isinstance(value, list):
        return [_at(f"[{index}]", _read_fact, item) for index, item in enumerate(value)]
    if not isinstance(value, dict):
        return value
    if _FLOAT_KEY in value:
        return _read_float(value[_FLOAT_KEY])
    return {
        key.removeprefix("$"): _at(f"[{key!r}]", _read_fact, item) for key, item in value.items()
    }


_FLOAT_KEY = "$float"
_NON_FINITE = {repr(value): value for value in (math.nan, math.inf, -math.inf)}
_SCALARS = {
    bool: _Codec(_boolean, _boolean),
    float: _Codec(_write_float, _read_float),
    int: _Codec(_integer, _integer),
    str: _Codec(_string, _string),
}
_FACTS = _Codec(
    encode=_write_fact,
    decode=lambda value: _read_fact(_expect(dict, value, "an object")),
)
