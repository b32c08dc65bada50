"""Samples on which a careless statistic is wrong by more than one part in a million."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

MANY = 200_000
"""Enough for running sums in float32 to lose digits, and for several chunks."""


def _normal(mean: float, std: float, dtype: torch.dtype) -> Callable[[], torch.Tensor]:
    return lambda: (torch.randn(MANY, dtype=torch.float64) * std + mean).to(dtype)


DISTRIBUTIONS: dict[str, Callable[[], torch.Tensor]] = {
    "N(0, 1)": _normal(0.0, 1.0, torch.float32),
    "N(1000, 1)": _normal(1000.0, 1.0, torch.float32),
    "N(1e4, 0.01)": _normal(1e4, 0.01, torch.float32),
    "N(1e4, 0.01) float64": _normal(1e4, 0.01, torch.float64),
    "N(0, 300) float16": _normal(0.0, 300.0, torch.float16),
    "N(0, 1e-7)": _normal(0.0, 1e-7, torch.float32),
    "N(0, 1e-7) float16": _normal(0.0, 1e-7, torch.float16),
    "1e25 N(0, 1)": _normal(0.0, 1e25, torch.float32),
    "1e-25 N(0, 1)": _normal(0.0, 1e-25, torch.float32),
    "1e-43, subnormal": _normal(0.0, 1e-43, torch.float32),
    "1e150 N(0, 1) float64": _normal(0.0, 1e150, torch.float64),
    "N(3, 1) bfloat16": _normal(3.0, 1.0, torch.bfloat16),
    "N(0, 1) bfloat16, few rows": lambda: torch.randn(30_000).bfloat16(),
    "±0.3, few rows": lambda: torch.randn(30_000).sign() * 0.3,
    "a giant, few rows": lambda: torch.cat([torch.full((1,), 3e3), torch.randn(30_000)]),
    "N(0, 1), few rows": lambda: torch.randn(30_000),
    "after leaky ReLU, few rows": lambda: nn.functional.leaky_relu(torch.randn(32_768)),
    "rows that repeat": lambda: torch.randn(1, 192).expand(128, 192).contiguous(),
    "bfloat16 numbers in float32": lambda: torch.randn(32_768).bfloat16().float(),
    "sparse constants": lambda: 0.3 * (torch.rand(32_768) < 0.1),
    "uniform": lambda: torch.rand(MANY),
    "after ReLU": lambda: torch.randn(MANY).relu(),
    "heavy tails": lambda: torch.distributions.StudentT(1.5).sample((MANY,)),
    "one giant": lambda: torch.cat([torch.full((1,), 1e12), torch.randn(MANY)]),
    "constant": lambda: torch.full((MANY,), 0.1),
    "two values": lambda: torch.tensor([1.0, 1.0 + 1e-6]).repeat(MANY // 2),
    "zeros": lambda: torch.zeros(MANY),
    "negative zeros": lambda: -torch.zeros(7),
    "one element": lambda: torch.tensor([-3.0]),
    "no element": lambda: torch.zeros(0),
    "some not finite": lambda: torch.cat(
        [torch.randn(1000), torch.tensor([torch.nan, torch.inf, -torch.inf, torch.inf])]
    ),
    "none finite": lambda: torch.tensor([torch.nan, torch.inf, -torch.inf]),
    "all NaN": lambda: torch.full((5,), torch.nan),
}
