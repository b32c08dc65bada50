from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.diagnosis.judging import judge


def layer(factor: float, dtype: torch.dtype) -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    model = nn.Linear(64, 64, bias=False).to(dtype)
    with torch.no_grad():
        model.weight.normal_().mul_(factor)
    return model, torch.randn(8, 64).to(dtype)


@pytest.mark.parametrize(
    ("factor", "dtype", "places"),
    [
        # Outputs are 8 times the weights, their largest of 512 another 3 times.
        (1e3, torch.float16, ["reaches"]),
        (1e3, torch.bfloat16, []),
        (1e3, torch.float32, []),
        (1e2, torch.float16, []),
        # The smallest normal number of float16 is 6.1e-5.
        (1e-5, torch.float16, ["loses digits"]),
        (1e-5, torch.bfloat16, []),
        (1e-3, torch.float16, []),
        (1e37, torch.float32, ["reaches"]),
        (1e-40, torch.float32, ["loses digits"]),
    ],
)
def test_the_ends_of_a_dtype(factor: float, dtype: torch.dtype, places: list[str]) -> None:
    found = judge(*layer(factor, dtype), "VP902")
    assert len(found) == len(places)
    assert all(place in finding.message for place, finding in zip(places, found, strict=True))
    assert all(finding.level == "warning" for finding in found)


@pytest.mark.parametrize(("scale", "count"), [(1e-4, 1), (1.0, 0)])
def test_gradients_of_a_loss_of_ones_own_are_judged(scale: float, count: int) -> None:
    model, inputs = layer(0.1, torch.float16)
    found = judge(model, inputs, "VP902", loss=lambda y: y.float().mean() * scale)
    assert len(found) == count
    assert all("gradient" in finding.message for finding in found)


def test_scores_that_are_masked_are_no_overflow() -> None:
    class Masks(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.masked_fill(x < 0, torch.finfo(x.dtype).min)

    model, inputs = layer(0.1, torch.float32)
    assert judge(nn.Sequential(model, Masks(), nn.Softmax(-1)), inputs, "VP902") == []
