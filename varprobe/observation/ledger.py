"""The books of a probe: what was measured, what was expected to arrive, what never came.

Memory is one reading for each site, however long the probe runs.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from varprobe.moments import LinearInput, merge_linear_inputs
from varprobe.observation.parts import Part, find_part
from varprobe.recording import Record, RecordKey, Site, Unobserved
from varprobe.statistics import (
    Reading,
    Sampler,
    Unmeasurable,
    find_sampling,
    measure,
    read,
    shape_of,
)

FULLY_SHARDED = (
    "FSDP gathers the parameter and reduces its gradient out of autograd's sight; read it from "
    "parameter.grad after the backward pass"
)

UNCALLED = "never called; its weights may be used without it, as a function's arguments"

Key = tuple[str, int, str, str]
"""Module, call, output and signal."""


@dataclass(slots=True)
class Entry:
    """What is known so far of one observation of a place."""

    reading: Reading
    shape: tuple[int, ...]
    linear_input: LinearInput | None = None
    part: Part | None = None


class Place:
    """Where a tensor is observed, and all that came from there.

    A probe for a single step makes one for each record; the site, which is made to be compared and
    printed, is made when somebody asks.
    """

    __slots__ = (
        "absence",
        "awaited",
        "distinct_rows",
        "entries",
        "fans",
        "key",
        "kind",
        "unmeasurable",
    )

    def __init__(self, key: Key, kind: str) -> None:
        self.key = key
        self.kind = kind
        self.fans: tuple[int, int] | None = None
        self.distinct_rows: int | None = None
        self.entries: dict[int, Entry] = {}
        """By the index among the backward passes that reached one forward; 0 without any."""
        self.awaited = False
        self.absence = (
            "the loss does not depend on it, or no backward pass ran while the probe was on"
        )
        """The reason why what is awaited may stay away."""
        self.unmeasurable = ""
        """The reason why a tensor of this place could not be measured."""

    @property
    def site(self) -> Site:
        """The place as it is recorded."""
        module, call, output, signal = self.key
        return Site(module=module, call=call, output=output, signal=signal)


class Ledger:
    """Collect readings by site, and account for those that stay away."""

    def __init__(self, *, full: bool, max_elements: int | None = None) -> None:
        self.full = full
        self.max_elements = max_elements
        self._measure = measure if max_elements is None else Sampler(max_elements).measure
        self._places: dict[Key, Place] = {}
        self._depths: dict[tuple[str, int, str], int] = {}
        self.early: set[str] = set()
        """Modules that were called before the root was: nothing of that is measured."""
        self.recomputed: Counter[str] = Counter()
        """Calls by module inside a backward pass: activation checkpointing computing again."""
        self.opaque: dict[str, str] = {}
        """Modules whose output holds no tensor, and the output's class."""
        self.rehearsals = 0
        """Forwards that were none, see `varprobe.observation.rehearsal`."""
        self._lock = threading.RLock()

    def note_call(self, module: str, call: int, operation: str = "") -> None:
        """Book a call, or an operation in it; the order of the first ones is the records' depth."""
        key = module, call, operation
        if key not in self._depths:
            with self._lock:
                self._depths.setdefault(key, len(self._depths))

    def find_place(self, module: str, call: int, output: str, signal: str, kind: str) -> Place:
        """Return the place of a site, the same one each time."""
        key = module, call, output, signal
        place = self._places.get(key)
        if place is None:
            with self._lock:
                place = self._places.setdefault(key, Place(key, kind))
        return place

    def reads_whole(self, *tensors: object) -> bool:
        """Tell whether these tensors are small enough to be read to the last element."""
        limit = self.max_elements
        return limit is None or all(
            tensor.numel() <= limit for tensor in tensors if isinstance(tensor, torch.Tensor)
        )

    def measure(self, place: Place, tensor: torch.Tensor) -> Reading | None:
        """Measure a tensor; what has no numbers is booked with its reason and gives None."""
        try:
            return self._measure(tensor, full=self.full)
        except Unmeasurable as error:
            place.unmeasurable = str(error)
            return None

    def add(
        self,
        place: Place,
        reading: Reading,
        tensor: torch.Tensor,
        *,
        backward: int = 0,
        linear_input: LinearInput | None = None,
    ) -> None:
        """Pool a reading of a tensor with what its place has already."""
        with self._lock:
            entry = place.entries.get(backward)
            if entry is None:
                place.entries[backward] = Entry(
                    reading, shape_of(tensor), linear_input, find_part(tensor)
                )
                return
            entry.reading = entry.reading.merge(reading)  # type: ignore[arg-type]
            entry.shape = shape_of(tensor)
            entry.linear_input = merge_linear_inputs(entry.linear_input, linear_input)

    @property
    def called(self) -> set[str]:
        """Names of the modules that were called within a forward of the root."""
        return {module for module, _, _ in self._depths}

    def has_any(self, signal: str) -> bool:
        """Tell whether anything of this signal was measured."""
        return any(p.key[3] == signal and p.entries for p in self._places.values())

    def close(self, *, run: str, draw: int, step: int) -> tuple[Record, ...]:
        """Return the records so far, in order of depth."""
        with self._lock:
            records = [
                _to_record(
                    place, entry, run=run, draw=draw, step=step, depth=depth, backward=number
                )
                for place in self._places.values()
                for depth in [self._find_depth(place.site)]
                for number, entry in place.entries.items()
            ]
        return tuple(sorted(records, key=lambda record: record.depth))

    def list_parts(self, *, run: str, draw: int, step: int) -> dict[RecordKey, Part]:
        """Return which part of a distributed tensor is here, by the keys of the records."""
        with self._lock:
            return {
                (run, draw, step, place.site, number): entry.part
                for place in self._places.values()
                for number, entry in place.entries.items()
                if entry.part is not None
            }

    def _find_depth(self, site: Site) -> int:
        # A parameter has the depth of its module's first call, and so has a call without index.
        first = self._depths.get((site.module, 0, ""), len(self._depths))
        operation = site.output if site.is_operation else ""
        return self._depths.get((site.module, site.call, operation), first)

    def list_unobserved(self, names: Mapping[nn.Module, str]) -> Iterator[Unobserved]:
        """Yield what was expected of these modules and did not come, each with its reason."""
        yield from self._list_uncalled(names)
        if self.rehearsals:
            reason = "forwards by which a pipeline stage learned its tensors' shapes, left out"
            yield Unobserved(module="", reason=f"{reason}: {self.rehearsals}")
        for name in sorted(self.early):
            reason = "called before the model itself was; that call was not measured"
            yield Unobserved(module=name, reason=reason)
        for name, kind in self.opaque.items():
            reason = f"output: no tensor was found in what it returns, a {kind}"
            yield Unobserved(module=name, reason=reason)
        for module, name in names.items():
            if nn.utils.parametrize.is_parametrized(module):
                reason = "weight: it is parametrized, and reading it could change it"
                yield Unobserved(module=name, reason=reason)
        for place in self._places.values():
            if place.unmeasurable:
                yield _report(place.site, place.unmeasurable)
            elif place.awaited and not place.entries:
                yield _report(place.site, f"none arrived; {place.absence}")

    def _list_uncalled(self, names: Mapping[nn.Module, str]) -> Iterator[Unobserved]:
        called = self.called
        for module, name in names.items():
            if name in called or not _has_forward(module):
                continue
            held = any(True for _ in module.parameters(recurse=False))
            reason = UNCALLED if held else "never called"
            if self.recomputed[name]:
                reason = reason.replace("never called", "called inside a backward pass only")
            yield Unobserved(module=name, reason=reason)


def _has_forward(module: nn.Module) -> bool:
    # ModuleList and its kin are containers that nobody calls.
    return type(module).forward is not nn.Module.forward


def _report(site: Site, reason: str) -> Unobserved:
    return Unobserved(module=str(site), reason=f"{site.signal}: {reason}")


def _to_record(place: Place, entry: Entry, **where: Any) -> Record:
    reading = read(entry.reading)
    fan_in, fan_out = place.fans or (None, None)
    return Record(
        site=place.site,
        kind=place.kind,
        moments=reading.moments,
        shape=entry.shape,
        fan_in=fan_in,
        fan_out=fan_out,
        distinct_rows=place.distinct_rows,
        linear_input=entry.linear_input,
        exponents=reading.exponents,
        sampling=find_sampling(entry.reading),
        **where,
    )
