"""Draw the figures of README.md.

    python docs/figures.py

The same versions of torch and matplotlib give the same bytes.
"""

from pathlib import Path

import torch
from torch import nn

import varprobe as vp

IMAGES = Path(__file__).parent / "images"

model = nn.Sequential(*[layer for _ in range(30) for layer in (nn.Linear(256, 256), nn.ReLU())])
inputs = torch.randn(64, 256, generator=torch.Generator().manual_seed(0))

# Twelve draws: enough for a band of quantiles in place of the two extremes.
comparison = vp.compare(model, inputs, draws=12)
vp.plot_compare(comparison).save(IMAGES / "initializations.png")

kaiming = comparison.analyses["kaiming_normal"]
vp.plot_depth(kaiming.recording, kaiming.prediction).save(IMAGES / "depth.png")
