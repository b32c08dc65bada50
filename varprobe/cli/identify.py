"""``varprobe identify``: which initializer drew each parameter of a model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from varprobe.cli import options
from varprobe.cli.output import stdout_for_results, write_file, write_result
from varprobe.cli.subjects import load_with_inputs

if TYPE_CHECKING:
    from varprobe.cli.inputs import InputSpec


@click.command(
    "identify",
    short_help="Tell which initializer drew each parameter.",
    epilog=options.show_examples(
        "varprobe identify models.py:build",
        "varprobe identify models.py:build --input 32,3,224,224 --plot weights.png",
    ),
)
@options.target
@options.inputs
@options.seed
@options.output_format
@options.html
@options.plot
def command(
    target: str,
    inputs: tuple[InputSpec, ...],
    seed: int,
    output_format: str,
    html: Path | None,
    plot: Path | None,
) -> None:
    """Tell which initializer drew each parameter of a model, from its numbers.

    Inputs are not needed. With them, a forward pass shows which nonlinearity comes behind which
    layer, and so which variance its weights should have.
    """
    import varprobe as vp

    with stdout_for_results():
        found, given = load_with_inputs(target, inputs, seed=seed)
        identification = vp.identify(found.sample, given)
    write_result(identification, output_format)
    if html is not None:
        write_file(html, identification.to_html)
    if plot is not None:
        write_file(plot, vp.plot_identification(identification).save)
