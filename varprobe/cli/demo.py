"""``varprobe demo``: He's experiment, on a photograph, in about a minute."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from varprobe.cli import options
from varprobe.cli.compare import INITS
from varprobe.cli.output import show_progress, write_file, write_result

if TYPE_CHECKING:
    import torch
    from torch import nn

DEPTH = 30
"""The depth at which He et al. (2015, figure 3) saw Xavier's initialization stall."""

WIDTH = 48
"""Channels: few, so that a dozen draws take seconds. The price is scatter: the log second moment of
one draw has a standard deviation of 1.5 at the last layer, which is why there are several."""

CROP = 24
"""Side of a crop, in pixels; a prediction follows all pairs of them. The zeros around a crop eat
into the second moment from the border, about 2 % a layer: the prediction knows."""

CROPS = 8
"""Crops in the batch."""


@click.command(
    "demo",
    short_help="Compare three initializations on a photograph.",
    epilog=options.show_examples(
        "varprobe demo",
        "varprobe demo --out /tmp/demo --draws 8",
    ),
)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("varprobe-demo"),
    show_default=True,
    help="Folder for the figure and the page.",
)
@options.draws(default=4)
@options.seed
def command(out: Path, draws: int, seed: int) -> None:
    """Compare three initializations of a deep ReLU net on a photograph.

    The experiment of He et al. (2015, figure 3): 30 convolutions with ReLU, under torch's default,
    Xavier's and He's initialization. Prints the second moment of each layer beside the prediction,
    and what is wrong; writes a figure and a page. Exits with 0: the findings are the point.

    """
    import varprobe as vp

    net = build_net()
    click.echo(
        f"{DEPTH} × (3×3 convolution of {WIDTH} channels, ReLU) on {CROPS} crops of a photograph."
    )
    with show_progress(draws * len(INITS)) as advance:
        comparison = vp.compare(
            net,
            load_crops(seed),
            inits=INITS,
            draws=draws,
            seed=seed,
            progress=lambda name, draw: advance(f"{name}, draw {draw}"),
        )
    write_result(comparison, "text")
    click.echo()
    write_file(out / "comparison.png", vp.plot_compare(comparison).save, err=False)
    write_file(out / "comparison.html", comparison.to_html, err=False)


def build_net() -> nn.Sequential:
    """Return the net: convolutions named conv1 … conv30, each with a ReLU behind it."""
    from collections import OrderedDict

    from torch import nn

    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for number in range(1, DEPTH + 1):
        channels = 3 if number == 1 else WIDTH
        layers[f"conv{number}"] = nn.Conv2d(channels, WIDTH, 3, padding=1)
        layers[f"relu{number}"] = nn.ReLU()
    return nn.Sequential(layers)


def load_crops(seed: int) -> torch.Tensor:
    """Return crops of the photograph that comes with matplotlib, of shape (8, 3, 24, 24).

    Each colour channel of the photograph has mean 0 and second moment 1.
    """
    import numpy as np
    import torch
    from matplotlib import get_data_path
    from matplotlib.image import imread

    path = Path(get_data_path(), "sample_data", "grace_hopper.jpg")
    photograph = imread(path).astype(np.float32)
    photograph -= photograph.mean(axis=(0, 1))
    photograph /= photograph.std(axis=(0, 1))
    places = np.random.default_rng(seed).integers(
        0, [[side - CROP] for side in photograph.shape[:2]], size=(2, CROPS)
    )
    crops = [photograph[y : y + CROP, x : x + CROP] for y, x in places.T]
    return torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2).contiguous()
