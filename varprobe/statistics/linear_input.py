"""What a Linear or ConvNd received, summed up for the local test of its gain.

A layer's output at one position is w · h, h the window of fan-in inputs. Given the inputs, the
output's second moment over fresh weights of second moment w² is w² · mean|h|². How far it scatters
over draws depends on the Gram matrix G = h hᵀ over the positions: on (tr G)²/tr G², the number of
samples that the positions are worth, and where there is a bias on the mean window, which all
positions share. How far samples, or tokens, still differ from each other is measured along their
axes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from varprobe.moments import LinearInput
from varprobe.statistics.quiet import quiet
from varprobe.statistics.tensors import is_plain

MAX_WINDOWS = 256
"""Windows whose Gram matrix is formed. Their 32,640 pairs estimate the mean squared cosine to about
1 %, which moves a significance by half of that."""

_Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d

_CONVOLVE: dict[type[nn.Module], Callable[..., torch.Tensor]] = {
    nn.Conv1d: F.conv1d,
    nn.Conv2d: F.conv2d,
    nn.Conv3d: F.conv3d,
}


class _Windows(NamedTuple):
    energy: float
    positions: int
    sample: torch.Tensor
    """Some of the windows, (sampled positions, groups, fan_in)."""


def measure_linear_input(module: nn.Module, tensor: torch.Tensor) -> LinearInput | None:
    """Sum up the input of a Linear or ConvNd.

    Returns
    -------
    LinearInput or None
        None for other modules, for convolutions with a forward of their own (some pad their input
        by themselves), for inputs off the CPU (it would make the host wait), and for inputs without
        finite numbers.
    """
    if not isinstance(module, nn.Linear | _Convolution) or not is_plain(tensor):
        return None
    if isinstance(module, _Convolution) and not _runs_as_torch_does(module):
        return None
    if not tensor.is_cpu or not tensor.numel():
        return None
    with quiet(tensor), torch.no_grad():
        values = tensor.detach().double()
        second_moment = values.square().mean().item()
        if not math.isfinite(second_moment) or second_moment == 0.0:
            return None
        if isinstance(module, nn.Linear):
            windows = _see_rows(values)
        else:
            windows = _see_patches(module, values)
        samples, common_energy = _sum_up_gram(windows)
        samples_apart, tokens_apart = _measure_spreads(module, values, second_moment)
    return LinearInput(
        second_moment=second_moment,
        energy=windows.energy,
        common_energy=min(common_energy, windows.energy),
        effective_samples=samples,
        positions=windows.positions,
        sample_spread=samples_apart,
        token_spread=tokens_apart,
    )


def _measure_spreads(
    module: nn.Linear | _Convolution, values: torch.Tensor, second_moment: float
) -> tuple[float | None, float | None]:
    """Return how far samples, and tokens, differ; None where the input has no such axis."""
    if not isinstance(module, nn.Linear):
        is_batch = values.dim() == len(module.kernel_size) + 2
        return _measure_spread(values, second_moment) if is_batch else None, None
    tokens = values.flatten(1, -2).transpose(0, 1) if values.dim() > 2 else values[:1]
    return _measure_spread(values, second_moment), _measure_spread(tokens, second_moment)


def _measure_spread(slices: torch.Tensor, second_moment: float) -> float | None:
    """Return the mean variance along the first axis (correction 1), over the second moment."""
    count = len(slices) if slices.dim() > 1 else 1
    if count < 2:
        return None
    # About the first slice: where all are equal, the differences and the variance are exactly 0.
    return (slices - slices[:1]).var(0).mean().item() / second_moment


def _runs_as_torch_does(module: _Convolution) -> bool:
    kind = next(kind for kind in _CONVOLVE if isinstance(module, kind))
    return all(getattr(type(module), n) is getattr(kind, n) for n in ("forward", "_conv_forward"))


def _see_rows(values: torch.Tensor) -> _Windows:
    rows = values.reshape(-1, values.shape[-1])
    positions = rows.shape[0]
    sample = rows[_choose(positions)].unsqueeze(1)
    return _Windows(rows.square().sum(1).mean().item(), positions, sample)


def _see_patches(module: _Convolution, values: torch.Tensor) -> _Windows:
    dims = len(module.kernel_size)
    batch = values if values.dim() == dims + 2 else values.unsqueeze(0)
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    padded = F.pad(batch, module._reversed_padding_repeated_twice, mode=mode)
    patches = padded
    for axis, (size, stride, dilation) in enumerate(
        zip(module.kernel_size, module.stride, module.dilation, strict=True)
    ):
        patches = patches.unfold(2 + axis, dilation * (size - 1) + 1, stride)[..., ::dilation]
    patches = patches.movedim(1, 1 + dims)
    grid = patches.shape[: 1 + dims]
    positions = math.prod(grid)
    chosen = patches[torch.unravel_index(_choose(positions), grid)]
    sample = chosen.reshape(chosen.shape[0], module.groups, -1)
    ones = torch.ones(1, 1, *module.kernel_size, dtype=torch.float64)
    convolve = next(f for kind, f in _CONVOLVE.items() if isinstance(module, kind))
    energies = convolve(
        padded.square().sum(1, keepdim=True),
        ones,
        stride=module.stride,
        dilation=module.dilation,
    )
    return _Windows(energies.mean().item() / module.groups, positions, sample)


def _choose(positions: int) -> torch.Tensor:
    # A generator of its own: the user's random numbers stay as they were. Random, since a regular
    # stride would beat with rows and columns of the image.
    generator = torch.Generator().manual_seed(0)
    return torch.randperm(positions, generator=generator)[:MAX_WINDOWS]


def _sum_up_gram(windows: _Windows) -> tuple[float, float]:
    """Return (effective_samples, common_energy), from the Gram matrices of the sampled windows.

    The first is (Σ tr G)² / (groups · Σ tr G²), sums over groups; the pairs that were not sampled
    are represented by those that were. The second is the mean of h_p · h_q over pairs p ≠ q.
    """
    by_group = windows.sample.transpose(0, 1)
    gram = by_group @ by_group.transpose(1, 2)
    groups, sampled, positions = len(by_group), gram.shape[-1], windows.positions
    diagonal = gram.diagonal(dim1=1, dim2=2)
    squares = positions * diagonal.square().mean(1)
    common = diagonal.mean()
    if sampled > 1:
        pairs = sampled * (sampled - 1)
        others = gram.square().sum((1, 2)) - diagonal.square().sum(1)
        squares = squares + positions * (positions - 1) * others / pairs
        common = (gram.sum() - diagonal.sum()) / (groups * pairs)
    traces = positions * diagonal.mean(1).sum()
    samples = (traces.square() / (groups * squares.sum())).item()
    if not math.isfinite(samples):  # every sampled window was zero
        samples = 1.0
    return min(max(samples, 1.0), float(positions)), max(common.item(), 0.0)
