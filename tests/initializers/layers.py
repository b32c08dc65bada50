"""Weighted layers for properties, the names to try on them, and the tolerance of a variance."""

from __future__ import annotations

import math

import torch
from hypothesis import strategies as st
from torch import nn

from varprobe.initializers.laws import WeightLaw

BUILT_IN = (
    "constant",
    "default",
    "kaiming_normal",
    "kaiming_uniform",
    "lecun_normal",
    "lecun_uniform",
    "normal",
    "orthogonal",
    "trunc_normal",
    "xavier_normal",
    "xavier_uniform",
)
"""What needs nothing but the model."""

WITH_INPUTS = ("lsuv",)

CONVOLUTIONS = (
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
)


@st.composite
def linears(draw: st.DrawFn) -> nn.Linear:
    side = st.integers(16, 96)
    return nn.Linear(draw(side), draw(side), bias=draw(st.booleans()))


@st.composite
def convolutions(draw: st.DrawFn) -> nn.Module:
    kind = draw(st.sampled_from(CONVOLUTIONS))
    groups = draw(st.sampled_from([1, 2, 4]))
    channels = st.integers(4, 12).map(lambda n: n * groups)
    # Few channels an axis more: three-dimensional weights are large enough.
    kernel = draw(st.integers(1, 3))
    return kind(draw(channels), draw(channels), kernel, groups=groups, bias=draw(st.booleans()))


weighted_layers = st.one_of(linears(), convolutions())


def standard_errors(values: torch.Tensor, law: WeightLaw) -> float:
    """Return how far the variance of ``values`` about the law's mean is from the law's.

    The mean of N independent squares (w - mean)² has the relative variance (kurtosis - 1) / N.
    """
    numbers = values.detach().double().flatten()
    ratio = (numbers - law.mean).square().mean().item() / law.variance
    return abs(ratio - 1) / math.sqrt((law.kurtosis - 1) / numbers.numel())


# The square of a normal weight is skewed, so that the mean of few of them strays further than a
# normal would: P(chi² of 100 > 100 (1 + 7 sqrt(2 / 100))) = 1.6e-8. Properties ask for N >= 100.
MANY_STANDARD_ERRORS = 7.0
