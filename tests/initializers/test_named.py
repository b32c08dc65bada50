from __future__ import annotations

import math

import pytest
import torch
from hypothesis import assume, given, settings, strategies as st
from torch import nn

from tests.initializers.layers import (
    BUILT_IN,
    MANY_STANDARD_ERRORS,
    WITH_INPUTS,
    linears,
    standard_errors,
    weighted_layers,
)
from tests.reference.fans import count_fans
from varprobe.errors import DuplicateNameError
from varprobe.initializers.application import initialize, law_of
from varprobe.initializers.laws import WeightLaw
from varprobe.initializers.named import INITIALIZATIONS, initialization

NAMES = (
    "kaiming_normal",
    "kaiming_uniform",
    "xavier_normal",
    "xavier_uniform",
    "lecun_normal",
    "lecun_uniform",
    "normal(std=0.02)",
    "trunc_normal(std=0.02)",
)


def expect(name: str, fan_in: int, fan_out: int, mode: str) -> float:
    """Return the variance as the papers have it, from counted fans."""
    if name.startswith("kaiming"):
        return 2 / (fan_in if mode == "fan_in" else fan_out)
    if name.startswith("xavier"):
        return 2 / (fan_in + fan_out)
    if name.startswith("lecun"):
        return 1 / fan_in
    return 0.02**2 * (0.7737413035499232 if name.startswith("trunc") else 1)


@given(weighted_layers, st.sampled_from(NAMES), st.sampled_from(["fan_in", "fan_out"]))
@settings(max_examples=150)
def test_every_law_is_that_of_the_paper_and_is_what_is_drawn(layer, name, mode) -> None:
    assume(layer.weight.numel() >= 100)
    law = law_of(name, layer, mode=mode)
    assert law is not None
    assert law.variance == pytest.approx(expect(name, *count_fans(layer), mode), rel=1e-12)
    initialize(layer, name, mode=mode, seed=0)
    assert standard_errors(layer.weight, law) < MANY_STANDARD_ERRORS


@given(weighted_layers, st.floats(0.5, 2.0))
def test_the_second_moment_of_an_orthogonal_weight_is_exact(layer, gain) -> None:
    law = law_of("orthogonal", layer, gain=gain)
    assert law is not None
    initialize(layer, "orthogonal", gain=gain)
    # Every one of the shorter side's vectors has the norm `gain`, to float32 rounding of QR.
    assert layer.weight.square().mean().item() == pytest.approx(law.variance, rel=1e-4)


