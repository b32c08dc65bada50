"""What watching a training step costs, as a ratio to the bare step.

    python benchmarks/overhead.py            # ten minutes
    python benchmarks/overhead.py --quick    # two minutes, for a first impression
    python benchmarks/overhead.py --device cuda

The bare step and a watched one take turns, each with a copy of the model to itself, in one process
on one thread, so that a busy machine hits both alike. The numbers are CPU time, on a CUDA device
the time between two events on its stream: the ratio of the medians in a round; of all rounds the
median, and the range in brackets.

- varprobe: moments of every activation and gradient, the probe on all the time.
- one step: the same, with a new probe for each step; putting hooks on and off is part of it.
- every=100: a monitor that samples one step in a hundred. Means over so many steps, since a median
  would leave out the sampled one.
- by hand: what one writes in twenty lines; right for models without surprises.
- torchlens: a peer that survives any model; it keeps every operation's tensors, and computes
  nothing yet.
"""

from __future__ import annotations

import argparse
import copy
import gc
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from importlib.util import find_spec
from statistics import fmean, median
from typing import NamedTuple

import torch
from nets import GPT, build_linears, build_mlp, build_resnet
from torch import nn
from watchers import EVERY, SIGNALS, WATCHERS, Step, Training, Watcher, watch_every_hundredth_step

import varprobe as vp

ROUNDS = 5
QUICK_ROUNDS = 3


@dataclass(frozen=True)
class Task:
    """A model to train on one batch.

    ``turns`` make up a round: a second or so of bare steps. ``per_record`` asks for the cost of one
    record, too, where steps are so short that a ratio says little.
    """

    name: str
    build: Callable[[], nn.Module]
    draw_batch: Callable[[], torch.Tensor]
    turns: int
    per_record: bool = False


TASKS = (
    Task(
        "MLP 30×256, B=128",
        partial(build_mlp, nn.ReLU, layers=30, width=256),
        partial(torch.randn, 128, 256),
        turns=30,
    ),
    Task(
        "8×Linear(1024), B=256",
        partial(build_linears, layers=8, width=1024),
        partial(torch.randn, 256, 1024),
        turns=6,
    ),
    Task(
        "ResNet-18, 64 px, B=8",
        partial(build_resnet, width=64),
        partial(torch.randn, 8, 3, 64, 64),
        turns=6,
    ),
    Task(
        "GPT, 6 layers, d=256, T=128, B=4",
        partial(GPT, layers=6, width=256, heads=4, context=128, vocabulary=512),
        partial(torch.randint, 512, (4, 128)),
        turns=6,
    ),
    Task(
        "8×Linear(32), B=8",
        partial(build_linears, layers=8, width=32),
        partial(torch.randn, 8, 32),
        turns=1000,
        per_record=True,
    ),
)


Average = Callable[[list[float]], float]
Timer = Callable[[Step], float]


def time_on_cpu(step: Step) -> float:
    """Return the CPU seconds of a step."""
    begin = time.process_time()
    step()
    return time.process_time() - begin


def time_on_cuda(step: Step) -> float:
    """Return the seconds of a step on the current stream, from an idle device on."""
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    begin.record()
    step()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1e3


TIMERS = {"cpu": time_on_cpu, "cuda": time_on_cuda}


class Round(NamedTuple):
    """Seconds of the bare and the watched step in one round."""

    bare: float
    watched: float


def alternate(
    bare: Step, watched: Step, timer: Timer, turns: int, average: Average = median
) -> Round:
    """Run both steps in turn."""
    seconds: tuple[list[float], list[float]] = [], []
    for _ in range(turns):
        for step, taken in zip((bare, watched), seconds, strict=True):
            taken.append(timer(step))
    return Round(*map(average, seconds))


