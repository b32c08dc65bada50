"""What watching a training step costs, as a ratio to the bare step.

    python benchmarks/overhead.py            # a few minutes
    python benchmarks/overhead.py --quick    # under a minute, for a first impression
    python benchmarks/overhead.py --device cuda

The bare step and a watched one take turns, each with a copy of the model to itself, in one process
on one thread, so that a busy machine hits both alike. The numbers are CPU time, on a CUDA device
the time between two events on its stream: the ratio of the medians in a round; of all rounds the
median, and the range in brackets.

- varprobe: moments of every activation and gradient, the probe on all the time.
- one step: the same, with a new probe for each step; putting hooks on and off is part of it.
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
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from importlib.util import find_spec
from statistics import median
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

import varprobe as vp

ROUNDS = 5
QUICK_ROUNDS = 3
SIGNALS = ("activation", "gradient")

Step = Callable[[], object]


class Training:
    """A model, one batch, and the step that is repeated."""

    def __init__(self, model: nn.Module, batch: torch.Tensor) -> None:
        self.model = model
        self.batch = batch
        self.optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)

    def step(self) -> None:
        """Go forward, backward and on."""
        self.optimizer.zero_grad()
        self.model(self.batch).square().mean().backward()
        self.optimizer.step()


@contextmanager
def watch_all_steps(training: Training) -> Iterator[Step]:
    """Yield the step under a probe that stays on."""
    with vp.Probe(training.model, signals=SIGNALS):
        yield training.step


@contextmanager
def watch_one_step(training: Training) -> Iterator[Step]:
    """Yield the step in a probe of its own."""

    def step() -> None:
        with vp.Probe(training.model, signals=SIGNALS):
            training.step()

    yield step


@contextmanager
def watch_by_hand(training: Training) -> Iterator[Step]:
    """Yield the step under the twenty lines that one writes without a library."""
    seen = {}

    def see(name: str, signal: str, tensor: torch.Tensor) -> None:
        values = tensor.detach()
        low, high = values.aminmax()
        abs_max = max(-low.item(), high.item())
        seen[name, signal] = values.mean().item(), values.square().mean().item(), abs_max

    def make_hook(name: str) -> Callable[[nn.Module, object, torch.Tensor], None]:
        def hook(_module: nn.Module, _args: object, output: torch.Tensor) -> None:
            see(name, "activation", output)
            output.register_hook(lambda gradient: see(name, "gradient", gradient))

        return hook

    modules = training.model.named_modules()
    handles = [module.register_forward_hook(make_hook(name)) for name, module in modules]
    yield training.step
    for handle in handles:
        handle.remove()


@contextmanager
def watch_with_torchlens(training: Training) -> Iterator[Step]:
    """Yield the step as torchlens traces it, forward and backward."""
    import torchlens

    # It wraps torch's functions while it works; left wrapped they would slow the others down.
    options = torchlens.options.CaptureOptions(save_grads=True, unwrap_when_done=True)

    def step() -> None:
        training.optimizer.zero_grad()
        trace = torchlens.trace(training.model, training.batch, capture=options)
        trace.log_backward(trace[trace.output_layers[0]].out.square().mean())
        training.optimizer.step()

    yield step


Watcher = Callable[[Training], AbstractContextManager[Step]]

WATCHERS: dict[str, Watcher] = {
    "varprobe": watch_all_steps,
    "one step": watch_one_step,
    "by hand": watch_by_hand,
    "torchlens": watch_with_torchlens,
}


def build_mlp(layers: int, width: int) -> nn.Module:
    """Return Linear and ReLU in turn."""
    pairs = ((nn.Linear(width, width), nn.ReLU()) for _ in range(layers))
    return nn.Sequential(*(layer for pair in pairs for layer in pair))


def build_linears(layers: int, width: int) -> nn.Module:
    """Return nothing but Linear: the least to do beside each tensor that is watched."""
    return nn.Sequential(*(nn.Linear(width, width) for _ in range(layers)))


class ResidualBlock(nn.Module):
    """ResNet-18's: two 3×3 convolutions around a shortcut, what can be in place in place."""

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inside, outside, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(outside)
        self.conv2 = nn.Conv2d(outside, outside, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outside)
        self.relu = nn.ReLU(inplace=True)
        self.shortcut = nn.Sequential()
        if stride > 1:
            self.shortcut.append(nn.Conv2d(inside, outside, 1, stride, bias=False))
            self.shortcut.append(nn.BatchNorm2d(outside))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the sum of branch and shortcut, rectified."""
        branch = self.norm2(self.conv2(self.relu(self.norm1(self.conv1(x)))))
        branch += self.shortcut(x)
        return self.relu(branch)


def build_resnet(width: int) -> nn.Module:
    """Return ResNet-18, with ``width`` channels in its first stage."""
    stem = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False), nn.BatchNorm2d(width)
    layers: list[nn.Module] = [*stem, nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, padding=1)]
    inside = width
    for stage in range(4):
        outside = width * 2**stage
        layers.append(ResidualBlock(inside, outside, stride=1 if stage == 0 else 2))
        layers.append(ResidualBlock(outside, outside, stride=1))
        inside = outside
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inside, 10))


class TransformerBlock(nn.Module):
    """GPT-2's: causal attention and an MLP, each behind a LayerNorm, on a residual stream."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width)
        self.attend = nn.Linear(width, 3 * width)
        self.project = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.expand = nn.Linear(width, 4 * width)
        self.gelu = nn.GELU()
        self.contract = nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the stream (batch, position, width) after both branches."""
        parts = self.attend(self.norm1(x)).chunk(3, dim=-1)
        query, key, value = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)
        attended = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.project(attended.transpose(1, 2).flatten(2))
        return x + self.contract(self.gelu(self.expand(self.norm2(x))))


class GPT(nn.Module):
    """A decoder-only transformer with learned positions."""

    def __init__(self, layers: int, width: int, heads: int, context: int, vocabulary: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)
        self.positions = nn.Embedding(context, width)
        self.blocks = nn.Sequential(*(TransformerBlock(width, heads) for _ in range(layers)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return logits (batch, position, vocabulary)."""
        x = self.tokens(tokens) + self.positions(
            torch.arange(tokens.shape[1], device=tokens.device)
        )
        return self.head(self.norm(self.blocks(x)))


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
        partial(build_mlp, layers=30, width=256),
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
        turns=200,
        per_record=True,
    ),
)


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
    """Median seconds of the bare and the watched step in one round."""

    bare: float
    watched: float


