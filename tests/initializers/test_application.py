from __future__ import annotations

import warnings

import pytest
import torch
from hypothesis import given, strategies as st
from torch import nn

from tests.initializers.layers import BUILT_IN, weighted_layers
from varprobe.errors import (
    InvalidArgumentError,
    UnknownNameError,
    UnsupportedModelError,
    VarprobeWarning,
)
from varprobe.initializers.application import initialize, law_of
from varprobe.initializers.laws import WeightLaw

OPTIONS = {"normal": {"std": 0.1}, "trunc_normal": {"std": 0.1}, "constant": {"value": 0.1}}


class Tied(nn.Module):
    """An embedding and the layer that reads with the same weight."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(30, 8, padding_idx=0)
        self.mix = nn.Linear(8, 8)
        self.read = nn.Linear(8, 30)
        self.read.weight = self.tokens.weight


@given(weighted_layers, st.sampled_from(BUILT_IN), st.integers(0, 2**40))
def test_a_draw_is_the_seeds_and_changes_nothing_but_numbers(layer, name, seed) -> None:
    layer.weight.requires_grad_(False)
    weight, shape = layer.weight, layer.weight.shape
    before = torch.get_rng_state()
    assert initialize(layer, name, seed=seed, **OPTIONS.get(name, {})) is layer
    first = layer.weight.clone()
    initialize(layer, name, seed=seed, **OPTIONS.get(name, {}))
    assert torch.equal(layer.weight, first)
    assert torch.equal(torch.get_rng_state(), before)
    assert layer.weight is weight
    assert (weight.shape, weight.dtype, weight.requires_grad) == (shape, torch.float32, False)
    assert layer.bias is None or layer.bias.requires_grad


def test_without_a_seed_the_numbers_come_from_the_global_generator() -> None:
    first, second = nn.Linear(4, 4), nn.Linear(4, 4)
    for layer in (first, second):
        torch.manual_seed(11)
        initialize(layer, "kaiming_normal")
    assert torch.equal(first.weight, second.weight)
    initialize(second, "kaiming_normal")
    assert not torch.equal(first.weight, second.weight)


@pytest.mark.parametrize("name", sorted({*BUILT_IN} - {"default"}))
def test_biases_become_zero_or_what_is_asked_or_stay(name) -> None:
    layer = nn.Linear(5, 3)
    own = layer.bias.clone()
    options = OPTIONS.get(name, {})
    initialize(layer, name, bias=None, **options)
    assert torch.equal(layer.bias, own)
    assert law_of(name, layer, "bias", bias=None, **options) is None
    initialize(layer, name, **options)
    assert layer.bias.tolist() == [0.0] * 3
    assert law_of(name, layer, "bias", **options) == WeightLaw.constant(0.0)
    initialize(layer, name, bias=0.5, **options)
    assert layer.bias.tolist() == [0.5] * 3
    assert law_of(name, layer, "bias", bias=0.5, **options) == WeightLaw.constant(0.5)


def test_norms_and_embeddings_stay_unless_asked() -> None:
    model = nn.Sequential(
        nn.Embedding(9, 4, padding_idx=3),
        nn.LayerNorm(4),
        nn.RMSNorm(4),
        nn.GroupNorm(2, 4),
        nn.BatchNorm1d(4),
        nn.InstanceNorm1d(4, affine=True),
        nn.Linear(4, 4),
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(7.0)
        model[4].running_mean.fill_(5.0)
    initialize(model, "normal(std=0.1)")
    assert all((p == 7).all() for module in model[:6] for p in module.parameters())
    assert law_of("normal", model[0], std=0.1) is None
    assert law_of("normal", model[1], std=0.1) is None

    initialize(model, "normal(std=0.1)", norms=True, embeddings=True)
    for norm in model[1:6]:
        assert (norm.weight == 1).all()
        assert getattr(norm, "bias", None) is None or (norm.bias == 0).all()
    assert model[4].running_mean.tolist() == [5.0] * 4
    assert model[0].weight[3].tolist() == [0.0] * 4
    assert 0 < model[0].weight.abs().max() < 1
    assert law_of("normal", model[0], std=0.1, embeddings=True) == WeightLaw.normal(0.1**2)
    assert law_of("normal", model[1], std=0.1, norms=True) == WeightLaw.constant(1.0)
    assert law_of("normal", model[1], "bias", std=0.1, norms=True) == WeightLaw.constant(0.0)


def test_an_embedding_is_a_linear_layer_with_one_active_input() -> None:
    embedding = nn.Embedding(50, 8)
    assert law_of("lecun_normal", embedding, embeddings=True) == WeightLaw.normal(1.0)
    assert law_of("orthogonal", embedding, embeddings=True) == WeightLaw.orthogonal(50)


def test_a_layer_that_shares_its_weight_with_an_embedding_stays_with_it() -> None:
    model = Tied()
    before = model.tokens.weight.clone()
    initialize(model, "kaiming_normal")
    assert torch.equal(model.tokens.weight, before)
    assert model.read.bias.tolist() == [0.0] * 30
    initialize(model, "constant", value=0.25, embeddings=True)
    assert model.read.weight is model.tokens.weight
    assert model.read.weight[1:].unique().tolist() == [0.25]
    assert model.read.weight[0].unique().tolist() == [0.0]


def test_a_shared_weight_is_drawn_once_for_its_first_layer() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Conv1d(8, 8, 1), nn.Linear(8, 8))
    model[2].weight = model[0].weight
    initialize(model, "lecun_normal", seed=3)
    twin = initialize(nn.Sequential(nn.Linear(8, 8), nn.Conv1d(8, 8, 1)), "lecun_normal", seed=3)
    assert torch.equal(model[2].weight, twin[0].weight)
    assert torch.equal(model[1].weight, twin[1].weight)


def test_weights_without_a_law_are_named_in_a_warning() -> None:
    model = nn.Sequential(nn.LSTM(3, 2), nn.Linear(2, 2))
    with pytest.warns(VarprobeWarning) as caught:
        initialize(model, "kaiming_normal")
    assert str(caught[0].message) == (
        "Left as they are, for want of a law: 0.weight_ih_l0, 0.weight_hh_l0. Set them yourself, "
        "or pass a callable(module) that does."
    )
    assert caught[0].filename == __file__


def test_tokens_positions_and_scales_are_no_weights_to_warn_of() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.PReLU(), nn.Embedding(3, 4))
    model.positions = nn.Parameter(torch.zeros(1, 5, 4))
    model.scale = nn.Parameter(torch.ones(4))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        initialize(model, "kaiming_normal")
    assert law_of("kaiming_normal", model[1]) is None


def test_names_are_those_without_wrapper_segments() -> None:
    model = nn.DataParallel(nn.Sequential(nn.Linear(2, 2, dtype=torch.complex64)))
    with pytest.raises(UnsupportedModelError, match=r"^0\.weight has dtype"):
        initialize(model, "kaiming_normal")
    model = nn.DataParallel(nn.Sequential(nn.LazyLinear(2)))
    with pytest.raises(UnsupportedModelError, match=r"^0\.weight belongs to a lazy module"):
        initialize(model, "kaiming_normal")


def test_a_model_on_meta_has_nothing_to_draw() -> None:
    model = nn.Sequential(nn.Linear(4, 4, device="meta"), nn.Conv2d(4, 4, 1, device="meta"))
    for name in BUILT_IN:
        initialize(model, name, seed=0, **OPTIONS.get(name, {}))
    assert all(parameter.is_meta for parameter in model.parameters())
    assert law_of("orthogonal", model[0]) == WeightLaw.orthogonal(4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_the_dtype_stays(dtype) -> None:
    layer = initialize(nn.Linear(64, 64, dtype=dtype), "kaiming_normal", seed=0)
    assert layer.weight.dtype == layer.bias.dtype == dtype
    if dtype.itemsize == 2:
        twin = initialize(nn.Linear(64, 64), "kaiming_normal", seed=0)
        assert torch.equal(layer.weight, twin.weight.to(dtype))


def test_options_may_stand_in_the_name() -> None:
    layer = nn.Linear(10, 30)
    assert law_of("normal(std=0.2, mean=1)", layer) == WeightLaw.normal(0.2**2, 1)
    assert law_of(" kaiming_normal (mode='fan_out', nonlinearity='linear')".strip(), layer) == (
        WeightLaw.normal(1 / 30)
    )
    assert law_of("lecun_normal()", layer) == law_of("lecun_normal", layer)
    assert law_of("lecun_normal(bias=None)", layer, "bias") is None


@pytest.mark.parametrize(
    "name", ["normal(0.2)", "normal(std=", "normal(std=layer)", "normal(**{})", "normal(std=1)x"]
)
def test_a_name_that_cannot_be_read(name) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        initialize(nn.Linear(2, 2), name)
    assert str(caught.value) == (
        f"Cannot read the initialization {name!r}. "
        "Options stand in it as keywords, for example 'normal(std=0.02)'."
    )


def test_an_unknown_name_lists_the_names_and_suggests() -> None:
    with pytest.raises(UnknownNameError) as caught:
        initialize(nn.Linear(2, 2), "kaiming_norml")
    assert str(caught.value) == (
        "There is no initialization named 'kaiming_norml'. Did you mean 'kaiming_normal'? Known: "
        "constant, default, kaiming_normal, kaiming_uniform, lecun_normal, lecun_uniform, lsuv, "
        "normal, orthogonal, trunc_normal, xavier_normal, xavier_uniform."
    )


def test_an_unknown_mode_nonlinearity_or_parameter() -> None:
    layer = nn.Linear(2, 2, bias=False)
    with pytest.raises(UnknownNameError) as caught:
        initialize(layer, "kaiming_normal", mode="fan_avg")
    assert str(caught.value) == (
        "There is no mode named 'fan_avg'. Did you mean 'fan_in'? Known: fan_in, fan_out."
    )
    with pytest.raises(UnknownNameError) as caught:
        initialize(layer, "kaiming_normal", nonlinearity="gelu")
    assert str(caught.value) == (
        "There is no nonlinearity named 'gelu'. Did you mean 'selu'? Known: conv1d, conv2d, "
        "conv3d, conv_transpose1d, conv_transpose2d, conv_transpose3d, leaky_relu, linear, relu, "
        "selu, sigmoid, tanh. For any other activation φ pass gain=, 1/sqrt(E φ(z)²) for z ~ "
        "N(0, 1)."
    )
    with pytest.raises(UnknownNameError) as caught:
        law_of("kaiming_normal", layer, "bias")
    assert str(caught.value) == "There is no parameter of Linear named 'bias'. Known: weight."


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("normal", {}, "normal: missing a required argument: 'std'; its options: std, mean."),
        ("constant", {}, "constant: missing a required argument: 'value'; its options: value."),
        (
            "lecun_normal",
            {"gain": 2.0},
            "lecun_normal: got an unexpected keyword argument 'gain'; its options: nothing.",
        ),
        ("default", {"std": 1.0}, "default takes no options, got std."),
    ],
)
def test_missing_and_unknown_options(name, options, message) -> None:
    model = nn.Sequential()  # nothing to draw: the options are checked all the same
    with pytest.raises(InvalidArgumentError) as caught:
        initialize(model, name, **options)
    assert str(caught.value) == message


@pytest.mark.parametrize("name", ["normal", "trunc_normal"])
@pytest.mark.parametrize("std", [-0.1, float("nan")])
def test_a_standard_deviation_below_zero(name, std) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        initialize(nn.Linear(2, 2), name, std=std)
    assert str(caught.value) == f"A standard deviation is at least 0, got std={std}."
