"""Second moments of draws, and how they scatter, read off for a layer of other numbers of heads."""

from __future__ import annotations

import torch
from torch import Tensor

from varprobe.theory.scores import Level


def weigh_together(passed: Tensor, value: float, pairs: Tensor) -> float:
    """Return the share of the outputs' second moment that is of pairs of different sites.

    Parameters
    ----------
    passed : Tensor
        Attention weights, (..., keys).
    value : float
        Second moment of the values.
    pairs : Tensor
        Of the outputs, (2, P, P).
    """
    flat = passed.flatten()
    alone = value * float(flat @ flat) * passed.shape[-1] / len(flat)
    return max(0.0, 1 - alone / max(float(pairs[1].diagonal().mean()), 1e-300))


def measure_level(values: Tensor, samples: int, heads: int, shares: Tensor | None = None) -> Level:
    """Return the moments of draws (draws, 2, heads, lead, queries, keys), hidden keys left out.

    Parameters
    ----------
    values : Tensor
        The draws.
    samples, heads : int
        Of the real layer.
    shares : Tensor or None
        For how many queries each stands.
    """
    mean, square = values.mean(-1).double(), values.square().mean(-1).double()
    if not bool(mean.isfinite().all()):
        shown = values.isfinite()
        count = shown.sum(-1).clamp_min(1)
        kept = torch.where(shown, values, 0.0)
        mean, square = kept.sum(-1).double() / count, kept.square().sum(-1).double() / count
        seen = shown.sum(-1).double()
        shares = seen if shares is None else seen * shares
    if shares is None:
        shares = torch.ones((), dtype=torch.float64)
    shares = shares.expand_as(mean)
    whole = shares.sum((-2, -1)).clamp_min(1e-300)
    squares = (square * shares).sum((-2, -1)) / whole
    average = float(((mean * shares).sum((-2, -1)) / whole).mean())
    return Level(average, float(squares.mean()), vary(squares, samples, heads))


def vary_grams(same: list[Tensor], samples: int, heads: int) -> float:
    """Return the relative variance of the second moment over draws, given Grams of two samples."""
    levels = torch.stack([g.diagonal(dim1=-2, dim2=-1).mean(-1) for g in same], dim=1)
    return vary(levels.double(), samples, heads)


def vary(levels: Tensor, samples: int, heads: int) -> float:
    """Return the relative variance of an average over samples and heads.

    Some inputs pass more than others, and some heads do. What draws of two samples and some heads
    have in common is told from what each has alone, since the real layer has other numbers of them.

    Parameters
    ----------
    levels : Tensor
        Second moments, (draws, 2, heads).
    samples, heads : int
        Of the real layer.
    """
    count, _, drawn = levels.shape
    if count < 2:
        return 0.0
    deviations = (levels - levels.mean(0)).view(count, 2, drawn)
    products = torch.einsum("dsh,dtk->stkh", deviations, deviations) / (count - 1)
    same, differ = products[[0, 1], [0, 1]].mean(0), products[[0, 1], [1, 0]].mean(0)
    one = torch.eye(drawn, dtype=torch.bool)
    # Products of a few draws scatter: no part of a variance is below zero.
    every = max(0.0, float(differ[~one].mean()))
    by_sample = max(0.0, float(same[~one].mean()) - every)
    by_head = max(0.0, float(differ[one].mean()) - every)
    rest = max(0.0, float(same[one].mean()) - every - by_sample - by_head)
    total = every + by_sample / samples + by_head / heads + rest / (samples * heads)
    return total / max(float(levels.mean()) ** 2, 1e-300)
