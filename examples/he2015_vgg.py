"""Reproduce what He et al. 2015 say about a VGG-like network, predicted and measured.

"Delving Deep into Rectifiers" (arXiv 1502.01852, section 2.2) follows the gradient from conv10 back
to the input of conv2. With the standard deviation 0.01 that was usual then it shrinks, beside the
paper's own initialization, to "1/(5.9 × 4.2² × 2.9² × 2.1⁴)", which is 1/17,000.
"""

import pandas as pd
import torch
from torch import nn

import varprobe as vp

FILTERS = 64, 64, 128, 128, 256, 256, 512, 512, 512, 512
HE, USUAL = "kaiming_normal(mode='fan_out')", "normal(std=0.01)"


def build_vgg() -> nn.Module:
    """Return conv1 to conv10, a ReLU behind each."""
    model, channels = nn.Sequential(), 3
    for number, filters in enumerate(FILTERS, start=1):
        # The paper's derivation knows no borders, and circular padding has none.
        conv = nn.Conv2d(channels, filters, 3, padding="same", padding_mode="circular")
        model.add_module(f"conv{number}", conv)
        model.add_module(f"relu{number}", nn.ReLU())
        channels = filters
    return model


def follow_gradient(init: str, seed: int) -> "pd.Series[float]":
    """Return how the size of a gradient changes from conv10's output to conv2's input."""
    recording = vp.profile(build_vgg, images, init=init, draws=4, seed=seed)
    prediction = vp.predict(build_vgg, images, init=init)
    frame = vp.analyze(recording, prediction).to_frame().query("signal == 'gradient'")
    moments = frame.groupby("module")[["predicted_second_moment", "second_moment"]].mean().T
    return (moments["relu1"] / moments["conv10"]) ** 0.5


print("filters   He's std   over 0.01")
for filters in sorted(set(FILTERS)):
    law = vp.law_of(HE, nn.Conv2d(filters, filters, 3))
    assert law is not None
    std = law.variance**0.5
    print(f"{filters:7} {std:10.4f} {std / 0.01:11.1f}")

images = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
# Two seeds: the same draws at another scale would agree to the last digit, and show nothing.
shrinkage = follow_gradient(HE, seed=0) / follow_gradient(USUAL, seed=1)
print("\ngradient at conv2's input, 0.01 in place of He's std")
print(f"predicted  1/{shrinkage['predicted_second_moment']:,.0f}")
print(f"measured   1/{shrinkage['second_moment']:,.0f}  (4 draws each)")
