"""``varprobe check``: judge one model, for CI."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from varprobe.cli import options
from varprobe.cli.commands import FINDINGS
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
    output_format: str,
    html: Path | None,
) -> None:
    """Judge a model, and exit with 0 if it is healthy, with 1 if not.

    A healthy model ends with what was looked at: "48 layers, 3 draws checked". For what a code
    means, see varprobe explain CODE. [tool.varprobe] in pyproject.toml sets preset, select, ignore,
    levels, per-layer-ignores, draws and seed for a project; an option given here replaces it.
    """
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
    )
    write_result(diagnosis, output_format, only_findings=True, source=source)
    if html is not None:
        write_file(html, diagnosis.to_html)
    if not diagnosis.healthy:
        ctx.exit(FINDINGS)
