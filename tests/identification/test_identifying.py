from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn import init
from torch.nn.utils import parametrizations

import varprobe as vp
from tests.identification.draws import count_mistakes
from varprobe.errors import NothingRecordedError


def draw(layer: nn.Module, initializer, *args: object, **kwargs: object) -> vp.Identification:
    with torch.no_grad():
        initializer(layer.weight, *args, **kwargs)
    return vp.identify(layer)


def names(origin) -> set[str]:
    return {law.name for law in origin.laws}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_initializer_is_recognised_with_its_law(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    draws, mistakes = count_mistakes(1, dtype)
    assert draws > 500
    assert mistakes.total() <= 0.01 * draws, mistakes


@pytest.mark.slow
def test_99_of_100_are_right_and_the_true_law_is_always_in_the_set() -> None:
    torch.manual_seed(1)
    draws, mistakes = count_mistakes(60)
    assert draws > 30_000
    wrong_laws = sum(n for name, n in mistakes.items() if name.startswith("law"))
    assert mistakes.total() - wrong_laws <= 0.01 * draws, mistakes
    # A band of 5 standard errors misses its law once in 1.7 million draws.
    assert wrong_laws <= 1, mistakes


def make_modules() -> list[nn.Module]:
    return [
        nn.Linear(100, 50),
        nn.Bilinear(20, 30, 40),
        nn.Conv1d(16, 32, 5),
        nn.Conv2d(16, 32, 3, groups=2),
        nn.Conv3d(4, 16, 3),
        nn.ConvTranspose2d(16, 32, 3),
        nn.Embedding(200, 30, padding_idx=3),
        nn.EmbeddingBag(200, 30),
        nn.LSTM(32, 24),
        nn.GRU(32, 24, num_layers=2),
        nn.RNN(32, 48),
        nn.LSTMCell(32, 24),
        nn.BatchNorm2d(16),
        nn.LayerNorm(16),
        nn.GroupNorm(4, 16),
        nn.InstanceNorm2d(16, affine=True),
        nn.RMSNorm(16),
    ]


@pytest.mark.parametrize("module", make_modules(), ids=lambda module: type(module).__name__)
def test_what_torch_draws_unasked_is_named_so(module: nn.Module) -> None:
    torch.manual_seed(2)
    for reset in module.modules():
        if hasattr(reset, "reset_parameters"):
            reset.reset_parameters()
    for origin in vp.identify(module):
        assert origin.laws[0].name == "torch default", origin


def test_uniform_normal_and_truncated_normal_of_one_variance_are_told_apart() -> None:
    torch.manual_seed(3)
    layer, std = nn.Linear(48, 32), 0.1
    before = std / math.sqrt(0.7737)
    bound = math.sqrt(3) * std
    assert draw(layer, init.normal_, 0.0, std)["weight"].distribution == "normal"
    assert draw(layer, init.uniform_, -bound, bound)["weight"].distribution == "uniform"
    cut = draw(layer, init.trunc_normal_, 0.0, before, -2 * before, 2 * before)["weight"]
    assert cut.distribution == "trunc_normal"
    assert cut.std == pytest.approx(std, rel=0.1)


def test_fan_in_and_fan_out_are_told_apart_unless_they_are_one() -> None:
    torch.manual_seed(4)
    wide, square = nn.Linear(64, 256), nn.Linear(128, 128)
    fan_in, fan_out = "kaiming fan_in relu", "kaiming fan_out relu"
    assert {fan_in, fan_out} & names(draw(wide, init.kaiming_normal_)["weight"]) == {fan_in}
    outwards = draw(wide, init.kaiming_normal_, mode="fan_out")["weight"]
    assert {fan_in, fan_out} & names(outwards) == {fan_out}
    assert {fan_in, fan_out} < names(draw(square, init.kaiming_normal_)["weight"])


def test_orthogonal_is_not_normal_of_the_same_variance() -> None:
    torch.manual_seed(5)
    layer = nn.Linear(128, 64)
    orthogonal = draw(layer, init.orthogonal_)["weight"]
    normal = draw(layer, init.normal_, 0.0, 128**-0.5)["weight"]
    assert orthogonal.std == pytest.approx(normal.std, rel=0.05)
    assert (orthogonal.distribution, normal.distribution) == ("orthogonal", "normal")
    assert names(orthogonal) == {"orthogonal"}
    assert "lecun" in names(normal)


def test_the_scaled_projection_of_gpt2_is_named_with_its_depth() -> None:
    torch.manual_seed(6)
    blocks = nn.ModuleList(nn.Sequential(nn.Linear(64, 256), nn.Linear(256, 64)) for _ in range(6))
    for block in blocks:
        init.normal_(block[0].weight, std=0.02)
        init.normal_(block[1].weight, std=0.02 / math.sqrt(12))
    found = vp.identify(nn.Sequential(nn.Embedding(50, 64), blocks))
    assert names(found["1.3.0.weight"]) == {"std 0.02"}
    assert "std 0.02/sqrt(2·6)" in names(found["1.3.1.weight"])


@pytest.mark.parametrize(
    ("initializer", "steps"), [(init.kaiming_normal_, 300), (init.kaiming_uniform_, 20)]
)
def test_a_trained_matrix_is_unknown(initializer, steps: int) -> None:
    torch.manual_seed(7)
    inputs = torch.randn(256, 64)
    labels = (inputs @ torch.randn(64, 4)).argmax(1)
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 4))
    initializer(model[0].weight)
    before = vp.identify(model)["0.weight"]
    optimizer = torch.optim.SGD(model.parameters(), 1.0)
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), labels).backward()
        optimizer.step()
    after = vp.identify(model)["0.weight"]
    assert names(before) >= {"kaiming fan_in relu"}
    assert (after.distribution, after.laws) == ("unknown", ())
    weight = model[0].weight.detach().double()
    assert after.mean == pytest.approx(weight.mean().item())
    assert after.std == pytest.approx(weight.std(correction=0).item())


