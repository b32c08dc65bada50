"""The slow, obvious implementation: two passes in float64 over the finite elements.

It is the oracle of the fast ones and serves them where their arithmetic does not hold: non-finite
elements, squares outside the range of the dtype, and means that dwarf the deviations.
"""

from __future__ import annotations

import torch

from varprobe.moments import Moments


def measure(values: torch.Tensor, *, zeros: bool) -> Moments:
    """Return the moments of a plain real tensor; ``zeros`` asks for the count of exact zeros."""
    numbers = values.detach().to("cpu", torch.float64).reshape(-1)
    finite = numbers[torch.isfinite(numbers)]
    mean = finite.mean().item() if finite.numel() else 0.0
    return Moments(
        numel=numbers.numel(),
        mean=mean,
        m2=(finite - mean).square().sum().item(),
        abs_max=finite.abs().max().item() if finite.numel() else 0.0,
        zeros=int((numbers == 0).sum()) if zeros else None,
        nan=int(torch.isnan(numbers).sum()),
        inf=int(torch.isinf(numbers).sum()),
    )


def count_exponents(values: torch.Tensor) -> dict[int, int]:
    """Count the finite non-zero elements with 2**(e-1) <= abs(x) < 2**e, by e."""
    numbers = values.detach().to("cpu", torch.float64).reshape(-1)
    numbers = numbers[torch.isfinite(numbers) & (numbers != 0)]
    exponents, counts = torch.unique(torch.frexp(numbers).exponent, return_counts=True)
    return dict(zip(exponents.tolist(), counts.tolist(), strict=True))
