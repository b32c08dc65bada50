"""``varprobe compare``: one model under several initializations."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from varprobe.cli import options
from varprobe.cli.commands import FINDINGS
from varprobe.cli.output import show_progress, stdout_for_results, write_file, write_result
from varprobe.cli.subjects import load_subject

if TYPE_CHECKING:
    from varprobe.cli.inputs import InputSpec

INITS = ("default", "xavier_normal", "kaiming_normal")


@click.command(
    "compare",
    short_help="Compare initializations of a model.",
    epilog=options.show_examples(
        "varprobe compare models.py:build --input 32,3,224,224",
        "varprobe compare models.py:build --init kaiming_normal --init orthogonal --html page.html",
    ),
)
@options.target
@options.inputs
@click.option(
    "--init",
    "inits",
    metavar="NAME",
    multiple=True,
    default=INITS,
    show_default=True,
    help="An initialization to compare; repeat it for others.",
)
@options.draws(default=8)
@options.seed
@options.verdict_format
@options.html
@options.plot
@click.pass_context
def command(
    ctx: click.Context,
    target: str,
    inputs: tuple[InputSpec, ...],
    inits: tuple[str, ...],
    draws: int,
    seed: int,
    output_format: str,
    html: Path | None,
    plot: Path | None,
) -> None:
    """Compare initializations of a model: tables side by side, and a verdict over each.

    Exits with 1 if one of them has findings of level error.
    """
    import varprobe as vp

    names = tuple(dict.fromkeys(inits))
    with stdout_for_results(), show_progress(draws * len(names)) as advance:
        subject = load_subject(target, inputs, seed=seed)
        comparison = vp.compare(
            subject.model,
            subject.inputs,
            inits=names,
            draws=draws,
            seed=seed,
            loss=subject.loss,
            progress=lambda name, draw: advance(f"{name}, draw {draw}"),
        )
    write_result(comparison, output_format, source=subject.source)
    if html is not None:
        write_file(html, comparison.to_html)
    if plot is not None:
        write_file(plot, vp.plot_compare(comparison).save)
    if not all(diagnosis.healthy for diagnosis in comparison.diagnoses.values()):
        ctx.exit(FINDINGS)