def test_foreign_distributions_are_unknown_and_have_no_law() -> None:
    torch.manual_seed(8)
    layer = nn.Linear(64, 64)
    foreign = {
        "laplace": torch.distributions.Laplace(0.0, 0.1).sample((64, 64)),
        "bimodal": torch.randn(64, 64) * 0.3 + torch.randn(64, 64).sign(),
        "ternary": torch.randint(-1, 2, (64, 64)).float(),
        "exponential": torch.empty(64, 64).exponential_(),
        "low rank": torch.randn(64, 4) @ torch.randn(4, 64),
        "two scales": torch.randn(64, 64) * torch.tensor([0.5, 1.5]).repeat(32),
        "a grid": torch.linspace(-1, 1, 4096).reshape(64, 64),
        "noisy uniform": torch.rand(64, 64) - 0.5 + 0.05 * torch.randn(64, 64),
    }
    for name, values in foreign.items():
        layer.weight.data = values
        origin = vp.identify(layer)["weight"]
        assert (origin.distribution, origin.laws) == ("unknown", ()), name
        assert origin.note, name
        assert origin.std == pytest.approx(values.double().std(correction=0).item()), name


def test_weights_that_left_the_middle_have_no_law() -> None:
    torch.manual_seed(9)
    origin = draw(nn.Linear(128, 128), init.normal_, 0.004, 0.02)["weight"]
    assert (origin.distribution, origin.laws) == ("normal", ())
    assert "mean" in origin.note


@pytest.mark.parametrize(("variance", "fits"), [(2.0, True), (2.4, True), (1.0, False)])
def test_whether_a_weight_fits_what_comes_behind(variance: float, fits: bool) -> None:
    torch.manual_seed(10)
    model = nn.Sequential(nn.Linear(256, 128), nn.ReLU())
    init.normal_(model[0].weight, std=math.sqrt(variance / 256))
    origin = vp.identify(model)["0.weight"]
    assert (origin.follower, origin.expected.name) == ("relu", "2/fan_in")
    assert origin.expected_std == math.sqrt(2 / 256)
    # The sample variance of 2¹⁵ numbers scatters by sqrt(2 / 2¹⁵) = 0.8 %.
    assert origin.ratio == pytest.approx(variance / 2, rel=0.04)
    assert origin.z == pytest.approx(math.log(origin.ratio) * 128)
    assert origin.fits is fits


def test_an_orthogonal_matrix_fits_without_any_scatter() -> None:
    torch.manual_seed(11)
    model = nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 64), nn.ReLU())
    init.orthogonal_(model[0].weight)
    init.orthogonal_(model[2].weight)
    tanh, relu = vp.identify(model)["0.weight"], vp.identify(model)["2.weight"]
    assert (tanh.fits, relu.fits) == (True, False)
    assert tanh.ratio == pytest.approx(1.0, rel=1e-5)
    assert math.isnan(tanh.z)


class Failing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raise RuntimeError(f"after {self.linear(x).shape}")


def make_sensitive() -> nn.Module:
    model = nn.Sequential(
        parametrizations.spectral_norm(nn.Linear(16, 16)),
        nn.BatchNorm1d(16),
        nn.ReLU(),
        nn.Dropout(0.5),
        parametrizations.weight_norm(nn.Linear(16, 4)),
    )
    model(torch.randn(4, 16)).sum().backward()
    return model


def freeze(model: nn.Module) -> dict[str, torch.Tensor]:
    gradients = {f"{n}.grad": p.grad for n, p in model.named_parameters() if p.grad is not None}
    return copy.deepcopy({**dict(model.state_dict()), **gradients})


@pytest.mark.parametrize("inputs", [None, torch.ones(4, 16)], ids=["alone", "with inputs"])
def test_nothing_changes(inputs: torch.Tensor | None) -> None:
    torch.manual_seed(12)
    model = make_sensitive()
    before, state = freeze(model), torch.get_rng_state()
    vp.identify(model, inputs)
    after = freeze(model)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert torch.equal(state, torch.get_rng_state())
    assert all(module.training for module in model.modules())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_nothing_changes_when_the_model_fails() -> None:
    model = Failing()
    before, state = freeze(model), torch.get_rng_state()
    with pytest.raises(RuntimeError, match="after"):
        vp.identify(model, torch.ones(2, 8))
    assert all(torch.equal(before[name], value) for name, value in freeze(model).items())
    assert torch.equal(state, torch.get_rng_state())
    assert not model.linear._forward_hooks


def test_a_function_builds_the_model_from_the_seed() -> None:
    first, again, other = (vp.identify(lambda: nn.Linear(9, 9), seed=seed) for seed in (5, 5, 6))
    assert first["weight"].std == again["weight"].std != other["weight"].std


def test_a_model_without_parameters_is_an_error() -> None:
    with pytest.raises(NothingRecordedError, match="ReLU has no parameters"):
        vp.identify(nn.ReLU())


def test_keyword_arguments_need_inputs() -> None:
    with pytest.raises(TypeError, match="give the inputs"):
        vp.identify(nn.Linear(2, 2), kwargs={"a": 1})
