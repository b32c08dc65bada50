"""Examine every model of every third-party library, and print what came out: ``make corpus``."""

from __future__ import annotations

import importlib
import logging
import math
import os
import sys
import warnings
from importlib.metadata import version

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_VERBOSITY"] = "error"

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tests.corpus.examination import Result, examine
from tests.corpus.subject import Builder
from tests.corpus.third_party import torchvision_schemas

LIBRARIES = {
    "transformers": "transformers_models",
    "timm": "timm_models",
    "torchvision": "torchvision_models",
    "diffusers": "diffusers_models",
    "torch-geometric": "geometric_models",
    "x-transformers": "x_transformers_models",
    "vit-pytorch": "vit_pytorch_models",
    "segmentation-models-pytorch": "segmentation_models",
    "monai": "monai_models",
    "open-clip-torch": "open_clip_models",
}
"""Distribution: file with its models."""


def main(chosen: list[str]) -> int:
    """Examine the libraries named, all if none is; return the number of complaints."""
    warnings.simplefilter("ignore")
    logging.disable()
    torchvision_schemas.define_missing()
    console = Console(width=None if sys.stdout.isatty() else 160)
    results: dict[tuple[str, str], Result] = {}
    for library in chosen or LIBRARIES:
        for name, build in _load(library).items():
            results[library, name] = result = examine(build)
            console.print(f"{library} {escape(name)}: {result.seconds:.1f} s", style="dim")
    console.print(_tabulate(results))
    for (library, name), result in results.items():
        _explain(console, f"{library} {name}", result)
    seen = sum(not result.problems for result in results.values())
    judged = sum(not result.failures for result in results.values())
    predicted = sum(result.reached == 1.0 for result in results.values())
    total = len(results)
    libraries = len({library for library, _ in results})
    console.print(
        f"probe {seen}/{total}, theory and verdict {judged}/{total}, "
        f"predicted without an unknown row {predicted}/{total}: "
        f"{total} architectures of {libraries} libraries"
    )
    return 2 * total - seen - judged


def _load(library: str) -> dict[str, Builder]:
    models: dict[str, Builder] = importlib.import_module(
        f"tests.corpus.third_party.{LIBRARIES[library]}"
    ).MODELS
    return models


def _tabulate(results: dict[tuple[str, str], Result]) -> Table:
    table = Table("library", "architecture", title="Models with random weights, probed")
    for heading in ("modules", "records", "unobserved", "predicted"):
        table.add_column(heading, justify="right")
    table.add_column("stopped by")
    for heading in ("verdict", "probe", "theory"):
        table.add_column(heading)
    last = ""
    for (library, name), result in results.items():
        if library != last:
            table.add_section()
        table.add_row(
            "" if library == last else f"{library} {version(library)}",
            escape(name),
            str(result.modules),
            str(result.records),
            str(result.unobserved),
            "-" if math.isnan(result.reached) else f"{result.reached:.0%}",
            ", ".join(list(result.unsupported)[:2]).replace("aten.", "").replace(".default", ""),
            result.verdict,
            "FAIL" if result.problems else "ok",
            "FAIL" if result.failures else "ok",
        )
        last = library
    return table


def _explain(console: Console, name: str, result: Result) -> None:
    for line in (*result.problems, *result.failures, *result.findings):
        console.print(escape(f"{name}: {' '.join(line.split())}"), soft_wrap=True)


if __name__ == "__main__":
    sys.exit(1 if main(sys.argv[1:]) else 0)