@given(linears(), st.sampled_from(["kaiming", "xavier"]), st.sampled_from(["normal", "uniform"]))
@settings(max_examples=30)
def test_a_linear_gets_the_numbers_that_torch_draws(layer, law, form) -> None:
    """Where torch.nn.init is right, both agree to the rounding of a standard deviation."""
    initialize(layer, f"{law}_{form}", seed=7)
    expected = torch.empty_like(layer.weight)
    torch.manual_seed(7)
    torchs = getattr(nn.init, f"{law}_{form}_")
    torchs(expected, **({"nonlinearity": "relu"} if law == "kaiming" else {}))
    assert torch.allclose(layer.weight, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("transposed", [False, True])
def test_groups_and_transposition_where_torch_is_wrong(transposed) -> None:
    kind = nn.ConvTranspose2d if transposed else nn.Conv2d
    law = law_of("kaiming_normal", kind(64, 16, 3, groups=8, device="meta"))
    assert law == WeightLaw.normal(pytest.approx(2 / (64 // 8 * 9)))
    backward = law_of("kaiming_normal", kind(64, 16, 3, groups=8, device="meta"), mode="fan_out")
    assert backward == WeightLaw.normal(pytest.approx(2 / (16 // 8 * 9)))


@pytest.mark.parametrize("name", ["kaiming_normal", "kaiming_uniform"])
@pytest.mark.parametrize(
    ("nonlinearity", "gain_squared"),
    [("relu", 2), ("linear", 1), ("tanh", 25 / 9), ("selu", 9 / 16), ("leaky_relu", 2 / 1.04)],
)
def test_kaiming_reads_the_nonlinearity(name, nonlinearity, gain_squared) -> None:
    law = law_of(name, nn.Linear(10, 5), nonlinearity=nonlinearity, negative_slope=0.2)
    assert law is not None
    assert law.variance == pytest.approx(gain_squared / 10)


def test_a_gain_takes_the_place_of_the_nonlinearity() -> None:
    layer = nn.Linear(10, 30)
    for name, variance in (("kaiming_normal", 0.9), ("xavier_uniform", 0.45), ("orthogonal", 0.3)):
        law = law_of(name, layer, gain=3.0)
        assert law is not None
        assert law.variance == pytest.approx(variance)


def test_only_kaiming_reads_nonlinearity_and_mode() -> None:
    for name in {*BUILT_IN} - {"kaiming_normal", "kaiming_uniform", "normal", "trunc_normal"}:
        options = {"value": 0.5} if name == "constant" else {}
        layer = nn.Linear(10, 30)
        assert law_of(name, layer, nonlinearity="tanh", mode="fan_out", **options) == law_of(
            name, layer, **options
        )


def test_he_2015_stds_in_drawn_weights() -> None:
    for width, std in ((64, 0.0589), (128, 0.0417), (256, 0.0295), (512, 0.0208)):
        conv = initialize(nn.Conv2d(width, 512, 3), "kaiming_normal", seed=0)
        # Four standard errors of a standard deviation, and half a unit of the printed digit.
        error = 4 * std / math.sqrt(2 * conv.weight.numel())
        assert abs(conv.weight.std().item() - std) < error + 0.5e-4


def test_kaiming_keeps_the_scale_of_a_relu_net_and_xavier_halves_it() -> None:
    depth, width = 10, 256
    for name, factor in (("kaiming_normal", 1.0), ("xavier_normal", 0.5)):
        model = nn.Sequential(
            *[m for _ in range(depth) for m in (nn.Linear(width, width), nn.ReLU())]
        )
        log_ratios = []
        for seed in range(8):
            initialize(model, name, seed=seed)
            x = torch.randn(64, width)
            ratio = model(x).detach().square().mean() / (x.square().mean() / 2)
            log_ratios.append(math.log(ratio) - (depth - 1) * math.log(factor))
        # One draw scatters by at most s = sqrt(5 depth / width) = 0.44 about -s²/2 = -0.10
        # (kaiming; the first layer of xavier is one more factor 1/2).
        first = 0.0 if name == "kaiming_normal" else math.log(0.5)
        assert abs(sum(log_ratios) / 8 - first + 0.10) < 4 * 0.44 / math.sqrt(8)


def test_the_table_holds_every_name_of_the_design() -> None:
    assert set(INITIALIZATIONS) == {*BUILT_IN, *WITH_INPUTS}


def test_a_taken_name_is_refused_and_can_be_overwritten() -> None:
    kept = INITIALIZATIONS["lecun_normal"]
    with pytest.raises(
        DuplicateNameError,
        match=r"^The initialization 'lecun_normal' is registered already\. "
        r"Choose another name, or pass overwrite=True to replace it\.$",
    ):
        initialization("lecun_normal")(lambda module: None)
    assert INITIALIZATIONS["lecun_normal"] is kept
    initialization("lecun_normal", overwrite=True)(lambda module: None)
    assert INITIALIZATIONS["lecun_normal"] is not kept


def test_the_decorator_gives_back_the_function() -> None:
    @initialization("twos")
    def twos(module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            module.weight.fill_(2.0)

    assert initialize(nn.Sequential(nn.Linear(1, 1)), "twos")[0].weight.item() == 2.0
    layer = nn.Linear(1, 1)
    with torch.no_grad():
        twos(layer)
    assert layer.weight.item() == 2.0
