"""What a constructor draws from, and that to ask it leaves no trace."""

from __future__ import annotations

import copy
import math
import random

import numpy as np
import pytest
import torch
from torch import nn

from tests.initializers.capture.oracle import find_misfits
from varprobe import initialize
from varprobe.errors import UnsupportedModelError
from varprobe.initializers.capture import capture_construction, capture_draw
from varprobe.initializers.laws import TRUNCATED_VARIANCE, WeightLaw


class Holder(nn.Module):
    """A module with the one parameter that a function makes."""

    def __init__(self, make):
        super().__init__()
        self.weight = nn.Parameter(make())


def draw(function, *sizes, **options):
    """Return a builder whose parameter an in-place function sets."""
    return lambda: Holder(lambda: function(torch.empty(*(sizes or (40, 60))), **options))


def make(function):
    return lambda: Holder(function)


def draw_like_timm(tensor, std=0.02):
    low, high = (math.erf(end / math.sqrt(2)) for end in (-2.0, 2.0))
    tensor.uniform_(low, high).erfinv_()
    return tensor.mul_(std * math.sqrt(2)).clamp_(-2 * std, 2 * std)


def draw_like_mamba():
    low, high = math.log(1e-3), math.log(0.1)
    step = torch.exp(torch.rand(4000) * (high - low) + low).clamp(min=1e-4)
    return step + torch.log(-torch.expm1(-step))


def draw_in_parts():
    fused = torch.empty(30, 20)
    for part, std in zip(fused.chunk(3), (0.1, 0.2, 0.3), strict=True):
        nn.init.normal_(part, std=std)
    return fused


EXACT = {
    "zeros": (make(lambda: torch.zeros(7, 3)), WeightLaw.constant(0.0)),
    "constant_": (draw(nn.init.constant_, val=0.25), WeightLaw.constant(0.25)),
    "torch.full": (make(lambda: torch.full((5,), 1e-6)), WeightLaw.constant(1e-6)),
    "1 - ones": (make(lambda: 1 - torch.ones(4, 4) * 3), WeightLaw.constant(-2.0)),
    "normal_": (draw(nn.init.normal_, mean=1.0, std=0.02), WeightLaw.normal(0.0004, 1.0)),
    "uniform_": (draw(nn.init.uniform_, a=1.0, b=3.0), WeightLaw.uniform(1 / 3, 2.0)),
    "xavier_normal_": (draw(nn.init.xavier_normal_), WeightLaw.normal(2 / 100)),
    "xavier_uniform_": (draw(nn.init.xavier_uniform_), WeightLaw.uniform(2 / 100)),
    "kaiming_normal_": (draw(nn.init.kaiming_normal_), WeightLaw.normal(2 / 60)),
    "kaiming_uniform_": (draw(nn.init.kaiming_uniform_), WeightLaw.uniform(2 / 60)),
    "trunc_normal_ at ±2 std": (
        draw(nn.init.trunc_normal_, std=0.5, a=-1.0, b=1.0),
        WeightLaw.trunc_normal(0.5),
    ),
    "trunc_normal_ never cut": (draw(nn.init.trunc_normal_, std=0.02), WeightLaw.normal(0.0004)),
    "trunc_normal_ by erfinv": (draw(draw_like_timm), WeightLaw.trunc_normal(0.02)),
    "orthogonal_ wide": (draw(nn.init.orthogonal_, gain=2.0), WeightLaw.orthogonal(60, 2.0)),
    "orthogonal_ of a kernel": (draw(nn.init.orthogonal_, 40, 3, 3), WeightLaw.orthogonal(40)),
    "randn * std": (make(lambda: torch.randn(50, 60) * 0.1 + 1), WeightLaw.normal(0.01, 1.0)),
    "2 * rand - 1": (make(lambda: 2 * torch.rand(50, 60) - 1), WeightLaw.uniform(1 / 3)),
    "randn_like / √n": (make(lambda: torch.randn_like(torch.ones(50, 60)) / 4),
                        WeightLaw.normal(1 / 16)),
    "torch.normal": (make(lambda: torch.normal(0.0, 0.5, (50, 60))), WeightLaw.normal(0.25)),
    "x + x": (make(lambda: (lambda x: x + 2 * x)(torch.randn(50, 60))), WeightLaw.normal(9.0)),
    "transposed": (make(lambda: torch.randn(50, 60).t() * 3), WeightLaw.normal(9.0)),
    "transposed in place": (make(lambda: torch.randn(50, 60).t_()), WeightLaw.normal(1.0)),
    "copied": (draw(lambda t: t.copy_(torch.randn(40, 60))), WeightLaw.normal(1.0)),
    "concatenated": (
        make(lambda: torch.cat([torch.randn(9, 60), torch.randn(41, 60)])),
        WeightLaw.normal(1.0),
    ),
    "drawn in bfloat16": (
        make(lambda: nn.init.normal_(torch.empty(50, 60, dtype=torch.bfloat16), std=0.5)),
        WeightLaw.normal(0.25),
    ),
    "drawn twice": (
        make(lambda: nn.init.normal_(nn.init.uniform_(torch.empty(50, 60)))),
        WeightLaw.normal(1.0),
    ),
}  # fmt: skip
"""What is captured exactly: a builder, and the law that the sources of torch state."""

