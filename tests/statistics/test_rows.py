"""Units that equal each other, against a comparison of every pair of rows."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from varprobe.statistics import count_distinct_rows


def count_by_pairs(rows: torch.Tensor) -> int:
    return sum(not any(torch.equal(row, other) for other in rows[:i]) for i, row in enumerate(rows))


@pytest.mark.parametrize("copies", [1, 2, 8])
def test_copied_units_count_once(copies: int) -> None:
    layer = nn.Linear(13, 8 * copies)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(8, 13).repeat(copies, 1))
    assert count_distinct_rows(layer, layer.weight) == 8 == count_by_pairs(layer.weight)


def test_mirrored_units_differ() -> None:
    layer = nn.Linear(13, 8)
    with torch.no_grad():
        layer.weight[4:] = -layer.weight[:4]
    assert count_distinct_rows(layer, layer.weight) == 8


@pytest.mark.parametrize("kind", [nn.Conv2d, nn.ConvTranspose2d])
def test_units_of_different_groups_are_never_alike(kind: type[nn.Module]) -> None:
    layer = kind(6, 6, 3, groups=3)
    with torch.no_grad():
        layer.weight.fill_(0.1)
    assert count_distinct_rows(layer, layer.weight) == 3


def test_the_units_of_a_transposed_convolution_are_its_outputs() -> None:
    layer = nn.ConvTranspose1d(5, 4, 3)
    with torch.no_grad():
        layer.weight[:, 2:] = layer.weight[:, :2]
    assert count_distinct_rows(layer, layer.weight) == 2


def test_a_weight_without_numbers_is_not_counted() -> None:
    layer = nn.Linear(4, 4, device="meta")
    assert count_distinct_rows(layer, layer.weight) is None
