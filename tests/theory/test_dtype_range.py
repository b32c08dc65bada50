"""Laws that a dtype cannot hold are said to be so, before anything runs."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

import varprobe as vp
from varprobe.errors import VarprobeWarning
from varprobe.recording import Site


def build(dtype, depth=4):
    layers = [nn.Linear(256, 256, bias=False) for _ in range(depth)]
    return lambda: nn.Sequential(*layers).to(dtype)


def predict(dtype, std, **options):
    x = torch.randn(8, 256, dtype=dtype, generator=torch.Generator().manual_seed(0))
    return vp.predict(build(dtype, **options), x, init=f"normal(std={std})", loss=False)


def test_a_half_precision_model_that_overflows_is_reported():
    # Each layer multiplies by 16: 65,536 is left behind in the third, whose largest is 4 sigma.
    with pytest.warns(VarprobeWarning, match=r"the activation 3 is the first.*float16 ends at"):
        prediction = predict(torch.float16, 1.0)
    inside, outside = (prediction.find(Site(module=name)) for name in ("2", "3"))
    assert "range" not in inside.reason
    assert outside.status == "approximate"
    assert outside.reason.startswith("beyond the range of its dtype: it reaches 2.")
    # And so it is: the model gives infinities there, and none before.
    torch.manual_seed(0)
    model = build(torch.float16)()
    vp.initialize(model, "normal(std=1.0)")
    x = torch.randn(8, 256).half()
    assert model[:3](x).isfinite().all()
    assert not model(x).isfinite().all()


def test_numbers_that_lose_their_digits_are_reported():
    with pytest.warns(VarprobeWarning, match="float16 loses digits"):
        prediction = predict(torch.float16, 1e-3)
    assert "loses digits" in prediction.find(Site(module="3")).reason


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_wider_range_is_not(dtype):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        wide = predict(dtype, 1.0)
    assert wide.find(Site(module="3")).second_moment == pytest.approx(256.0**4, rel=0.05)


def test_the_end_of_bfloat16_is_its_own():
    with pytest.warns(VarprobeWarning, match="bfloat16 ends at"):
        predict(torch.bfloat16, 1e9)
