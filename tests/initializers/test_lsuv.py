"""LSUV against plain hooks: every layer's output has unit variance, and nothing else changed."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

import varprobe as vp
from tests.diagnosis.cases import conv_net, mlp, resnet8
from varprobe.initializers.lsuv import TOLERANCE

LAYERS = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)


class Gated(nn.Module):
    """What no law is known for: a product of two paths, a reduction, a residual."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.gate, self.down = nn.Linear(24, 64), nn.Linear(24, 64), nn.Linear(64, 24)
        self.dropout = nn.Dropout(0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gated = self.up(x) * torch.sigmoid(self.gate(x)) * x.abs().amax(-1, keepdim=True)
        return x + self.down(self.dropout(gated))


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "mlp": (lambda: mlp(30, nn.ReLU, width=32), (16, 32)),
    "cnn": (lambda: conv_net(6, channels=8), (4, 3, 10, 10)),
    "batch_norm": (lambda: resnet8(zero_init=False, channels=8), (4, 3, 10, 10)),
    "gated": (lambda: nn.Sequential(Gated(), Gated(), Gated()), (16, 24)),
    "transposed": (
        lambda: nn.Sequential(nn.ConvTranspose2d(4, 8, 3, groups=2), nn.Tanh(), nn.Conv2d(8, 4, 1)),
        (4, 4, 6, 6),
    ),
}


def make(name: str) -> tuple[nn.Module, torch.Tensor]:
    build, shape = MODELS[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build(), 100.0 * torch.randn(shape)


def measure_outputs(model: nn.Module, inputs: torch.Tensor) -> dict[str, float]:
    """Return the variance of each layer's output, by hooks of torch and a formula."""
    found: dict[str, float] = {}

    def note(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: object, output: torch.Tensor) -> None:
            values = output.double()
            found[name] = (values - values.mean()).square().mean().item()

        return hook

    layers = {name: m for name, m in model.named_modules() if isinstance(m, LAYERS)}
    handles = [m.register_forward_hook(note(name)) for name, m in layers.items()]
    with torch.no_grad():
        model(inputs)
    for handle in handles:
        handle.remove()
    assert found.keys() == layers.keys()
    return found


def copy_state(model: nn.Module) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in model.state_dict().items()}


def is_same(model: nn.Module, state: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("name", MODELS)
def test_every_output_has_unit_variance(name: str) -> None:
    model, inputs = make(name)
    model.eval()  # without dropout, whose masks would be other ones in the second pass
    before = measure_outputs(model, inputs)
    assert max(abs(variance - 1.0) for variance in before.values()) > 0.5
    assert vp.initialize(model, "lsuv", inputs=inputs, seed=0) is model
    after = measure_outputs(model, inputs)
    # The second pass adds and multiplies as the first one did, but for the order of float32 sums.
    assert max(abs(variance - 1.0) for variance in after.values()) <= TOLERANCE + 1e-4


def test_the_weights_are_the_orthonormal_ones_but_for_a_factor() -> None:
    (model, inputs), (twin, _) = make("cnn"), make("cnn")
    vp.initialize(model, "lsuv", inputs=inputs, seed=3)
    vp.initialize(twin, "orthogonal", seed=3)
    scaled, plain = model.state_dict(), twin.state_dict()
    for key in scaled:
        if key.endswith("weight"):
            ratio = scaled[key] / plain[key]
            torch.testing.assert_close(ratio, ratio.flatten()[0].expand_as(ratio))
        else:
            assert not scaled[key].any()  # biases, as the paper has them


def test_one_pass_is_the_algorithm_of_the_paper() -> None:
    # Layer by layer, the whole net again for each step.
    (model, inputs), (twin, _) = make("mlp"), make("mlp")
    vp.initialize(model, "lsuv", inputs=inputs, seed=3)
    vp.initialize(twin, "orthogonal", seed=3)
    assert isinstance(twin, nn.Sequential)
    for index, layer in enumerate(twin):
        if isinstance(layer, nn.Linear):
            with torch.no_grad():
                variance = twin[: index + 1](inputs).var(correction=0)
                while abs(variance - 1.0) > TOLERANCE:
                    layer.weight /= variance.sqrt()
                    variance = twin[: index + 1](inputs).var(correction=0)
    for ours, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=0.0)


