"""How well `varprobe.predict` agrees with Monte-Carlo, net by net.

    python benchmarks/theory_accuracy.py            # half an hour or so
    python benchmarks/theory_accuracy.py --quick    # ten minutes, with fewer draws

For every net the mean second moments of all module outputs, their gradients and the gradients of
the parameters, over independent draws of the weights, are held against the prediction: relative
error as median / largest. Both sides of a comparison scatter; *noise* is the median standard error
of the Monte-Carlo mean. *Drawn* is the share of the rows that no rule of theory reaches: those are
estimated by `predict` itself from a few draws of its own. *Coverage* is how often single draws fall
into the 95 % error bar, for activations / gradients / weight gradients. The first seven nets are
narrow and drawn often: they are about the bars.
"""

from __future__ import annotations

import argparse
import math
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from statistics import median

import torch
from nets import (
    GPT,
    Llama,
    Recurrent,
    VisionTransformer,
    build_convolutions,
    build_encoder,
    build_mlp,
    build_post_activation,
    build_preactivation,
    build_resnet,
    build_vgg,
)
from torch import nn

import varprobe as vp

SIGNALS = ("activation", "gradient", "weight_gradient")

TINY = 1e-12
"""Share of the largest second moment of a signal below which a row is rounding: the bias in front
of a norm has no gradient."""


@dataclass(frozen=True)
class Case:
    """A net, its inputs, its initialization, and how many draws make the Monte-Carlo.

    What no norm holds is near to log-normal: its mean is known to a few percent after thousands.
    """

    name: str
    build: Callable[[], nn.Module]
    draw_inputs: Callable[[], torch.Tensor]
    draws: int
    init: str | None = "default"


def _tokens(vocabulary: int, *shape: int) -> torch.Tensor:
    return torch.randint(0, vocabulary, shape)


CASES = (
    Case(
        "ReLU MLP 10×64, He, one sample",
        partial(build_mlp, nn.ReLU, 10, 64),
        partial(torch.randn, 1, 64),
        800,
        "kaiming_normal",
    ),
    Case(
        "ReLU MLP 10×64, He",
        partial(build_mlp, nn.ReLU, 10, 64),
        partial(torch.randn, 32, 64),
        800,
        "kaiming_normal",
    ),
    Case(
        "ReLU MLP 20×256, He",
        partial(build_mlp, nn.ReLU, 20, 256),
        partial(torch.randn, 32, 256),
        800,
        "kaiming_normal",
    ),
    Case(
        "tanh MLP 10×64, Xavier",
        partial(build_mlp, nn.Tanh, 10, 64),
        partial(torch.randn, 32, 64),
        800,
        "xavier_normal",
    ),
    Case(
        "GELU MLP 8×128, He",
        partial(build_mlp, nn.GELU, 8, 128),
        partial(torch.randn, 32, 128),
        800,
        "kaiming_normal",
    ),
    Case(
        "8 convolutions of 32, 8 px, He",
        partial(build_convolutions, 8, 32),
        partial(torch.randn, 8, 3, 8, 8),
        800,
        "kaiming_normal",
    ),
    Case(
        "12 convolutions of 16, 8 px, He",
        partial(build_convolutions, 12, 16),
        partial(torch.randn, 4, 3, 8, 8),
        800,
        "kaiming_normal",
    ),
    Case(
        "ReLU MLP 10×256, He",
        partial(build_mlp, nn.ReLU, 10, 256),
        partial(torch.randn, 64, 256),
        512,
        "kaiming_normal",
    ),
    Case(
        "GELU MLP 10×256, LeCun",
        partial(build_mlp, nn.GELU, 10, 256),
        partial(torch.randn, 64, 256),
        128,
        "lecun_normal",
    ),
    Case(
        "tanh MLP 10×256, Xavier",
        partial(build_mlp, nn.Tanh, 10, 256),
        partial(torch.randn, 64, 256),
        128,
        "xavier_normal",
    ),
    Case(
        "VGG, 32 px", partial(build_vgg, 32, norm=False), partial(torch.randn, 8, 3, 32, 32), 2000
    ),
    Case(
        "VGG + BatchNorm, 32 px",
        partial(build_vgg, 32, norm=True),
        partial(torch.randn, 8, 3, 32, 32),
        64,
    ),
    Case(
        "pre-activation ResNet, 32 to 256 wide, 16 px, He",
        partial(build_preactivation, (2, 2, 2, 2), 32, norm=False),
        partial(torch.randn, 4, 3, 16, 16),
        1000,
        "kaiming_normal",
    ),
    Case(
        "pre-activation ResNet, 32 wide, 16 px, He",
        partial(build_preactivation, (6,), 32, norm=False),
        partial(torch.randn, 8, 3, 16, 16),
        2000,
        "kaiming_normal",
    ),
    Case(
        "pre-activation ResNet, 128 wide, 8 px, He",
        partial(build_preactivation, (6,), 128, norm=False),
        partial(torch.randn, 8, 3, 8, 8),
        1000,
        "kaiming_normal",
    ),
    Case(
        "pre-activation ResNet + BatchNorm, 16 px",
        partial(build_preactivation, (6,), 32, norm=True),
        partial(torch.randn, 8, 3, 16, 16),
        64,
    ),
    Case(
        "ResNet-18, 64 px",
        partial(build_resnet, 32),
        partial(torch.randn, 8, 3, 64, 64),
        64,
    ),
    Case(
        "ResNet-18 without norm, He",
        partial(build_post_activation, (2, 2, 2, 2), 64, bottleneck=False, norm=False),
        partial(torch.randn, 8, 3, 64, 64),
        1000,
        "kaiming_normal",
    ),
    Case(
        "ResNet-50, 64 px",
        partial(build_post_activation, (3, 4, 6, 3), 32, bottleneck=True, norm=True),
        partial(torch.randn, 8, 3, 64, 64),
        48,
    ),
    Case(
        "ResNet-50 without norm, He",
        partial(build_post_activation, (3, 4, 6, 3), 64, bottleneck=True, norm=False),
        partial(torch.randn, 8, 3, 64, 64),
        1500,
        "kaiming_normal",
    ),
    Case(
        "ResNet-50 without norm, half as wide, He",
        partial(build_post_activation, (3, 4, 6, 3), 32, bottleneck=True, norm=False),
        partial(torch.randn, 8, 3, 64, 64),
        1500,
        "kaiming_normal",
    ),
    Case(
        "GPT, 4 layers, T=64",
        partial(GPT, 4, 128, 4, 64, 1000),
        partial(_tokens, 1000, 4, 64),
        128,
    ),
    Case(
        "Llama-like, 4 layers, T=64",
        partial(Llama, 4, 128),
        partial(_tokens, 1000, 4, 64),
        128,
        None,
    ),
    Case(
        "ViT, class token 0",
        partial(VisionTransformer, 4, 128),
        partial(torch.randn, 4, 3, 32, 32),
        256,
        None,
    ),
    Case(
        "post-norm encoder", partial(build_encoder, 4, 128), partial(torch.randn, 4, 32, 128), 128
    ),
    Case(
        "LSTM, 20 steps", partial(Recurrent, nn.LSTM, 128), partial(torch.randn, 16, 20, 128), 256
    ),
    Case("GRU, 20 steps", partial(Recurrent, nn.GRU, 128), partial(torch.randn, 16, 20, 128), 256),
)


