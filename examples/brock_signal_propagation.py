"""Draw Brock's signal propagation plot of a ResNet with and without BatchNorm, and its prediction.

Brock, De and Smith 2021 (arXiv 2101.08692) plot three numbers behind each residual block: the
average squared mean of the channels, their average variance, and that of the residual branch. With
BatchNorm each branch adds as much, and a transition starts anew; without, each block nearly doubles
the signal.
"""

import sys
from functools import partial

import torch
from matplotlib.figure import Figure
from torch import nn

import varprobe as vp

STAGES, BLOCKS, WIDTH = 2, 4, 64
NUMBERS = ("squared channel mean", "channel variance", "channel variance of the branch")


class Block(nn.Module):
    """A pre-activation block; in a transition the shortcut goes through a convolution."""

    def __init__(self, *, norm: bool, transition: bool) -> None:
        super().__init__()
        before, between = (nn.BatchNorm2d(WIDTH) if norm else nn.Identity() for _ in range(2))
        convs = [nn.Conv2d(WIDTH, WIDTH, 3, padding=1, bias=False) for _ in range(2)]
        self.before = nn.Sequential(before, nn.ReLU())
        self.branch = nn.Sequential(convs[0], between, nn.ReLU(), convs[1])
        self.shortcut = nn.Conv2d(WIDTH, WIDTH, 1, bias=False) if transition else None
        # What a module returns is recorded, and predicted: so are these three numbers.
        self.numbers = nn.ModuleList(nn.Identity() for _ in NUMBERS)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the sum of shortcut and branch."""
        inner = self.before(x)
        branch = self.branch(inner)
        x = branch + (x if self.shortcut is None else self.shortcut(inner))
        means = x.mean((0, 2, 3), keepdim=True)
        seen = means, x - means, branch - branch.mean((0, 2, 3), keepdim=True)
        for number, tensor in zip(self.numbers, seen, strict=True):
            number(tensor)
        return x


def build(norm: bool) -> nn.Module:
    """Return a stem and stages of blocks; the second begins with a transition."""
    starts = range(BLOCKS, STAGES * BLOCKS, BLOCKS)
    blocks = (Block(norm=norm, transition=n in starts) for n in range(STAGES * BLOCKS))
    return nn.Sequential(nn.Conv2d(3, WIDTH, 3, padding=1, bias=False), *blocks)


images = torch.randn(8, 3, 12, 12, generator=torch.Generator().manual_seed(0))
init, analyses = "kaiming_normal", {}
for label, norm in (("no norm", False), ("BatchNorm", True)):
    recording = vp.profile(partial(build, norm), images, init=init, draws=8, loss=False)
    prediction = vp.predict(build(norm), images, init=init, loss=False)
    analyses[label] = vp.analyze(recording, prediction)

figure = Figure(figsize=(15, 4.3), layout="constrained")
for index, (title, axes) in enumerate(zip(NUMBERS, figure.subplots(1, 3), strict=True)):
    places = [f"{block}.numbers.{index}" for block in range(1, STAGES * BLOCKS + 1)]
    display = vp.plot_compare(analyses, signals=["activation"], modules=places, axes=axes)
    axes.set(title=title, xlabel="block", ylabel="in a²")
    axes.set_xticks(range(len(places)), range(1, len(places) + 1), rotation=0, ha="center")
    for curve in display.curves:
        print(f"{title}, {curve.label}: measured / predicted, behind each block")
        pairs = zip(curve.measured, curve.expected, strict=True)
        print("  ", *(f"{measured:.3g}/{predicted:.3g} " for measured, predicted in pairs))

path = sys.argv[1] if len(sys.argv) > 1 else "signal_propagation.png"
figure.savefig(path, dpi=160)
print(f"\nsignal propagation plot: {path}")
