"""``varprobe profile``: measure one model, layer by layer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from varprobe.cli import options
from varprobe.cli.output import show_progress, stdout_for_results, write_file, write_result
from varprobe.cli.subjects import load_subject

if TYPE_CHECKING:
    from varprobe.cli.inputs import InputSpec


@click.command(
    "profile",
    short_help="Measure a model, layer by layer.",
    epilog=options.show_examples(
        "varprobe profile models.py:build --input 32,3,224,224",
        "varprobe profile models.py:build --init kaiming_normal --draws 8 --plot depth.png",
        "varprobe profile models.py:build --save recording.json --html report.html",
    ),
)
@options.target
@options.inputs
@options.init
@options.draws(default=1)
@options.seed
@options.include
@options.exclude
@click.option(
    "--predict/--no-predict",
    default=True,
    show_default=True,
    help="Put beside each number what theory predicts.",
)
@options.output_format
@options.html
@options.plot
@click.option("--save", type=options.FILE, help="Also keep the recording, for Recording.load.")
def command(
    target: str,
    inputs: tuple[InputSpec, ...],
    init: str | None,
    draws: int,
    seed: int,
    include: tuple[str, ...],
    exclude: tuple[str, ...],
    predict: bool,
    output_format: str,
    html: Path | None,
    plot: Path | None,
    save: Path | None,
) -> None:
    """Measure a model: second moments of activations and gradients, beside their prediction."""
    import varprobe as vp
    from varprobe.theory import predict_silently

    with stdout_for_results(), show_progress(draws) as advance:
        subject = load_subject(target, inputs, seed=seed)
        recording = vp.profile(
            subject.model,
            subject.inputs,
            init=init,
            draws=draws,
            seed=seed,
            loss=subject.loss,
            include=include or None,
            exclude=exclude,
            progress=lambda draw: advance(f"draw {draw}"),
        )
        prediction = None
        if predict:
            prediction = predict_silently(
                subject.model, subject.inputs, init=init, loss=subject.loss
            )
        analysis = vp.analyze(recording, prediction)
    write_result(analysis, output_format)
    if save is not None:
        write_file(save, recording.save)
    if html is not None:
        write_file(html, analysis.to_html)
    if plot is not None:
        write_file(plot, vp.plot_depth(analysis).save)
