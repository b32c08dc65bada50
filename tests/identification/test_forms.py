from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import init

from varprobe.identification.forms import recognize_form
from varprobe.identification.numbers import Numbers


def recognize(values: torch.Tensor, groups: int = 1) -> str | None:
    found = recognize_form(Numbers(values), groups)
    return None if found is None else found.candidates[0]


def test_equal_numbers() -> None:
    assert recognize(torch.zeros(5)) == "zeros"
    assert recognize(torch.ones(3, 3)) == "constant"
    assert recognize(torch.full((), 2.0)) == "constant"


def test_an_identity_and_what_is_almost_one() -> None:
    assert recognize(torch.eye(6, 4)) == "identity"
    assert recognize(0.5 * torch.eye(4)) == "identity"
    permuted = torch.eye(4)[[1, 0, 2, 3]]
    assert recognize(permuted) == "orthogonal"
    assert recognize(torch.diag(torch.arange(1.0, 65.0))) is None


@pytest.mark.parametrize(
    ("shape", "groups"), [((8, 8, 3), 1), ((8, 4, 3, 3), 1), ((8, 4, 3, 3), 2)]
)
def test_dirac_and_what_is_almost_one(shape: tuple[int, ...], groups: int) -> None:
    weight = init.dirac_(torch.empty(shape), groups)
    assert recognize(weight, groups) == "dirac"
    shifted = weight.roll(1, dims=-1)
    assert recognize(shifted, groups) != "dirac"


@pytest.mark.parametrize("shape", [(16, 16), (8, 40), (40, 8), (8, 4, 3, 3)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_orthogonal_and_what_is_almost_so(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    weight = init.orthogonal_(torch.empty(shape), gain=1.3)
    assert recognize(weight.to(dtype)) == "orthogonal"
    found = recognize_form(Numbers(weight), 1)
    (band,) = found.bands
    assert band.holds(1.3**2)
    assert band.high / band.low < 1.001
    noisy = weight + 0.05 * torch.randn(shape)
    assert recognize(noisy.to(dtype)) is None
    stretched = weight.clone()
    stretched[0] *= 1.2
    assert recognize(stretched.to(dtype)) is None


def test_sparse_and_what_is_almost_so() -> None:
    torch.manual_seed(1)
    weight = init.sparse_(torch.empty(100, 40), 0.3)
    assert recognize(weight) == "sparse"
    # A number that is 0 by chance, as one in 2²⁴ is.
    weight[weight[:, 0].nonzero()[0], 0] = 0
    assert recognize(weight) == "sparse"
    dropped = nn.functional.dropout(torch.randn(100, 40), 0.3)
    assert recognize(dropped) is None
    masked = torch.ones(100, 40)
    masked[:30] = 0
    assert recognize(masked) is None


def test_tiny_matrices_in_coarse_dtypes_are_not_taken_for_orthogonal() -> None:
    torch.manual_seed(2)
    found = [recognize(torch.randn(2, 2).bfloat16()) for _ in range(300)]
    assert "orthogonal" not in found
