from __future__ import annotations

import pytest
import torch
from hypothesis import given
from torch import nn

from tests.initializers.layers import MANY_STANDARD_ERRORS, standard_errors, weighted_layers
from varprobe.errors import MissingRuleError, VarprobeWarning
from varprobe.initializers.application import initialize, law_of
from varprobe.initializers.laws import WeightLaw

FLAG = "_is_hf_initialized"


def guarded_normal(tensor: torch.Tensor, std: float) -> None:
    if not getattr(tensor, FLAG, False):
        tensor.data.normal_(0.0, std)


class Pretrained(nn.Module):
    """The protocol of a Hugging Face model, with GPT-2's habit of scaling a child by its name."""

    std = 0.02

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear | nn.Embedding):
            guarded_normal(module.weight, self.std)
            if getattr(module, "bias", None) is not None:
                module.bias.data.zero_()
        for name, parameter in module.named_parameters():
            if name == "down.weight":
                guarded_normal(parameter, self.std / 10)


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.up = nn.Linear(width, width)
        self.down = nn.Linear(width, width)
        self.conv = nn.Conv1d(width, width, 1)  # _init_weights does not know it


class Base(Pretrained):
    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.tokens = nn.Embedding(100, width)
        self.block = Block(width)


class Tower(Base):
    std = 0.5


