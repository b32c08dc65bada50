"""``varprobe baseline``: keep what a model measures, for ``varprobe check --baseline``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import click

from varprobe.cli import options
from varprobe.cli.commands import Failure
from varprobe.cli.judging import judge
from varprobe.cli.output import write_file

if TYPE_CHECKING:
    from varprobe.cli.inputs import InputSpec


@click.command(
    "baseline",
    short_help="Keep what a model measures, to compare with.",
    epilog=options.show_examples(
        "varprobe baseline models.py:build --input 32,3,224,224",
        "varprobe check models.py:build --input 32,3,224,224 "
        "--baseline tests/baselines/models.build.json",
    ),
)
@options.target
@options.inputs
@options.init
@options.project_draws
@options.project_seed
@options.include
@options.exclude
@click.option(
    "--out",
    type=options.FILE,
    help="The file.  [default: tests/baselines/, named after TARGET]",
)
def command(
    target: str,
    inputs: tuple[InputSpec, ...],
    init: str | None,
    draws: int | None,
    seed: int | None,
    include: tuple[str, ...],
    exclude: tuple[str, ...],
    out: Path | None,
) -> None:
    """Write what a model measures to a small file, to be looked at and committed.

    varprobe check --baseline FILE then finds what has drifted since, judged by the error bars of
    both measurements. A file that exists is not replaced: that is what --update-baseline of
    varprobe check is for. Nothing is written in CI.
    """
    from varprobe.baseline import refuse_in_ci

    refuse_in_ci()
    path = out or name_file(target)
    if path.exists():
        raise Failure(
            f"{str(path)!r} exists already. To compare: varprobe check {target} --baseline {path}; "
            "to replace it, the same with --update-baseline."
        )
    diagnosis, _ = judge(
        target,
        inputs,
        init=init,
        draws=draws,
        seed=seed,
        include=include or None,
        exclude=exclude,
    )
    write_file(path, diagnosis.analysis.to_baseline().save, err=False)
    if not diagnosis.healthy:
        click.echo(f"The model is not healthy: see varprobe check {target}.", err=True)


def name_file(target: str) -> Path:
    """Return where the baseline of a target lies: models.py:build in models.build.json."""
    place, _, name = target.rpartition(":")
    stem = Path(place).stem if place.endswith(".py") else place
    return Path("tests", "baselines", re.sub(r"[^\w.-]", "_", f"{stem}.{name}.json"))
