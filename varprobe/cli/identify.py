"""``varprobe identify``: which initializer drew each parameter of a model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from varprobe.cli import options
from varprobe.cli.inputs import draw_inputs
from varprobe.cli.output import stdout_for_results, write_file, write_result
from varprobe.cli.targets import load_target

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
    import torch

    import varprobe as vp

    with stdout_for_results():
        # For a target that draws weights or inputs while it is imported or called.
        torch.manual_seed(seed)
        found = load_target(target)
        given = found.inputs
        if inputs:
            device = next((p.device for p in found.sample.parameters()), torch.device("cpu"))
            given = draw_inputs(inputs, seed=seed, device=device)
        identification = vp.identify(found.sample, given)
    write_result(identification, output_format)
    if html is not None:
        write_file(html, identification.to_html)
    if plot is not None:
        write_file(plot, vp.plot_identification(identification).save)
