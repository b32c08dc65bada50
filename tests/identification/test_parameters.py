from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

import varprobe as vp


def reasons(model: nn.Module) -> dict[str, str]:
    return {unread.module: unread.reason for unread in vp.identify(model).unobserved}


def test_shared_parameters_have_one_row() -> None:
    embedding, head = nn.Embedding(100, 32), nn.Linear(32, 100, bias=False)
    head.weight = embedding.weight
    (origin,) = vp.identify(nn.Sequential(embedding, head))
    assert (origin.label, origin.note) == ("0.weight", "shared with 1.weight")


def test_laws_of_a_shared_parameter_are_those_of_all_its_layers() -> None:
    torch.manual_seed(0)
    embedding, head = nn.Embedding(400, 32), nn.Linear(32, 400, bias=False)
    head.weight = embedding.weight
    nn.init.normal_(head.weight, std=32**-0.5)
    (origin,) = vp.identify(nn.Sequential(embedding, head))
    assert "lecun" in {law.name for law in origin.laws}


def test_the_padding_row_is_left_out() -> None:
    torch.manual_seed(1)
    origin = vp.identify(nn.Embedding(100, 32, padding_idx=7))["weight"]
    assert origin.distribution == "normal"
    assert origin.note == "without row 7, the padding"


@pytest.mark.parametrize(
    ("model", "name", "reason"),
    [
        (nn.Linear(4, 4, device="meta"), "weight", "is on the meta device and has no values"),
        (nn.LazyLinear(4), "weight", "belongs to a lazy module"),
        (nn.Linear(4, 4, dtype=torch.complex64), "weight", "has the dtype torch.complex64"),
    ],
    ids=["meta", "lazy", "complex"],
)
def test_what_has_no_numbers_is_listed(model: nn.Module, name: str, reason: str) -> None:
    found = vp.identify(model)
    assert len(found) == 0
    assert reasons(model)[name].startswith(reason)
    assert "2 not read" in repr(found)


def test_numbers_that_are_not_finite_are_listed() -> None:
    model = nn.Linear(4, 4)
    model.weight.data[0, 0] = torch.nan
    assert reasons(model) == {"weight": "1 of its 16 numbers are not finite"}
    model.weight = nn.Parameter(torch.empty(0, 4))
    assert reasons(model) == {"weight": "has no elements"}


def test_parametrized_weights_are_read_off_a_copy() -> None:
    torch.manual_seed(2)
    linear = nn.Linear(40, 40)
    orthogonal = parametrizations.orthogonal(nn.Linear(40, 40))
    spectral = parametrizations.spectral_norm(linear)
    found = vp.identify(nn.Sequential(orthogonal, spectral))
    assert found["0.weight"].distribution == "orthogonal"
    assert found["0.weight"].note.startswith("behind")
    assert found["1.weight"].laws[0].name == "torch default"
    assert found["1.weight"].note == "before SpectralNorm"


class Broken(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if getattr(self, "is_registered", False):
            raise RuntimeError("no")
        return x


def test_a_parametrization_that_fails_is_listed() -> None:
    model, step = nn.Linear(4, 4), Broken()
    parametrize.register_parametrization(model, "weight", step)
    step.is_registered = True
    assert reasons(model) == {"weight": "is computed by Broken, which failed on a copy: no"}


def test_pruned_weights_are_what_they_were_drawn_as() -> None:
    torch.manual_seed(3)
    model = nn.Linear(64, 64)
    prune.random_unstructured(model, "weight", 0.5)
    origin = vp.identify(model)["weight_orig"]
    assert origin.laws[0].name == "torch default"


def test_blocks_of_a_recurrent_layer_are_recognised_each() -> None:
    torch.manual_seed(4)
    lstm = nn.LSTM(32, 32)
    with torch.no_grad():
        for gate in lstm.weight_hh_l0.chunk(4):
            nn.init.orthogonal_(gate)
        lstm.bias_ih_l0.zero_()
        lstm.bias_ih_l0[32:64] = 1
    found = vp.identify(lstm)
    assert found["weight_hh_l0"].distribution == "orthogonal"
    assert [law.name for law in found["weight_hh_l0"].laws] == ["orthogonal"]
    assert found["weight_hh_l0"].note == "each of 4 blocks"
    assert found["bias_ih_l0"].note == "4 blocks: zeros, constant 1, zeros, zeros"


def test_queries_keys_and_values_in_one_matrix() -> None:
    torch.manual_seed(5)
    attention = nn.MultiheadAttention(64, 4)
    assert vp.identify(attention)["in_proj_weight"].laws[0].name == "xavier"
    with torch.no_grad():
        for part in attention.in_proj_weight.chunk(3):
            nn.init.xavier_uniform_(part)
    laws = [law.name for law in vp.identify(attention)["in_proj_weight"].laws]
    assert "xavier of 3 blocks" in laws
    assert "xavier" not in laws


def test_a_tall_orthogonal_matrix_is_one_and_not_three() -> None:
    torch.manual_seed(6)
    tall = nn.Linear(64, 192)
    nn.init.orthogonal_(tall.weight)
    assert vp.identify(tall)["weight"].note == ""