def measure(
    task: Task, watchers: Mapping[str, Watcher], rounds: int, share: float, device: str
) -> dict[str, list[Round]]:
    """Return the rounds of each watcher; ``share`` is how much of them there is time for."""
    model, batch = task.build(), task.draw_batch()
    # As drawn by torch, gradients of the deep nets would vanish, which takes other paths.
    vp.initialize(model, "kaiming_normal")
    model, batch = model.to(device), batch.to(device)
    bare = Training(model, batch).step
    timer, taken = TIMERS[device], {}
    for name, watch in watchers.items():
        gc.collect()  # what the watcher before left lying about
        with watch(Training(copy.deepcopy(model), batch)) as step:
            alternate(bare, step, timer, turns=1)
            turns = share * task.turns
            if watch is watch_every_hundredth_step:
                stretch = EVERY * max(1, round(turns / EVERY))
                few = range(max(1, round(share * rounds)))
                taken[name] = [alternate(bare, step, timer, stretch, fmean) for _ in few]
            else:
                run = partial(alternate, bare, step, timer, max(2, round(turns)))
                taken[name] = [run() for _ in range(rounds)]
    return taken


def count_records(task: Task) -> int:
    """Return the number of activations and gradients in one step."""
    training = Training(task.build(), task.draw_batch())
    with vp.Probe(training.model, signals=SIGNALS) as probe:
        training.step()
    return len(probe.recording)


def spell_ratio(rounds: Sequence[Round]) -> str:
    """Return the ratio to the bare step, and its range over the rounds."""
    ratios = [watched / bare for bare, watched in rounds]
    return f"{median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})"


def spell_cost(rounds: Sequence[Round], records: int) -> str:
    """Return what watching adds to the bare step, for each of its records."""
    added = median(watched - bare for bare, watched in rounds)
    return f"{1e6 * added / records:.0f} µs"


def spell_row(title: str, first: str, cells: Mapping[str, str]) -> str:
    """Return one line of the table."""
    spelled = (cells.get(name, "not installed") for name in WATCHERS)
    return f"| {title} | {first} | {' | '.join(spelled)} |"


def tabulate(tasks: Sequence[Task], rounds: int, share: float, device: str) -> Iterator[str]:
    """Yield the lines of a Markdown table, each as soon as it is known."""
    watchers = {n: watch for n, watch in WATCHERS.items() if n != "torchlens" or find_spec(n)}
    yield spell_row("training step", "bare", {name: name for name in WATCHERS})
    yield f"|---|---:|{'---:|' * len(WATCHERS)}"
    for task in tasks:
        taken = measure(task, watchers, rounds, share, device)
        bare = median(bare for bare, _ in taken["varprobe"])
        ratios = {name: spell_ratio(taken[name]) for name in watchers}
        yield spell_row(task.name, f"{1e3 * bare:.2f} ms", ratios)
        if task.per_record:
            records = count_records(task)
            costs = {name: spell_cost(taken[name], records) for name in watchers}
            yield spell_row("the same, each record", f"{records} records", costs)


def describe_machine(device: str) -> str:
    """Return in one line what the numbers depend on."""
    capability = torch.backends.cpu.get_cpu_capability()
    versions = [f"torch {torch.__version__}", f"varprobe {vp.__version__}"]
    if find_spec("torchlens"):
        versions.append(f"torchlens {metadata.version('torchlens')}")
    machine = f"{platform.machine()} ({capability}), {os.cpu_count()} cores, 1 thread"
    if device == "cuda":
        machine = f"{torch.cuda.get_device_name()}, {machine}"
    return ", ".join([machine, f"Python {platform.python_version()}", *versions])


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="What watching a training step costs.")
    parser.add_argument("--quick", action="store_true", help="fewer steps: two minutes")
    parser.add_argument("--device", choices=sorted(TIMERS), default="cpu", help="where to train")
    options = parser.parse_args(arguments)
    quick, device = options.quick, options.device
    if device == "cuda" and not torch.cuda.is_available():
        parser.error("there is no CUDA device here, or this build of torch cannot use one")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(describe_machine(device), end="\n\n")
    rounds, share = (QUICK_ROUNDS, 0.3) if quick else (ROUNDS, 1.0)
    for line in tabulate(TASKS, rounds, share, device):
        print(line, flush=True)


if __name__ == "__main__":
    main()