OF_OTHER_FORM = {
    "sparse_": draw(nn.init.sparse_, sparsity=0.3, std=0.5),
    "dirac_": draw(nn.init.dirac_, 8, 6, 3),
    "eye_": draw(nn.init.eye_),
    "trunc_normal_ on one side": draw(nn.init.trunc_normal_, mean=0.5, std=1.0, a=0.0, b=4.0),
    "a padding row": lambda: nn.Embedding(20, 30, padding_idx=5),
    "parts of a fused projection": make(draw_in_parts),
    "log of uniform": make(lambda: torch.rand(3000).log()),
    "step sizes of Mamba": make(draw_like_mamba),
    "eye + noise": make(lambda: torch.eye(50) + 0.1 * torch.randn(50, 50)),
    "masked": make(lambda: torch.randn(50, 50) * torch.ones(50, 50).tril()),
}
"""What has no name among the laws, but the right moments."""


def _clear_bits(tensor):
    tensor.view(torch.int32).zero_()
    return tensor


NOT_TOLD = {
    "memory that nothing has written to": lambda: torch.empty(5, 5),
    "bernoulli": lambda: torch.bernoulli(torch.full((5, 5), 0.5)),
    "randint": lambda: torch.randint(0, 9, (5, 5)).float(),
    "aten.mm": lambda: torch.randn(5, 5) @ torch.randn(5, 5),
    "aten.std": lambda: (lambda x: x / x.std())(torch.randn(5, 5)),
    "several draws meet": lambda: torch.randn(5, 5) + torch.randn(5, 5),
    "jumps": lambda: (torch.randn(5, 5) > 0).float(),
    "no real numbers": lambda: torch.randn(5, 5, dtype=torch.cfloat),
    "another type": lambda: _clear_bits(torch.randn(5, 2)),
}
"""What is not captured, by the reason that is given for it."""


@pytest.mark.parametrize("name", EXACT)
def test_the_law_is_exact(name) -> None:
    build, expected = EXACT[name]
    law = capture_construction(build).laws["weight"]
    assert law.distribution == expected.distribution
    assert law.mean == pytest.approx(expected.mean, abs=1e-15)
    assert law.variance == pytest.approx(expected.variance, rel=1e-6)
    assert law.kurtosis == pytest.approx(expected.kurtosis, rel=1e-12)


@pytest.mark.parametrize("name", [*EXACT, *OF_OTHER_FORM])
def test_the_moments_are_those_of_real_draws(name) -> None:
    build = EXACT[name][0] if name in EXACT else OF_OTHER_FORM[name]
    captured = capture_construction(build)
    assert not captured.reasons
    assert find_misfits(captured.laws, build, builds=8) == []


@pytest.mark.parametrize("reason", NOT_TOLD)
def test_what_cannot_be_told_has_a_reason_and_no_law(reason) -> None:
    captured = capture_construction(make(NOT_TOLD[reason]))
    assert captured.laws == {"weight": None}
    assert reason in captured.reasons["weight"]