def alternate(bare: Step, watched: Step, turns: int, timer: Timer) -> Round:
    """Run both steps in turn."""
    seconds: tuple[list[float], list[float]] = [], []
    for _ in range(turns):
        for step, taken in zip((bare, watched), seconds, strict=True):
            taken.append(timer(step))
    return Round(*map(median, seconds))


def measure(
    task: Task, watchers: Mapping[str, Watcher], rounds: int, turns: int, device: str
) -> dict[str, list[Round]]:
    """Return the rounds of each watcher."""
    model, batch = task.build(), task.draw_batch()
    # As drawn by torch, gradients of the deep nets would vanish, which takes other paths.
    vp.initialize(model, "kaiming_normal")
    model, batch = model.to(device), batch.to(device)
    bare = Training(model, batch).step
    timer, taken = TIMERS[device], {}
    for name, watch in watchers.items():
        gc.collect()  # what the watcher before left lying about
        with watch(Training(copy.deepcopy(model), batch)) as step:
            alternate(bare, step, 1, timer)
            taken[name] = [alternate(bare, step, turns, timer) for _ in range(rounds)]
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
        taken = measure(task, watchers, rounds, max(2, round(share * task.turns)), device)
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
    parser.add_argument("--quick", action="store_true", help="fewer steps: under a minute")
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
