from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

from varprobe.errors import UnsupportedModelError
from varprobe.initializers.application import initialize, law_of

BOTH_KINDS = pytest.mark.parametrize("name", ["kaiming_normal", "default"])


def snapshot(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def is_unchanged(model: nn.Module, before: dict[str, torch.Tensor]) -> bool:
    after = model.state_dict()
    return before.keys() == after.keys() and all(torch.equal(before[k], after[k]) for k in before)


@BOTH_KINDS
def test_weight_norm_is_set_through_its_parametrization(name) -> None:
    plain = nn.Conv2d(4, 6, 3)
    normed = parametrizations.weight_norm(nn.Conv2d(4, 6, 3))
    initialize(plain, name, seed=2)
    initialize(normed, name, seed=2)
    # g v / |v| rounds a few times in float32.
    assert torch.allclose(normed.weight, plain.weight, rtol=1e-5, atol=1e-7)
    assert {n for n, _ in normed.named_parameters()} == {
        "bias",
        "parametrizations.weight.original0",
        "parametrizations.weight.original1",
    }
    assert all(p.requires_grad for p in normed.parameters())
    assert law_of(name, normed) == law_of(name, plain)


def test_a_parametrized_recurrent_layer_is_reset_as_a_plain_one() -> None:
    plain = nn.RNN(4, 3)
    normed = parametrizations.weight_norm(nn.RNN(4, 3), "weight_hh_l0")
    initialize(normed, "default", seed=2)
    torch.manual_seed(2)
    # The parametrized weight comes last among a module's parameters.
    drawn = [torch.empty_like(p).uniform_(-(3**-0.5), 3**-0.5) for p in reorder(plain)]
    for value, parameter in zip(drawn, reorder(normed), strict=True):
        assert torch.allclose(value, parameter, rtol=1e-5, atol=1e-7)


def reorder(recurrent: nn.RNN) -> list[torch.Tensor]:
    names = ("weight_ih_l0", "bias_ih_l0", "bias_hh_l0", "weight_hh_l0")
    return [getattr(recurrent, name) for name in names]


@BOTH_KINDS
def test_spectral_norm_is_refused_and_nothing_is_changed(name) -> None:
    model = nn.Sequential(
        nn.Linear(4, 4),
        parametrizations.weight_norm(nn.Linear(4, 4)),
        parametrizations.spectral_norm(nn.Linear(4, 4)),
    )
    before = snapshot(model)
    law_of(name, model[2])
    assert is_unchanged(model, before)
    with pytest.raises(
        UnsupportedModelError,
        match=r"^2\.weight is parametrized, and its parametrization does not give back the value "
        r"that was drawn for it; nothing was changed\. Remove it with "
        r"torch\.nn\.utils\.parametrize\.remove_parametrizations, initialize, and register it "
        r"again\.$",
    ):
        initialize(model, name)
    assert is_unchanged(model, before)


class Square(nn.Module):
    """A parametrization without an inverse."""

    def forward(self, original: torch.Tensor) -> torch.Tensor:
        return original**2


@BOTH_KINDS
def test_a_parametrization_without_an_inverse_is_refused(name) -> None:
    layer = nn.Linear(3, 3)
    parametrize.register_parametrization(layer, "weight", Square())
    before = snapshot(layer)
    with pytest.raises(UnsupportedModelError, match="weight is parametrized"):
        initialize(layer, name)
    assert is_unchanged(layer, before)


def test_an_orthogonal_parametrization_holds_an_orthogonal_draw_and_no_other() -> None:
    layer = parametrizations.orthogonal(nn.Linear(6, 6))
    initialize(layer, "orthogonal")
    assert torch.allclose(layer.weight @ layer.weight.T, torch.eye(6), atol=1e-5)
    before = snapshot(layer)
    with pytest.raises(UnsupportedModelError, match="weight is parametrized"):
        initialize(layer, "lecun_normal")
    assert is_unchanged(layer, before)


def test_a_parametrization_on_meta_is_written_without_reading_back() -> None:
    layer = parametrizations.weight_norm(nn.Linear(3, 3, device="meta"))
    assert initialize(layer, "kaiming_normal") is layer


@BOTH_KINDS
def test_hooks_that_recompute_the_weight_are_refused(name) -> None:
    with pytest.warns(FutureWarning):
        old_norm = nn.utils.weight_norm(nn.Linear(3, 3))
    hooked = {
        "weight_norm": old_norm,
        "spectral_norm": nn.utils.spectral_norm(nn.Linear(3, 3)),
        "prune": prune.l1_unstructured(nn.Linear(3, 3), "weight", amount=0.5),
    }
    for origin, layer in hooked.items():
        model = nn.Sequential(nn.Linear(3, 3), layer)
        before = snapshot(model)
        with pytest.raises(
            UnsupportedModelError,
            match=rf"^A forward hook of torch\.nn\.utils\.{origin} recomputes a weight of '1' "
            r"before each call, so a value written to it would not last\. Remove it before "
            r"initializing and apply it again after, or use torch\.nn\.utils\.parametrizations\.$",
        ):
            initialize(model, name)
        assert is_unchanged(model, before)


@BOTH_KINDS
def test_a_hook_that_only_looks_is_fine(name) -> None:
    layer = nn.Linear(3, 3)
    layer.register_forward_pre_hook(lambda module, args: None)
    initialize(layer, name)


@BOTH_KINDS
def test_a_lazy_module_is_refused_until_it_has_seen_an_input(name) -> None:
    model = nn.Sequential(nn.LazyLinear(3))
    message = (
        r"^0\.weight belongs to a lazy module and has no shape yet, so it cannot be drawn\. "
        r"Run the model once on a batch \(under torch\.no_grad\(\)\), then initialize it\.$"
    )
    with pytest.raises(UnsupportedModelError, match=message):
        initialize(model, name)
    with pytest.raises(UnsupportedModelError, match="lazy module"):
        law_of(name, model[0])
    model(torch.ones(1, 2))
    initialize(model, name)


def test_complex_weights_are_refused() -> None:
    with pytest.raises(
        UnsupportedModelError,
        match=r"^weight has dtype torch\.complex64; a variance law is about real floating-point "
        r"weights\. Set it yourself, by a callable\(module\)\.$",
    ):
        initialize(nn.Linear(2, 2, dtype=torch.complex64), "kaiming_normal")