def test_nothing_but_the_drawn_parameters_changes() -> None:
    model, inputs = make("batch_norm")
    state, hooks = copy_state(model), [len(m._forward_hooks) for m in model.modules()]
    given, random_state = inputs.clone(), torch.get_rng_state()
    vp.initialize(model, "lsuv", inputs=inputs, seed=0)
    changed = {
        key for key, value in model.state_dict().items() if not torch.equal(value, state[key])
    }
    assert all(key.endswith(("weight", "bias")) and ".bn" not in key for key in changed)
    assert torch.equal(random_state, torch.get_rng_state())
    assert torch.equal(inputs, given)
    assert model.training
    assert [len(m._forward_hooks) for m in model.modules()] == hooks
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


def test_numbers_come_from_the_global_generator_without_a_seed() -> None:
    # As many as an orthogonal draw takes: the pass, dropout and all, takes none.
    (model, inputs), (twin, _) = make("gated"), make("gated")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        vp.initialize(model, "lsuv", inputs=inputs)
        after = torch.get_rng_state()
        torch.manual_seed(5)
        vp.initialize(twin, "orthogonal")
        assert torch.equal(after, torch.get_rng_state())
    first, _ = make("gated")
    vp.initialize(first, "lsuv", inputs=inputs, seed=1)
    second, _ = make("gated")
    vp.initialize(second, "lsuv", inputs=inputs, seed=1)
    assert is_same(first, copy_state(second))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_dtypes(dtype: torch.dtype) -> None:
    model, inputs = make("mlp")
    vp.initialize(model.to(dtype), "lsuv", inputs=inputs.to(dtype), seed=0)
    # An output of bfloat16 has 8 bits: its variance is known to 2⁻⁸.
    variances = measure_outputs(model, inputs.to(dtype)).values()
    assert max(abs(variance - 1.0) for variance in variances) <= TOLERANCE + 2.0**-8


def test_a_shared_layer_is_scaled_at_its_first_call() -> None:
    cell = nn.Linear(32, 32)
    model, inputs = nn.Sequential(cell, nn.ReLU(), cell), torch.randn(16, 32)
    vp.initialize(model, "lsuv", inputs=inputs, seed=0)
    assert cell(inputs).var(correction=0).item() == pytest.approx(1.0, abs=TOLERANCE)


def test_a_bias_that_is_kept_takes_more_steps() -> None:
    model, inputs = nn.Linear(32, 64), torch.randn(16, 32)
    nn.init.normal_(model.bias, std=0.5)
    bias = model.bias.detach().clone()
    vp.initialize(model, "lsuv", inputs=inputs, bias=None, seed=0)
    assert torch.equal(model.bias, bias)
    assert model(inputs).var(correction=0).item() == pytest.approx(1.0, abs=TOLERANCE)


def test_keyword_arguments_and_parametrizations() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = parametrizations.weight_norm(nn.Linear(32, 16))

        def forward(self, *, x: torch.Tensor) -> torch.Tensor:
            return self.linear(x)

    model, inputs = Named(), torch.randn(64, 32)
    vp.initialize(model, "lsuv", inputs={"x": inputs}, seed=0)
    assert model(x=inputs).var(correction=0).item() == pytest.approx(1.0, abs=TOLERANCE)


def test_what_is_never_called_is_told() -> None:
    model = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
    with pytest.warns(vp.VarprobeWarning) as warned:
        vp.initialize(model, "lsuv", inputs=torch.randn(4, 8, 32), seed=0)
    assert [str(w.message).partition(":")[0] for w in warned] == [
        "Left as they are, for want of a law",
        "Orthonormal, but not scaled, since their modules were not called on these inputs",
    ]
    assert "self_attn.out_proj.weight" in str(warned[1].message)