def test_elements_that_were_moved_do_not_pass_for_each_other() -> None:
    # x_i + x_j has half the variance of 2 x_i: elements of one draw, but different ones.
    def outer():
        x = torch.randn(40)
        return x.view(40, 1) + x.view(1, 40)

    def mixed():
        x = torch.randn(40, 40)
        return x + x.t()

    def spread():
        x = torch.randn(40)
        return torch.empty(40, 40).copy_(x) + torch.empty(40, 40).copy_(x.view(40, 1))

    for function in (outer, mixed, spread):
        assert capture_construction(make(function)).reasons == {"weight": "several draws meet"}


@pytest.mark.parametrize(
    "convert",
    [
        lambda model: model.half(),
        lambda model: model.to("meta", torch.float64),
        lambda model: model.requires_grad_(False).eval(),
        copy.deepcopy,
        lambda model: model.to_empty(device="cpu") and nn.Linear(300, 200),
    ],
)
def test_a_model_may_be_converted_after_it_was_drawn(convert) -> None:
    captured = capture_construction(lambda: convert(nn.Linear(300, 200)))
    assert captured.laws["weight"].distribution == "uniform"
    assert captured.laws["weight"].variance == pytest.approx(1 / 900)
    twin = convert(nn.Linear(300, 200))
    for name, parameter in captured.model.named_parameters():
        other = twin.get_parameter(name)
        assert (parameter.dtype, parameter.requires_grad) == (other.dtype, other.requires_grad)


def test_a_model_that_asks_for_meta_is_drawn_all_the_same() -> None:
    def build():
        with torch.device("meta"):
            return Holder(lambda: nn.init.trunc_normal_(torch.empty(40, 60), a=-2.0, b=2.0))

    law = capture_construction(build).laws["weight"]
    assert law.variance == pytest.approx(TRUNCATED_VARIANCE)


def test_tied_parameters_stay_tied() -> None:
    def build():
        model = nn.Sequential(nn.Embedding(20, 8), nn.Linear(8, 20, bias=False))
        model[1].weight = model[0].weight
        return model

    captured = capture_construction(build)
    assert captured.model[0].weight is captured.model[1].weight
    assert captured.laws["0.weight"] == captured.laws["1.weight"] == WeightLaw.normal(1.0)


def test_numbers_that_are_not_drawn_stay() -> None:
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.decay = nn.Parameter(torch.log(torch.arange(1.0, 9.0)))
            self.register_buffer("frequencies", 10_000 ** -torch.linspace(0, 1, 5))
            rates = [rate.item() for rate in torch.linspace(0, 0.1, 3)]
            positive = torch.arange(6)[torch.arange(6) > 2]
            self.layers = nn.ModuleList(nn.Dropout(rate) for rate in rates)
            self.head = nn.Linear(len(positive), int(positive.sum()))
            self.cache = [self.frequencies * 2]

    captured, real = capture_construction(Model), Model()
    assert torch.equal(captured.model.decay, real.decay)
    assert torch.equal(captured.model.frequencies, real.frequencies)
    assert torch.equal(captured.model.cache[0], real.cache[0])
    assert [layer.p for layer in captured.model.layers] == [layer.p for layer in real.layers]
    assert captured.model.head.weight.shape == real.head.weight.shape
    assert captured.laws["decay"].distribution == "measured"


def test_a_huge_embedding_with_a_padding_row_is_followed() -> None:
    captured = capture_construction(lambda: nn.Embedding(500_000, 4096, padding_idx=0))
    assert captured.laws["weight"].variance == pytest.approx(1 - 1 / 500_000)


def test_buffers_survive_a_deep_copy_in_the_constructor() -> None:
    def build():
        norm = nn.BatchNorm1d(4)
        norm.running_var *= 2
        return nn.Sequential(norm, *(copy.deepcopy(norm) for _ in range(3)))

    captured, real = capture_construction(build), build()
    for (name, buffer), twin in zip(captured.model.named_buffers(), real.buffers(), strict=True):
        assert torch.equal(buffer, twin), name


