"""The books of a probe: what was measured, what was expected to arrive, what never came.

Memory is one reading for each site, however long the probe runs.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from varprobe.moments import LinearInput, merge_linear_inputs
from varprobe.recording import Record, Site, Unobserved
from varprobe.statistics import Reading, Unmeasurable, measure, read

Key = tuple[Site, int]
"""A site and the index among the backward passes that reached one forward."""


@dataclass(slots=True)
class Entry:
    """What is known of one site so far."""

    kind: str
    depth: int | None
    """None for a parameter: it has the depth of its module, which is known in the end."""
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
        self._awaited: dict[Site, None] = {}
        self._arrived: set[Site] = set()
        self._unmeasurable: dict[Site, str] = {}
        self.recomputed = 0
        self._lock = threading.RLock()

    def open_site(self, module: str, call: int) -> int:
        """Return the depth of a call, which is the next number if it is seen for the first time."""
        with self._lock:
            return self._depths.setdefault((module, call), len(self._depths))

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

    def count_recomputation(self) -> None:
        """Book a module call inside a backward pass: activation checkpointing computing again."""
        with self._lock:
            self.recomputed += 1

    @property
    def is_empty(self) -> bool:
        """Tell whether no activation was measured."""
        return not any(site.signal == "activation" for site, _ in self._entries)

    def close(self, *, run: str, draw: int, step: int) -> tuple[Record, ...]:
        """Return the records, in order of depth."""
        with self._lock:
            for (site, _), entry in self._entries.items():
                if entry.depth is None:
                    entry.depth = self._find_depth(site.module)
            books = sorted(self._entries.items(), key=lambda item: item[1].depth or 0)
        return tuple(
            _to_record(site, backward, entry, run=run, draw=draw, step=step)
            for (site, backward), entry in books
        )

    def _find_depth(self, module: str) -> int:
        first = self._depths.get((module, 0))
        if first is not None:
            return first
        calls = (depth for (name, _), depth in self._depths.items() if name == module)
        return min(calls, default=len(self._depths))

    def list_missing(self) -> Iterator[Unobserved]:
        """Yield what was expected and did not come, each with its reason."""
        for site, reason in self._unmeasurable.items():
            yield Unobserved(module=str(site), reason=f"{site.signal}: {reason}")
        for site in self._awaited:
            if site not in self._arrived and site not in self._unmeasurable:
                yield Unobserved(
                    module=str(site),
                    reason=f"{site.signal}: none arrived; the loss does not depend on it, or no "
                    "backward pass ran while the probe was on",
                )


def _to_record(
    site: Site, backward: int, entry: Entry, *, run: str, draw: int, step: int
) -> Record:
    reading = read(entry.reading)
    fan_in, fan_out = entry.fans or (None, None)
    return Record(
        run=run,
        draw=draw,
        step=step,
        depth=entry.depth or 0,
        site=site,
        kind=entry.kind,
        moments=reading.moments,
        shape=entry.shape,
        fan_in=fan_in,
        fan_out=fan_out,
        linear_input=entry.linear_input,
        exponents=reading.exponents,
        backward=backward,
    )
