"""``varprobe phase``: where signals vanish and explode, by the variances of weights and biases."""

from __future__ import annotations

from pathlib import Path

import click

from varprobe.cli import options
from varprobe.cli.output import write_file, write_result


def parse_variances(text: str) -> tuple[float, ...]:
    """Return the numbers of ``1.3,1.76``.

    Raises
    ------
    click.BadParameter
        If they are none.
    """
    try:
        return tuple(float(number) for number in text.split(","))
    except ValueError:
        raise click.BadParameter(
            f"{text!r} is not a list of numbers between commas, for example 1.3,1.76."
        ) from None


@click.command(
    "phase",
    short_help="Map where signals vanish and explode.",
    epilog=options.show_examples(
        "varprobe phase tanh",
        "varprobe phase tanh --sigma-w2 1.3,1.76,2.5 --sigma-b2 0.05",
        "varprobe phase 'leaky_relu(negative_slope=0.2)' --plot phase.png",
    ),
)
@click.argument("activation")
@click.option(
    "--sigma-w2",
    type=parse_variances,
    metavar="NUMBERS",
    help="Variances of a weight times the fan-in, between commas; by default up to 30, beyond the "
    "edge of chaos.",
)
@click.option(
    "--sigma-b2",
    type=parse_variances,
    metavar="NUMBERS",
    help="Variances of a bias, between commas; by default 15 from 0 to 0.5.",
)
@options.output_format
@options.html
@options.plot
def command(
    activation: str,
    sigma_w2: tuple[float, ...] | None,
    sigma_b2: tuple[float, ...] | None,
    output_format: str,
    html: Path | None,
    plot: Path | None,
) -> None:
    """Map the phases of wide random networks with ACTIVATION, as tanh or 'elu(alpha=0.5)'.

    Tells for each variance of weights and biases whether gradients vanish (ordered) or explode
    (chaotic), the limits q* of the second moment and c* of the correlation of two inputs, and the
    layers (xi) in which they are reached; between the phases lies the edge of chaos. No model is
    needed: a network's sigma_w2 is fan_in × variance of its weights.
    """
    import varprobe as vp

    biases = {} if sigma_b2 is None else {"sigma_b2": sigma_b2}
    diagram = vp.map_phases(activation, sigma_w2=sigma_w2, **biases)
    display = None if plot is None else vp.PhaseDisplay.from_diagram(diagram)
    write_result(diagram, output_format)
    if html is not None:
        write_file(html, diagram.to_html)
    if plot is not None and display is not None:
        write_file(plot, display.save)