@pytest.mark.parametrize(
    ("read", "op"),
    [
        (lambda weight: weight.sum().item(), "_local_scalar_dense"),
        (lambda weight: (weight > 0).nonzero(), "nonzero"),
        (lambda weight: bool((weight > 0).all()), "_local_scalar_dense"),
    ],
)
def test_a_constructor_that_looks_at_drawn_numbers_is_named(read, op) -> None:
    class Curious(nn.Linear):
        def reset_parameters(self):
            super().reset_parameters()
            read(self.weight)

    with pytest.raises(UnsupportedModelError, match=op) as raised:
        capture_construction(lambda: nn.Sequential(nn.ReLU(), Curious(3, 4)))
    assert "Curious.reset_parameters" in str(raised.value)
    assert "Build the model and give it itself" in str(raised.value)


def test_a_builder_of_something_else_is_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="returned a dict"):
        capture_construction(dict)


def _read_state() -> list[object]:
    return [
        torch.random.get_rng_state().tolist(),
        random.getstate(),
        np.random.get_state()[1].tolist(),
        torch.get_default_dtype(),
        torch.get_default_device(),
        torch.is_grad_enabled(),
        torch.utils.swap_tensors,
        [f.__code__ for f in (nn.init.orthogonal_, nn.init.sparse_)],
        nn.init._no_grad_trunc_normal_.__code__,
    ]


@pytest.mark.parametrize("fails", [False, True])
def test_a_capture_leaves_no_trace(fails) -> None:
    def build():
        torch.manual_seed(3)
        random.random()
        np.random.rand()
        torch.set_default_dtype(torch.float64)
        torch.set_default_device("meta")
        torch.set_grad_enabled(False)
        model = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Dropout())
        nn.init.orthogonal_(model[0].weight)
        if fails:
            raise KeyError("no")
        return model

    before = _read_state()
    if fails:
        with pytest.raises(KeyError):
            capture_construction(build)
    else:
        assert capture_construction(build).model[0].weight.dtype == torch.float64
    assert _read_state() == before
    torch.manual_seed(1)
    drawn = nn.init.orthogonal_(torch.empty(4, 4))
    assert torch.allclose(drawn @ drawn.T, torch.eye(4), atol=1e-6)


def _bytes(model: nn.Module) -> dict[str, bytes]:
    return {name: tensor.numpy().tobytes() for name, tensor in model.state_dict().items()}


def test_a_draw_is_captured_and_the_model_stays_as_it_is() -> None:
    model = nn.Sequential(nn.Linear(30, 20), nn.BatchNorm1d(20), nn.Linear(20, 10))
    before = _bytes(model)

    def redraw(module):
        nn.init.orthogonal_(module[0].weight)
        module[1].reset_parameters()
        with torch.no_grad():
            module[2].weight[:5] = 0
            module[2].bias.mul_(2)

    captured = capture_draw(model, redraw)
    assert _bytes(model) == before
    assert captured.model is model
    assert captured.laws["0.weight"].distribution == "orthogonal"
    assert captured.laws["0.weight"].variance == pytest.approx(1 / 30)
    assert captured.laws["1.weight"] == WeightLaw.constant(1.0)
    assert captured.laws["0.bias"] is None
    assert "0.bias" not in captured.reasons
    # Changed, but by what was there before: no law, and no silence about it.
    assert captured.reasons.keys() == {"2.weight", "2.bias"}


@pytest.mark.parametrize("name", ["default", "kaiming_normal", "orthogonal", "trunc_normal(std=1)"])
def test_named_initializations_are_captured_on_a_model_without_numbers(name) -> None:
    def build():
        return nn.Sequential(nn.Conv2d(8, 6, 3, groups=2), nn.Flatten(), nn.Linear(6 * 4, 30))

    with torch.device("meta"):
        model = build()
    captured = capture_draw(model, lambda twin: initialize(twin, name))
    assert find_misfits(captured.laws, lambda: initialize(build(), name), builds=8) == []