class Fails(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear, self.counted = nn.Linear(32, 32), nn.BatchNorm1d(32)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.counted(self.linear(x))
        raise ValueError("its own fault")


class Functional(nn.Sequential):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self[0].weight.T


ROWS = torch.randn(16, 32, generator=torch.Generator().manual_seed(0))

REFUSALS: dict[str, tuple[Callable[[], nn.Module], dict[str, object], type[Exception], str]] = {
    "no inputs": (
        lambda: nn.Linear(32, 32),
        {},
        vp.InvalidArgumentError,
        r"initialize\(model, 'lsuv', inputs=batch\).*given: none",
    ),
    "a typing error": (
        lambda: nn.Linear(32, 32),
        {"inputs": ROWS, "tol": 0.1},
        vp.InvalidArgumentError,
        "options are inputs, kwargs, tolerance and max_iterations; given: inputs, tol",
    ),
    "inputs=None": (
        lambda: nn.Linear(32, 32),
        {"inputs": None},
        vp.InvalidArgumentError,
        "inputs is None",
    ),
    "tolerance": (
        lambda: nn.Linear(32, 32),
        {"inputs": ROWS, "tolerance": 0.0},
        vp.InvalidArgumentError,
        "between 0 and 1",
    ),
    "max_iterations": (
        lambda: nn.Linear(32, 32),
        {"inputs": ROWS, "max_iterations": 0},
        vp.InvalidArgumentError,
        "one step at least",
    ),
    "inputs of zeros": (
        lambda: mlp(2, nn.ReLU, width=32),
        {"inputs": torch.zeros(16, 32)},
        vp.UnsupportedModelError,
        r"0\.weight: its output does not vary on these inputs \(512 elements, all equal\)",
    ),
    "inputs that are not finite": (
        lambda: mlp(2, nn.ReLU, width=32),
        {"inputs": ROWS / 0.0},
        vp.UnsupportedModelError,
        "512 of 512 elements of its output are not finite",
    ),
    "a large bias": (
        lambda: nn.Linear(32, 32).requires_grad_(False),
        {"inputs": ROWS, "bias": None},
        vp.UnsupportedModelError,
        "after 10 steps its output has variance",
    ),
    "never called": (
        lambda: Functional(nn.Linear(32, 32)),
        {"inputs": ROWS},
        vp.UnsupportedModelError,
        "None of the 1 layers was called",
    ),
    "meta": (
        lambda: nn.Linear(32, 32, device="meta"),
        {"inputs": ROWS},
        vp.UnsupportedModelError,
        "on the meta device there are no numbers",
    ),
    "spectral_norm": (
        lambda: parametrizations.spectral_norm(nn.Linear(32, 32)),
        {"inputs": ROWS},
        vp.UnsupportedModelError,
        "does not give back the value",
    ),
    "its own": (Fails, {"inputs": ROWS}, ValueError, "its own fault"),
}


@pytest.mark.parametrize("why", REFUSALS)
def test_a_refusal_says_why_and_changes_nothing(why: str) -> None:
    build, options, error, message = REFUSALS[why]
    model = build()
    if why == "a large bias":
        nn.init.normal_(model.bias, std=3.0)
    state = copy_state(model)
    with pytest.raises(error, match=message):
        vp.initialize(model, "lsuv", seed=0, **options)
    assert why == "meta" or is_same(model, state)


def test_its_law_is_not_known_beforehand() -> None:
    with pytest.raises(vp.MissingRuleError, match="depends on the whole model"):
        vp.law_of("lsuv", nn.Linear(4, 4), inputs=torch.randn(4, 4))
    with pytest.raises(vp.InvalidArgumentError, match="measures the layers on a batch"):
        vp.predict(nn.Linear(4, 4), torch.randn(4, 4), init="lsuv")


def test_it_heals_what_no_theory_reaches() -> None:
    model, inputs = make("gated")
    unscaled = [b / a for a, b in itertools.pairwise(measure_outputs(model, inputs).values())]
    vp.initialize(model, "lsuv", inputs=inputs, seed=0)
    assert max(unscaled) > 10.0
    assert vp.check(model, inputs).healthy