@dataclass(frozen=True)
class Row:
    """One site: what was predicted of it, and its second moment in each draw."""

    expected: vp.Expectation
    measured: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Mean of the measured second moments."""
        return math.fsum(self.measured) / len(self.measured)

    @property
    def error(self) -> float:
        """Relative error of the prediction."""
        return abs(self.expected.second_moment / self.mean - 1)

    @property
    def noise(self) -> float:
        """Relative standard error of the measured mean."""
        count = len(self.measured)
        spread = math.fsum((x / self.mean - 1) ** 2 for x in self.measured) / (count - 1)
        return math.sqrt(spread / count)

    @property
    def coverage(self) -> float:
        """Share of the draws inside the 95 % error bar."""
        scatter = self.expected.log_std
        centre = math.log(self.expected.second_moment) - scatter**2 / 2
        inside = [abs(math.log(x) - centre) <= 1.96 * scatter for x in self.measured]
        return sum(inside) / len(inside)


def collect(case: Case, draws: int) -> tuple[list[Row], float]:
    """Return all rows that have a size, and the seconds that the prediction took."""
    torch.manual_seed(0)
    inputs = case.draw_inputs()
    begin = time.process_time()
    prediction = vp.predict(case.build, inputs, init=case.init)
    seconds = time.process_time() - begin
    recording = vp.profile(case.build, inputs, init=case.init, draws=draws, seed=1, stats="moments")
    measured: dict[vp.Site, list[float]] = {}
    for record in recording:
        measured.setdefault(record.site, []).append(record.moments.second_moment)
    rows = [Row(e, tuple(measured[e.site])) for e in prediction if e.site in measured]
    largest = {
        signal: max((r.mean for r in rows if r.expected.site.signal == signal), default=0.0)
        for signal in SIGNALS
    }
    kept = [
        row
        for row in rows
        if row.expected.site.signal in SIGNALS
        and row.mean > TINY * largest[row.expected.site.signal]
        and row.expected.site.module != ""  # the root repeats its last child
    ]
    return kept, seconds


def describe(case: Case, rows: list[Row], seconds: float) -> str:
    """Return the line of the table."""
    cells = []
    for signal in SIGNALS:
        chosen = [row for row in rows if row.expected.site.signal == signal]
        errors = [row.error for row in chosen]
        noise = median(row.noise for row in chosen)
        cells.append(f"{median(errors):.1%} / {max(errors):.0%} ({noise:.1%})")
    scattering = [r for r in rows if r.expected.log_std > 0 and min(r.measured) > 0]
    covered = " / ".join(f"{cover(scattering, signal):.3f}" for signal in SIGNALS)
    drawn = sum("draws" in row.expected.reason for row in rows) / len(rows)
    return f"| {case.name} | {' | '.join(cells)} | {covered} | {drawn:.0%} | {seconds:.1f} s |"


def cover(rows: list[Row], signal: str) -> float:
    """Return how often a draw falls into the error bar, on average over the rows of a signal."""
    shares = [row.coverage for row in rows if row.expected.site.signal == signal]
    return sum(shares) / len(shares)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a quarter of the draws")
    parser.add_argument("--only", default="", help="part of a net's name")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    print("| net | activations (noise) | gradients | weight gradients | coverage | drawn | time |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for case in CASES:
        if options.only.lower() in case.name.lower():
            rows, seconds = collect(case, case.draws // 4 if options.quick else case.draws)
            print(describe(case, rows, seconds), flush=True)


if __name__ == "__main__":
    main()
