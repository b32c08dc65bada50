"""``varprobe check``: judge one model, for CI."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from varprobe.cli import options
from varprobe.cli.commands import FINDINGS, Failure
from varprobe.cli.judging import judge
from varprobe.cli.output import write_file, write_result

if TYPE_CHECKING:
    from varprobe.cli.inputs import InputSpec


@click.command(
    "check",
    short_help="Judge a model, for CI.",
    epilog=options.show_examples(
        "varprobe check models.py:build --input 32,3,224,224",
        "varprobe check package.models:build --init kaiming_normal --draws 3",
        "varprobe check models.py:build --ignore VP103 --format json > verdict.json",
        "varprobe check models.py:build --baseline tests/baselines/models.build.json",
    ),
)
@options.target
@options.inputs
@options.init
@options.project_draws
@options.project_seed
@options.include
@options.exclude
@options.preset
@options.select
@options.ignore
@click.option(
    "--baseline",
    "file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Also find what has drifted from this file, which varprobe baseline wrote.",
)
@click.option(
    "--update-baseline",
    "update",
    is_flag=True,
    help="Replace the file by what is measured now, and judge the rest; not in CI.",
)
@options.verdict_format
@options.html
@click.pass_context
def command(
    ctx: click.Context,
    target: str,
    inputs: tuple[InputSpec, ...],
    init: str | None,
    draws: int | None,
    seed: int | None,
    include: tuple[str, ...],
    exclude: tuple[str, ...],
    preset: str | None,
    select: tuple[str, ...] | None,
    ignore: tuple[str, ...] | None,
    file: Path | None,
    update: bool,
    output_format: str,
    html: Path | None,
) -> None:
    """Judge a model, and exit with 0 if it is healthy, with 1 if not.

    A healthy model ends with what was looked at: "48 layers, 3 draws checked". For what a code
    means, see varprobe explain CODE. [tool.varprobe] in pyproject.toml sets preset, select, ignore,
    levels, per-layer-ignores, draws and seed for a project; an option given here replaces it.
    """
    if update:
        _require_baseline(file)
    diagnosis, source = judge(
        target,
        inputs,
        init=init,
        draws=draws,
        seed=seed,
        include=include or None,
        exclude=exclude,
        preset=preset,
        select=select,
        ignore=ignore,
        baseline=None if update else file,
    )
    write_result(diagnosis, output_format, only_findings=True, source=source)
    if html is not None:
        write_file(html, diagnosis.to_html)
    if update and file is not None:
        write_file(file, diagnosis.analysis.to_baseline().save)
    if not diagnosis.healthy:
        ctx.exit(FINDINGS)


def _require_baseline(file: Path | None) -> None:
    """Raise unless there is a baseline to replace, and somebody who looks at it."""
    from varprobe.baseline import Baseline, refuse_in_ci

    refuse_in_ci()
    if file is None:
        raise Failure("--update-baseline needs the file to replace: --baseline FILE.")
    # What is no baseline is not overwritten.
    Baseline.load(file)
