"""Choose an initialization: three of them through 30 layers of ReLU, several draws each.

He's keeps the second moment of activations and gradients at its place; Xavier's loses half of it in
every layer, and torch's default five sixths, until its biases are all that is left.
"""

import sys

import torch
from torch import nn

import varprobe as vp


def build_mlp() -> nn.Module:
    """Return 30 layers of width 128."""
    layers = [layer for _ in range(30) for layer in (nn.Linear(128, 128), nn.ReLU())]
    return nn.Sequential(*layers)


batch = torch.randn(64, 128, generator=torch.Generator().manual_seed(0))
comparison = vp.compare(build_mlp, batch, inits=["default", "xavier_normal", "kaiming_normal"])

# The geometric mean over the draws of E[x²] at the last layer, and of E[g²] at the first.
print("                 E[x²], layer 30     E[g²], layer 1")
for init, analysis in comparison.analyses.items():
    forward = analysis.select_weighted(signal="activation")[-1].second_moment
    backward = analysis.select_weighted(signal="gradient")[0].second_moment
    verdict = "healthy" if comparison.diagnoses[init].healthy else "unhealthy"
    print(f"{init:16} {forward:15.1e} {backward:18.1e}     {verdict}")

figure = sys.argv[1] if len(sys.argv) > 1 else "initializations.png"
vp.plot_compare(comparison).save(figure)
print(f"\ncurves over depth, with theory: {figure}")

# What to do about the worst of them.
print(f"\n{comparison.diagnoses['default'].findings[0]}")
