"""A pool of processes that take the ranks of a process group, for one job after the other.

Importing torch takes seconds, which is why the processes are forked from a server that has done so,
and stay. Nothing survives a failure: a job that one rank fails, or that takes too long, ends the
processes of the pool, and the next job gets new ones. Those of a dead parent end by themselves.
"""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

PATIENCE = 60.0
"""Seconds for one job, which takes less than one on an idle machine."""

SILENCE = timedelta(seconds=30)
"""How long a rank waits for another one in a collective."""

PRELOADED = (
    "torch.distributed.fsdp",
    "torch.distributed.pipelining",
    "torch.distributed.tensor.parallel",
    "varprobe.monitoring",
)

Job = Callable[..., Any]


class Ranks:
    """Processes that run the same function as ranks of one gloo process group."""

    def __init__(self) -> None:
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(list(PRELOADED))
        self._processes: list[Any] = []
        self._connections: list[Connection] = []

    def run(self, job: Job, *args: object, size: int) -> list[Any]:
        """Return what ``job(*args)`` returned on each of ``size`` ranks.

        ``job`` is a function of a module. If it raises on any rank, this raises an AssertionError
        with the traces.
        """
        self._grow(size)
        with tempfile.TemporaryDirectory() as folder:
            for rank in range(size):
                self._connections[rank].send((job, args, rank, size, str(Path(folder, "store"))))
            answers = self._collect(size)
        failures = [
            f"rank {rank}:\n{answers.get(rank, ('', 'no answer'))[1]}"
            for rank in range(size)
            if answers.get(rank, ("",))[0] != "done"
        ]
        if failures:
            self.close()
            raise AssertionError("\n".join(failures))
        return [answers[rank][1] for rank in range(size)]

    def _grow(self, size: int) -> None:
        while len(self._processes) < size:
            ours, theirs = self._context.Pipe()
            process = self._context.Process(target=_serve, args=(theirs,), daemon=True)
            process.start()
            theirs.close()
            self._processes.append(process)
            self._connections.append(ours)

    def _collect(self, size: int) -> dict[int, tuple[str, Any]]:
        answers: dict[int, tuple[str, Any]] = {}
        end = time.monotonic() + PATIENCE
        while len(answers) < size and time.monotonic() < end:
            waiting = [c for r, c in enumerate(self._connections[:size]) if r not in answers]
            for connection in wait(waiting, timeout=max(0.0, end - time.monotonic())):
                rank = self._connections.index(connection)  # type: ignore[arg-type]
                try:
                    answers[rank] = connection.recv()  # type: ignore[union-attr]
                except EOFError:
                    answers[rank] = "failed", "the process ended"
                if answers[rank][0] == "failed":
                    # The others may wait for this one; what they have to say comes soon.
                    end = min(end, time.monotonic() + 2.0)
        return answers

    def close(self) -> None:
        """End the processes."""
        for process in self._processes:
            process.kill()
        for process, connection in zip(self._processes, self._connections, strict=True):
            process.join()
            connection.close()
        self._processes, self._connections = [], []


def _serve(connection: Connection) -> None:
    # Gloo looks up the name of the host otherwise, which takes long or fails on some machines.
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    with suppress(EOFError, KeyboardInterrupt, BrokenPipeError):
        while True:
            connection.send(_answer(*connection.recv()))


def _answer(
    job: Job, args: tuple[object, ...], rank: int, size: int, store: str
) -> tuple[str, object]:
    import torch
    from torch import distributed

    try:
        torch.manual_seed(0)
        distributed.init_process_group(
            "gloo", init_method=f"file://{store}", rank=rank, world_size=size, timeout=SILENCE
        )
        try:
            return "done", job(*args)
        finally:
            distributed.destroy_process_group()
    except BaseException:
        return "failed", traceback.format_exc()
