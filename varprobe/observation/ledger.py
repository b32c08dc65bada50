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
from varprobe.recording import Record, Site, Unobserved
from varprobe.statistics import Reading, Unmeasurable, measure, read

Key = tuple[Site, int]
"""A site and the index among the backward passes that reached one forward."""


@dataclass(slots=True)
class Entry:
    """What is known of one site so far."""

    kind: str
    reading: Reading
    shape: tuple[int, ...]
    fans: tuple[int, int] | None = None
    linear_input: LinearInput | None = None


class Ledger:
    """Collect readings by site, and account for those that stay away."""

    def __init__(self, *, full: bool) -> None:
        self.full = full
        self._entries: dict[Key, Entry] = {}
        self._depths: dict[tuple[str, int], int] = {}
        self.early: set[str] = set()
        """Modules that were called before the root was: nothing of that is measured."""
        self.recomputed: Counter[str] = Counter()
        """Calls by module inside a backward pass: activation checkpointing computing again."""
        self.opaque: dict[str, str] = {}
        """Modules whose output holds no tensor, and the output's class."""
        self._awaited: dict[Site, None] = {}
        self._arrived: set[Site] = set()
        self._unmeasurable: dict[Site, str] = {}
        self._lock = threading.RLock()

    def note_call(self, module: str, call: int) -> None:
        """Book a call; the order of the first ones is the depth of the records."""
        with self._lock:
            self._depths.setdefault((module, call), len(self._depths))

    def measure(self, site: Site, tensor: torch.Tensor) -> Reading | None:
        """Measure a tensor; what has no numbers is booked with its reason and gives None."""
        try:
            return measure(tensor, full=self.full)
        except Unmeasurable as error:
            self._unmeasurable[site] = str(error)
            return None

    def add(self, site: Site, entry: Entry, backward: int = 0) -> None:
        """Pool an entry with what its site has already."""
        with self._lock:
            self._arrived.add(site)
            known = self._entries.setdefault((site, backward), entry)
            if known is not entry:
                known.reading = known.reading.merge(entry.reading)  # type: ignore[arg-type]
                known.shape = entry.shape
                known.linear_input = merge_linear_inputs(known.linear_input, entry.linear_input)

    def await_gradient(self, site: Site) -> None:
        """Book that a gradient was asked for at ``site``."""
        with self._lock:
            self._awaited[site] = None

    @property
    def called(self) -> set[str]:
        """Names of the modules that were called within a forward of the root."""
        return {module for module, _ in self._depths}

    def has_any(self, signal: str) -> bool:
        """Tell whether anything of this signal was measured."""
        return any(site.signal == signal for site, _ in self._entries)

    def close(self, *, run: str, draw: int, step: int) -> tuple[Record, ...]:
        """Return the records so far, in order of depth."""
        with self._lock:
            records = [
                _to_record(site, entry, run=run, draw=draw, step=step, depth=depth, backward=number)
                for (site, number), entry in self._entries.items()
                for depth in [self._find_depth(site)]
            ]
        return tuple(sorted(records, key=lambda record: record.depth))

    def _find_depth(self, site: Site) -> int:
        # A parameter has the depth of its module's first call, and so has a call without index.
        first = self._depths.get((site.module, 0), len(self._depths))
        return self._depths.get((site.module, site.call), first)

    def list_unobserved(self, names: Mapping[nn.Module, str]) -> Iterator[Unobserved]:
        """Yield what was expected of these modules and did not come, each with its reason."""
        yield from self._list_uncalled(names)
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
        for site, reason in self._unmeasurable.items():
            yield Unobserved(module=str(site), reason=f"{site.signal}: {reason}")
        for site in self._awaited:
            if site not in self._arrived and site not in self._unmeasurable:
                yield Unobserved(
                    module=str(site),
                    reason=f"{site.signal}: none arrived; the loss does not depend on it, or no "
                    "backward pass ran while the probe was on",
                )

    def _list_uncalled(self, names: Mapping[nn.Module, str]) -> Iterator[Unobserved]:
        called = self.called
        for module, name in names.items():
            if name in called or not _has_forward(module):
                continue
            held = any(True for _ in module.parameters(recurse=False))
            use = "; its weights may be used without it, as a function's arguments" if held else ""
            where = (
                "called inside a backward pass only" if self.recomputed[name] else "never called"
            )
            yield Unobserved(module=name, reason=f"{where}{use}")


def _has_forward(module: nn.Module) -> bool:
    # ModuleList and its kin are containers that nobody calls.
    return type(module).forward is not nn.Module.forward


def _to_record(site: Site, entry: Entry, **where: Any) -> Record:
    reading = read(entry.reading)
    fan_in, fan_out = entry.fans or (None, None)
    return Record(
        site=site,
        kind=entry.kind,
        moments=reading.moments,
        shape=entry.shape,
        fan_in=fan_in,
        fan_out=fan_out,
        linear_input=entry.linear_input,
        exponents=reading.exponents,
        **where,
    )
