"""What the moments of one tensor cost, as a ratio to reading it once.

    python benchmarks/moments.py            # a minute or two
    python benchmarks/moments.py --quick    # some seconds, for a first impression

The plain read is ``x.sum()`` of the same tensor. It and the others take turns in one process on one
thread, so that a busy machine hits all alike. The numbers are CPU time, the ratio of the medians.

- moments: mean, variance, largest magnitude, and the non-finite elements counted.
- full: zeros and the histogram over powers of two besides.
- shifted: the moments of N(5, 1), where the mean has to be taken off first.
- tiny: the moments of 1e-20 N(0, 1), whose squares are no numbers of the dtype.
- var_mean: torch's own, which gives mean and variance alone.
- reference: two passes in float64 over the finite elements, slow and obvious.
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from statistics import median

import numpy
import torch

from varprobe.statistics import measure, reference

SIZES = (4_096, 32_768, 262_144, 4_194_304)
DTYPES = (torch.float32, torch.bfloat16, torch.float64)
ROUNDS = 60
QUICK_ROUNDS = 7
TITLES = ("moments", "full", "shifted", "tiny", "var_mean", "reference")

Task = Callable[[], object]


def build_tasks(size: int, dtype: torch.dtype) -> dict[str, Task]:
    """Return what takes turns, the plain read first."""
    normal = torch.randn(size)
    values, shifted, tiny = (x.to(dtype) for x in (normal, normal + 5.0, normal * 1e-20))
    work: tuple[Task, ...] = (
        partial(measure, values, full=False),
        partial(measure, values, full=True),
        partial(measure, shifted, full=False),
        partial(measure, tiny, full=False),
        partial(torch.var_mean, values),
        partial(reference.measure, values, zeros=False),
    )
    return {"sum": values.sum, **dict(zip(TITLES, work, strict=True))}


def alternate(tasks: Mapping[str, Task], rounds: int) -> dict[str, float]:
    """Return the median CPU seconds of each task."""
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    for _ in range(rounds):
        for name, task in tasks.items():
            begin = time.process_time()
            task()
            seconds[name].append(time.process_time() - begin)
    return {name: median(taken) for name, taken in seconds.items()}


def spell_row(cells: Sequence[str]) -> str:
    """Return one line of the table."""
    return f"| {' | '.join(cells)} |"


def describe_machine() -> str:
    """Return in one line what the numbers depend on."""
    capability = torch.backends.cpu.get_cpu_capability()
    machine = f"{platform.machine()} ({capability}), 1 thread"
    return f"{machine}, torch {torch.__version__}, numpy {numpy.__version__}"


def tabulate(sizes: Sequence[int], dtypes: Sequence[torch.dtype], rounds: int) -> Iterator[str]:
    """Yield the lines of a Markdown table, each as soon as it is known."""
    yield spell_row(["tensor", "sum", *TITLES])
    yield f"|---|{'---:|' * (1 + len(TITLES))}"
    for dtype in dtypes:
        for size in sizes:
            tasks = build_tasks(size, dtype)
            alternate(tasks, rounds=1)
            taken = alternate(tasks, rounds)
            plain = taken["sum"]
            ratios = [f"{taken[title] / plain:.1f}" for title in TITLES]
            name = f"{size:,} {str(dtype).removeprefix('torch.')}"
            yield spell_row([name, f"{1e6 * plain:.0f} µs", *ratios])


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="What the moments of one tensor cost.")
    parser.add_argument("--quick", action="store_true", help="fewer rounds: some seconds")
    quick = parser.parse_args(arguments).quick
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(describe_machine(), end="\n\n")
    for line in tabulate(SIZES, DTYPES, QUICK_ROUNDS if quick else ROUNDS):
        print(line, flush=True)


if __name__ == "__main__":
    main()
