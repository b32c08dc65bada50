"""Deep convolutional nets by rules alone, against Monte-Carlo."""

from functools import partial
from statistics import median

import pytest
import torch
from nets import build_post_activation, build_preactivation, build_vgg
from torch import nn

from tests.reference.module_moments import compare

RESNET_18, RESNET_50 = (2, 2, 2, 2), (3, 4, 6, 3)


def build_vgg_out_of_place(*, norm):
    # The reference keeps the tensors themselves.
    model = build_vgg(32, norm=norm)
    for module in model.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False
    return model


def images(size):
    return partial(torch.randn, 8, 3, size, size)


# name: net, input, initialization, draws. What no norm holds scatters, and wants more of them.
NETS = {
    "vgg": (partial(build_vgg_out_of_place, norm=False), images(32), "default", 192),
    "vgg with batch norm": (partial(build_vgg_out_of_place, norm=True), images(32), "default", 64),
    "pre-activation, 128 wide": (
        partial(build_preactivation, (6,), 128, norm=False), images(8), "kaiming_normal", 128,
    ),
    "pre-activation with batch norm": (
        partial(build_preactivation, (6,), 32, norm=True), images(16), "default", 64,
    ),
    "resnet 18": (
        partial(build_post_activation, RESNET_18, 32, bottleneck=False, norm=False),
        images(64), "kaiming_normal", 128,
    ),
    "resnet 18 with batch norm": (
        partial(build_post_activation, RESNET_18, 32, bottleneck=False, norm=True),
        images(64), "default", 48,
    ),
    "resnet 50": (
        partial(build_post_activation, RESNET_50, 32, bottleneck=True, norm=False),
        images(64), "kaiming_normal", 64,
    ),
    "resnet 50 with batch norm": (
        partial(build_post_activation, RESNET_50, 32, bottleneck=True, norm=True),
        images(64), "default", 48,
    ),
}  # fmt: skip

# signal: median error and largest error, beside the noise of Monte-Carlo.
ALLOWED = {"activation": (0.02, 0.1), "gradient": (0.04, 0.2), "weight_gradient": (0.05, 0.25)}


@pytest.mark.slow
@pytest.mark.parametrize("name", NETS)
def test_nets_agree_to_a_few_percent(name):
    build, draw, init, draws = NETS[name]
    rows = list(compare(build, draw, init, draws))
    for signal, (typical, largest) in ALLOWED.items():
        errors = [abs(error) for s, error, _ in rows if s == signal]
        noise = [n for s, _, n in rows if s == signal]
        assert median(errors) < typical + median(noise), signal
        over = [e - 4 * n for e, n in zip(errors, noise, strict=True)]
        assert max(over) < largest, signal
