from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, strategies as st

from tests.initializers.layers import MANY_STANDARD_ERRORS, standard_errors
from varprobe.initializers.laws import WeightLaw
from varprobe.initializers.sampling import fill

FORMS = (WeightLaw.normal(0.3), WeightLaw.uniform(0.3, mean=0.1), WeightLaw.trunc_normal(0.5, 0.1))


@pytest.mark.parametrize("law", FORMS, ids=lambda law: law.distribution)
def test_a_sample_has_the_moments_of_its_law(law: WeightLaw) -> None:
    values = torch.empty(200_000, dtype=torch.float64)
    fill(values, law)
    assert standard_errors(values, law) < MANY_STANDARD_ERRORS
    error = math.sqrt(law.variance / values.numel())
    assert abs(values.mean().item() - law.mean) < MANY_STANDARD_ERRORS * error
    deviation = values - law.mean
    kurtosis = deviation.pow(4).mean() / deviation.square().mean() ** 2
    # Var of the mean of N fourth powers is at most E x⁸ / N = 105 / N (in units of variance⁴,
    # a normal's); what the denominator adds is smaller and of opposite sign.
    assert abs(kurtosis - law.kurtosis) < MANY_STANDARD_ERRORS * math.sqrt(105 / values.numel())


def test_bounded_laws_keep_their_bounds() -> None:
    values = torch.empty(10_000, dtype=torch.float64)
    fill(values, WeightLaw.uniform(1 / 3))
    assert 0.99 < values.abs().max() <= 1
    fill(values, WeightLaw.trunc_normal(0.1))
    assert 0.195 < values.abs().max() <= 0.2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("law", FORMS, ids=lambda law: law.distribution)
def test_narrow_dtypes_are_float32_draws_rounded_once(law: WeightLaw, dtype: torch.dtype) -> None:
    narrow = torch.empty(64, 64, dtype=dtype)
    wide = torch.empty(64, 64)
    torch.manual_seed(5)
    fill(narrow, law)
    torch.manual_seed(5)
    fill(wide, law)
    assert torch.equal(narrow, wide.to(dtype))


@given(st.integers(1, 12), st.integers(1, 12), st.sampled_from([1, 2, 3]))
def test_every_group_of_an_orthogonal_sample_is_semi_orthogonal(rows, columns, groups) -> None:
    weight = torch.empty(groups * rows, columns, dtype=torch.float64)
    fill(weight, WeightLaw.orthogonal(max(rows, columns), gain=2.0), groups=groups)
    for block in weight.split(rows):
        gram = block @ block.T if rows <= columns else block.T @ block
        # Householder QR is orthogonal to a small multiple of n eps = 3e-15.
        assert torch.allclose(gram, 4 * torch.eye(min(rows, columns)).double(), atol=1e-13)


def test_an_orthogonal_sample_is_uniform_over_signs() -> None:
    # QR alone makes the diagonal of R, and with it one coordinate of each vector, one-sided.
    weights = torch.empty(4000, 2, 2)
    for weight in weights:
        fill(weight, WeightLaw.orthogonal(2))
    # The mean of n = 4000 elements of variance 1/2.
    assert weights.mean(0).abs().max() < MANY_STANDARD_ERRORS * math.sqrt(0.5 / 4000)


def test_orthogonal_draws_the_numbers_that_torch_draws() -> None:
    for shape in ((5, 3), (3, 5), (4, 2, 3, 3)):
        mine, torchs = torch.empty(shape), torch.empty(shape)
        torch.manual_seed(1)
        fill(mine, WeightLaw.orthogonal(max(shape[0], math.prod(shape[1:])), gain=1.5))
        torch.manual_seed(1)
        torch.nn.init.orthogonal_(torchs, gain=1.5)
        assert torch.allclose(mine, torchs, atol=1e-6)


def test_a_truncated_normal_without_width_is_its_mean() -> None:
    values = torch.empty(3)
    fill(values, WeightLaw.trunc_normal(0.0, mean=2.0))
    assert values.tolist() == [2.0, 2.0, 2.0]


def test_meta_and_empty_tensors_are_left_alone() -> None:
    before = torch.get_rng_state()
    fill(torch.empty(3, 3, device="meta"), WeightLaw.orthogonal(3))
    fill(torch.empty(0, 3), WeightLaw.orthogonal(3))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_measured_law_cannot_be_drawn() -> None:
    with pytest.raises(ValueError, match=r"^A 'measured' law has no form to draw from\.$"):
        fill(torch.empty(3), WeightLaw("measured", 0.0, 1.0, 3.0))
