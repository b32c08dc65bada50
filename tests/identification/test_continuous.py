from __future__ import annotations

import math

import pytest
import torch
from torch.nn import init

from varprobe.identification.continuous import recognize_continuous
from varprobe.identification.numbers import Numbers
from varprobe.identification.recognized import Recognized


def recognize(values: torch.Tensor) -> Recognized:
    return recognize_continuous(Numbers(values))


@pytest.mark.parametrize("count", [2, 5, 16, 64, 256])
def test_few_numbers_leave_several_candidates_and_the_truth_is_one(count: int) -> None:
    torch.manual_seed(0)
    for _ in range(50):
        assert "normal" in recognize(torch.randn(count)).candidates
        assert "uniform" in recognize(torch.rand(count) - 0.5).candidates
        cut = init.trunc_normal_(torch.empty(count))
        assert "trunc_normal" in recognize(cut).candidates


def test_the_band_is_that_of_the_sample_variance() -> None:
    torch.manual_seed(1)
    values = torch.randn(20_000)
    (band,) = recognize(values).bands
    # ±5 standard errors of ln(variance): sqrt(2 / N) each.
    width = math.log(band.high / band.low)
    assert width == pytest.approx(10 * math.sqrt(2 / 20_000), rel=0.01)
    assert band.holds(values.var(correction=0).item())


def test_the_extremes_of_a_uniform_sample_tell_its_bound() -> None:
    torch.manual_seed(2)
    (band,) = recognize(torch.rand(20_000) * 2 - 1).bands
    assert band.holds(1 / 3)
    # Twelve Nths on one side, as against 5 sqrt(0.8 / N) of the sample variance on both.
    assert math.log(band.high / band.low) == pytest.approx(24 / 20_000, rel=0.01)


def test_a_truncated_sample_tells_its_variance_before_and_after() -> None:
    torch.manual_seed(3)
    found = recognize(init.trunc_normal_(torch.empty(5000), std=0.1, a=-0.2, b=0.2))
    assert found.candidates == ("trunc_normal",)
    after, before = found.bands
    assert (after.of, before.of) == ("", "before truncation")
    assert after.holds(0.7737 * 0.01)
    assert before.holds(0.01)
    assert not before.holds(0.0105)


@pytest.mark.parametrize("std", [0.7, 1.0, 1.5])
def test_cuts_at_round_ends_are_seen(std: float) -> None:
    torch.manual_seed(4)
    found = recognize(init.trunc_normal_(torch.empty(20_000), std=std))
    assert found.candidates == ("trunc_normal",)
    assert found.bands[1].holds(std**2)
    assert ("cut at" in found.note) == (std != 1.0)


def test_cuts_at_three_standard_deviations_are_seen() -> None:
    torch.manual_seed(5)
    found = recognize(init.trunc_normal_(torch.empty(50_000), std=0.02, a=-0.06, b=0.06))
    assert found.candidates == ("trunc_normal",)
    assert found.note == "cut at ±3 standard deviations"


def test_numbers_that_are_not_centred() -> None:
    torch.manual_seed(6)
    found = recognize(3 + torch.rand(5000))
    assert found.candidates == ("uniform",)
    assert found.support == pytest.approx((3, 4), abs=0.01)
    assert recognize(3 + 0.1 * torch.randn(5000)).candidates == ("normal",)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_rounding_is_conceded(dtype: torch.dtype) -> None:
    torch.manual_seed(7)
    for values, name in [(torch.randn(2**18), "normal"), (torch.rand(2**18) - 0.5, "uniform")]:
        found = recognize(values.to(dtype))
        assert found.candidates == (name,)
        assert found.bands[0].holds(1.0 if name == "normal" else 1 / 12)
