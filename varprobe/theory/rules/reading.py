"""Reading an input as a law, once the first layer says which axis holds the features."""

from __future__ import annotations

import math

import torch

from varprobe.errors import MissingRuleError
from varprobe.theory.expectations import Field
from varprobe.theory.explicit import ExplicitPairs, independent
from varprobe.theory.fluctuations import Spread
from varprobe.theory.law import Known, Law, Noise, Value
from varprobe.theory.layout import Layout, Role
from varprobe.theory.pairs import MOST_EXPLICIT, Pairs, choose_dtype
from varprobe.theory.profile import REASON, ProfilePairs
from varprobe.theory.standing import Standing

MOST_SAMPLES = 256
"""(Sample, position) pairs up to which the samples of a given batch are told apart, too."""


def read_law(value: Value, feature_dim: int) -> Law:
    """Return a value as a law; numbers that are given are measured.

    Parameters
    ----------
    value : Value
        What stands for the tensor.
    feature_dim : int
        The dimension of the features. Dimension 0 holds samples, the others positions.

    Raises
    ------
    MissingRuleError
        If the value has no law, or too many positions.
    """
    if isinstance(value, Law):
        return value
    if isinstance(value, Noise):
        return _read_noise(value.shape, feature_dim)
    if isinstance(value, Known) and value.tensor.is_floating_point():
        return _read_tensor(value.tensor, feature_dim)
    raise MissingRuleError(f"no law for a {type(value).__name__.lower()} argument")


def read_like(value: Known | Noise, law: Law) -> Law:
    """Return a value as a law whose axes are read like those of ``law``."""
    dims = range(len(law.layout.dims))
    features = [d for d in dims if law.layout.dims[d] and law.layout.only(d, Role.FEATURE)]
    if len(features) != 1:
        raise MissingRuleError("an input meets an array without one dimension of features")
    return read_law(value, features[0])


def default_feature_dim(shape: tuple[int, ...]) -> int:
    """Return where the features are if no layer says so: last, or behind the batch of images."""
    return 1 if len(shape) > 3 else len(shape) - 1


def _roles(shape: tuple[int, ...], feature_dim: int, *, explicit: bool) -> list[Role]:
    roles = [Role.POSITION] * len(shape)
    feature_dim %= max(1, len(shape))
    if len(shape) > 1 and feature_dim != 0 and not explicit:
        roles[0] = Role.SAMPLE
    if shape:
        roles[feature_dim] = Role.FEATURE
    return roles


def _read_noise(shape: tuple[int, ...], feature_dim: int) -> Law:
    layout = Layout.of(_roles(shape, feature_dim, explicit=False), shape)
    positions, samples = layout.count(Role.POSITION), layout.count(Role.SAMPLE)
    return Law(
        layout=layout,
        field=Field(
            independent(positions, samples),
            torch.zeros(positions, dtype=torch.float64),
            gaussian=True,
        ),
        standing=_stand(positions),
        field_spread=Spread(own=2 / math.prod(shape)),
    )


def _stand(positions: int) -> Standing:
    standing = Standing()
    return standing.approximate(REASON) if positions > MOST_EXPLICIT else standing


def _read_tensor(tensor: torch.Tensor, feature_dim: int) -> Law:
    shape = tuple(tensor.shape)
    feature_dim %= max(1, len(shape))
    features = shape[feature_dim] if shape else 1
    elements = math.prod(shape) // features
    layout = Layout.of(_roles(shape, feature_dim, explicit=elements <= MOST_SAMPLES), shape)
    positions, samples = layout.count(Role.POSITION), layout.count(Role.SAMPLE)
    rows = tensor.detach().cpu().to(choose_dtype(positions)).movedim(feature_dim, 0)
    rows = rows.reshape(features, samples, positions)
    pairs = _measure_profile(rows) if positions > MOST_EXPLICIT else _measure_pairs(rows)
    return Law(
        layout=layout,
        field=Field(pairs, rows.double().mean((0, 1)), gaussian=False),
        standing=_stand(positions),
        field_spread=Spread(gram=_scatter_samples(rows, pairs)),
    )


def _measure_pairs(rows: torch.Tensor) -> Pairs:
    """Return the pairs of given numbers, (features, samples, positions)."""
    features, samples, _ = rows.shape
    total = rows.sum(1)
    same = torch.einsum("fsp,fsq->pq", rows, rows)
    differ = (total.T @ total - same) / max(1, samples - 1)
    return ExplicitPairs(torch.stack([differ, same]) / (features * samples), samples)


def _measure_profile(rows: torch.Tensor) -> Pairs:
    features, samples, positions = rows.shape
    rows = rows.double()
    total, everything = rows.sum(1), rows.sum((1, 2))
    squares, within = rows.square().sum((0, 1)), torch.einsum("fsp,fs->p", rows, rows.sum(2))
    own = torch.stack([(total.square().sum(0) - squares) / max(1, samples - 1), squares])
    every = torch.einsum("fp,f->p", total, everything)
    rows_of = torch.stack([(every - within) / max(1, samples - 1), within])
    values = torch.stack([own, (rows_of - own) / (positions - 1)], dim=1)
    return ProfilePairs(values / (features * samples), samples)


def _scatter_samples(rows: torch.Tensor, pairs: Pairs) -> float:
    """Return the variance of the Gram entries that `Pairs` holds the average of."""
    features, samples, positions = rows.shape
    told_apart = isinstance(pairs, ExplicitPairs)
    if samples == 1 and told_apart:
        return 0.0
    stride = math.ceil(positions / MOST_SAMPLES)
    kept = rows[:, :, ::stride].double()
    if told_apart:
        grams = torch.einsum("fsp,ftp->stp", kept, kept) / features
    else:
        grams = torch.einsum("fi,fj->ij", *[kept.flatten(1)] * 2) / features
    apart = grams[~torch.eye(len(grams), dtype=torch.bool)]
    return float(apart.var(0, correction=0).mean()) / max(pairs.mean**2, 1e-300)
