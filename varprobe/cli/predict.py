"""``varprobe predict``: what theory expects of a model, layer by layer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from varprobe.cli import options
from varprobe.cli.output import stdout_for_results, write_file, write_result
from varprobe.cli.subjects import load_subject

if TYPE_CHECKING:
    from varprobe.cli.inputs import InputSpec


@click.command(
    "predict",
    short_help="Predict a model, layer by layer.",
    epilog=options.show_examples(
        "varprobe predict models.py:build --input 32,3,224,224",
        "varprobe predict models.py:build --init kaiming_normal --plot depth.png",
        "varprobe predict models.py:build_large --meta --input 4,2048,8192",
    ),
)
@options.target
@options.inputs
@options.init
@click.option(
    "--meta",
    is_flag=True,
    help="Build the model on the meta device, where it takes no memory; TARGET is a function then, "
    "and inputs are independent standard normals.",
)
@click.option(
    "--draws",
    type=click.IntRange(min=0),
    default=16,
    show_default=True,
    help="Samples of the weights for what no rule of theory reaches; 0 leaves it unknown.",
)
@options.seed
@options.output_format
@options.html
@options.plot
def command(
    target: str,
    inputs: tuple[InputSpec, ...],
    init: str | None,
    meta: bool,
    draws: int,
    seed: int,
    output_format: str,
    html: Path | None,
    plot: Path | None,
) -> None:
    """Predict a model: second moments of activations and gradients, with their error bars.

    Ends with how many tensors are predicted exactly, approximately or not at all, and lists the
    operations for which there is no rule. Exits with 0 whatever the numbers are: nothing is judged.
    """
    import varprobe as vp
    from varprobe.theory import predict_silently

    with stdout_for_results():
        subject = load_subject(target, inputs, seed=seed, meta=meta)
        prediction = predict_silently(
            subject.model, subject.inputs, init=init, loss=subject.loss, draws=draws, seed=seed
        )
    write_result(prediction, output_format)
    if html is not None:
        write_file(html, prediction.to_html)
    if plot is not None:
        write_file(plot, vp.plot_depth(None, prediction).save)