class LanguageModel(Pretrained):
    """A model over another, with its own scheme, a nested model with another, and tied weights."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.base = Base(width)
        self.tower = Tower(width)
        self.head = nn.Linear(width, 100, bias=False)
        self.ties = 0

    def tie_weights(self) -> None:
        self.head.weight = self.base.tokens.weight
        self.ties += 1


def near(tensor: torch.Tensor, std: float) -> bool:
    return standard_errors(tensor, WeightLaw.normal(std**2)) < MANY_STANDARD_ERRORS


@given(weighted_layers)
def test_the_law_of_a_layer_is_what_its_constructor_drew(layer) -> None:
    for name, parameter in layer.named_parameters():
        law = law_of("default", layer, name)
        assert law is not None
        bound = (3 * law.variance) ** 0.5
        assert parameter.abs().max() <= bound * (1 + 1e-6)
        if parameter.numel() >= 100:
            assert standard_errors(parameter, law) < MANY_STANDARD_ERRORS
            # The largest of N uniform numbers lies (1 - q) below the bound with odds q^N.
            assert parameter.abs().max() > 0.7 * bound


def test_a_transposed_convolution_is_drawn_by_its_fan_out() -> None:
    # torch reads shape[1] as the input side; the weight is stored as (in, out / groups, window).
    layer = nn.ConvTranspose2d(64, 4, 3, device="meta")
    assert law_of("default", layer) == WeightLaw.uniform(1 / (3 * 4 * 9))
    assert law_of("default", layer, "bias") == WeightLaw.uniform(1 / (3 * 4 * 9))


def test_laws_of_other_torch_modules_fit_a_draw() -> None:
    modules = [nn.LSTM(30, 40), nn.GRUCell(30, 40), nn.Embedding(50, 40), nn.EmbeddingBag(50, 40)]
    for module in modules:
        for name, parameter in module.named_parameters():
            law = law_of("default", module, name)
            assert law is not None
            assert standard_errors(parameter, law) < MANY_STANDARD_ERRORS
            assert law.distribution != "measured"


def test_norms_start_at_one_and_zero() -> None:
    for norm in (
        nn.LayerNorm(3),
        nn.BatchNorm2d(3),
        nn.GroupNorm(1, 3),
        nn.InstanceNorm1d(3, affine=True),
    ):
        assert law_of("default", norm) == WeightLaw.constant(1.0)
        assert law_of("default", norm, "bias") == WeightLaw.constant(0.0)
    assert law_of("default", nn.RMSNorm(3)) == WeightLaw.constant(1.0)


def test_the_law_of_an_unknown_reset_is_measured() -> None:
    attention = nn.MultiheadAttention(48, 4)
    law = law_of("default", attention, "in_proj_weight")
    assert law is not None
    assert law.distribution == "measured"
    # xavier_uniform_ of (3·48, 48): 2 / (4·48), N = 6912, standard error sqrt(0.8 / N) = 1.1 %.
    assert law.variance == pytest.approx(2 / 192, rel=0.08)
    assert law_of("default", attention, "in_proj_bias") == WeightLaw.constant(0.0)
    assert law_of("default", nn.PReLU(init=0.1)) == WeightLaw.constant(pytest.approx(0.1))
    with pytest.raises(MissingRuleError):
        law_of("default", nn.MultiheadAttention(8, 2, device="meta"), "in_proj_weight")


def test_a_subclass_with_its_own_reset_has_its_own_law() -> None:
    class Narrow(nn.Linear):
        def reset_parameters(self) -> None:
            nn.init.constant_(self.weight, 0.125)

    class Same(nn.Linear):
        pass

    assert law_of("default", Narrow(4, 4)) == WeightLaw.constant(0.125)
    assert law_of("default", Narrow(4, 4), "bias") is None
    assert law_of("default", Same(4, 4)) == law_of("default", nn.Linear(4, 4))


def test_every_module_is_reset_as_its_constructor_did_it() -> None:
    def build() -> nn.Module:
        return nn.Sequential(
            nn.Linear(5, 4),
            nn.ReLU(),
            nn.Conv2d(4, 4, 3),
            nn.LayerNorm(4),
            nn.MultiheadAttention(4, 2),
            nn.GRU(4, 3),
            nn.BatchNorm1d(3),
        )

    torch.manual_seed(3)
    model = build()
    expected = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(9.0)
    torch.manual_seed(3)
    initialize(model, "default")
    for name, value in model.state_dict().items():
        assert torch.equal(value, expected[name]), name


def test_weights_that_nothing_resets_are_named_in_a_warning() -> None:
    class Raw(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.matrix = nn.Parameter(torch.ones(3, 3))
            self.token = nn.Parameter(torch.ones(1, 3))
            self.scale = nn.Parameter(torch.ones(3))

    model = nn.Sequential(nn.Linear(3, 3), Raw())
    with pytest.warns(VarprobeWarning) as caught:
        initialize(model, "default")
    assert str(caught[0].message) == (
        "Left as they are, for want of a law: 1.matrix. Set them yourself, or pass a "
        "callable(module) that does."
    )
    assert caught[0].filename == __file__
    assert law_of("default", model[1], "matrix") is None


def test_a_parent_that_resets_answers_for_its_children() -> None:
    class Parent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.parts = nn.ParameterList([nn.Parameter(torch.ones(3, 3))])

        def reset_parameters(self) -> None:
            nn.init.constant_(self.parts[0], 2.0)

    assert initialize(Parent(), "default").parts[0].unique().tolist() == [2.0]


def test_a_reset_that_wants_arguments_is_not_a_reset() -> None:
    class Asks(nn.Module):
        def reset_parameters(self, std: float) -> None:
            raise AssertionError

    initialize(Asks(), "default")


def test_a_shared_weight_is_drawn_once_for_its_first_module() -> None:
    model = nn.Sequential(nn.Embedding(60, 50), nn.Linear(50, 60))
    model[1].weight = model[0].weight
    initialize(model, "default")
    assert model[1].weight is model[0].weight
    assert near(model[1].weight, 1.0)


def test_a_module_with_two_parents_is_reset_once() -> None:
    class Counts(nn.Module):
        resets = 0

        def reset_parameters(self) -> None:
            self.resets += 1

    shared = Counts()
    initialize(nn.Sequential(nn.Sequential(shared), nn.Sequential(shared)), "default")
    assert shared.resets == 1


def test_a_hugging_face_model_gets_its_own_scheme() -> None:
    model = LanguageModel()
    model.tie_weights()
    initialize(model, "default", seed=0)
    assert near(model.base.tokens.weight, 0.02)
    assert near(model.base.block.up.weight, 0.02)
    assert near(model.base.block.down.weight, 0.002)
    assert model.base.block.up.bias.abs().max() == 0
    # The nested model has its own standard deviation.
    assert near(model.tower.tokens.weight, 0.5)
    assert near(model.tower.block.down.weight, 0.05)
    # What the scheme does not know keeps the module's own law.
    assert (
        standard_errors(model.tower.block.conv.weight, WeightLaw.uniform(1 / (3 * 64)))
        < MANY_STANDARD_ERRORS
    )
    assert model.head.weight is model.base.tokens.weight
    assert model.ties == 2


def test_untied_weights_are_tied_in_the_end() -> None:
    model = LanguageModel()
    initialize(model, "default")
    assert model.head.weight is model.base.tokens.weight


def test_a_model_over_a_hugging_face_model_keeps_to_itself() -> None:
    model = nn.Sequential(Base(), nn.Linear(64, 64))
    initialize(model, "default", seed=0)
    assert near(model[0].block.up.weight, 0.02)
    law = law_of("default", model[1])
    assert law is not None
    assert standard_errors(model[1].weight, law) < MANY_STANDARD_ERRORS


def test_flags_of_transformers_do_not_stop_the_draw_and_survive_it() -> None:
    model = Base()
    setattr(model.block, FLAG, True)
    setattr(model.tokens.weight, FLAG, True)
    setattr(model.block.down.weight, FLAG, False)
    initialize(model, "default", seed=0)
    assert near(model.tokens.weight, 0.02)
    assert getattr(model.block, FLAG) is True
    assert getattr(model.tokens.weight, FLAG) is True
    assert getattr(model.block.down.weight, FLAG) is False
    assert not hasattr(model, FLAG)
    assert not hasattr(model.block.up.weight, FLAG)


def test_flags_survive_an_exception() -> None:
    class Broken(Base):
        def _init_weights(self, module: nn.Module) -> None:
            raise RuntimeError("broken")

    model = Broken()
    setattr(model, FLAG, True)
    with pytest.raises(RuntimeError, match="broken"):
        initialize(model, "default")
    assert getattr(model, FLAG) is True


def test_a_method_of_that_name_without_an_argument_is_another_protocol() -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(40, 40)

        def _init_weights(self) -> None:
            raise AssertionError

    model = initialize(Own(), "default", seed=0)
    law = law_of("default", model.layer)
    assert law is not None
    assert standard_errors(model.layer.weight, law) < MANY_STANDARD_ERRORS
