from __future__ import annotations

import pytest
from torch import nn

from varprobe.identification.layout import count_siblings, describe, find_blocks


def describe_weight(module: nn.Module):
    return describe(module, "weight", tuple(module.weight.shape), ())


def test_fans_of_a_plain_layer() -> None:
    form = describe_weight(nn.Conv2d(8, 16, 3))
    assert form.fans == {"fan_in": 72, "fan_out": 144}
    assert form.pairs == {"": (72, 144)}
    assert form.matrix == (16, 72)
    assert form.default.variance == pytest.approx(1 / 216)


def test_fans_that_torch_sees_and_those_of_the_layer() -> None:
    grouped = describe_weight(nn.Conv2d(8, 16, 3, groups=4))
    assert grouped.fans == {"fan_in": 18, "fan_out": 36, "groups·fan_out": 144}
    assert grouped.pairs == {"": (18, 36), " over all groups": (18, 144)}
    transposed = describe_weight(nn.ConvTranspose2d(8, 16, 3, groups=4))
    assert transposed.fans == {"fan_in": 18, "fan_out": 36, "groups·fan_in": 72}


def test_a_vector_has_no_fans_however_it_is_shaped() -> None:
    for shape in [(16,), (1, 1, 16), (16, 1), ()]:
        assert describe(nn.Identity(), "token", shape, (4,)).fans == {}


@pytest.mark.parametrize(
    ("module", "role", "shape", "blocks"),
    [
        (nn.LSTM(4, 8), "weight_ih_l0", (32, 4), 4),
        (nn.GRUCell(4, 8), "weight_hh", (24, 8), 3),
        (nn.Linear(8, 24), "weight", (24, 8), 3),
        (nn.Linear(8, 25), "weight", (25, 8), 1),
        (nn.MultiheadAttention(8, 2), "in_proj_bias", (24,), 3),
        (nn.Conv2d(8, 16, 3, groups=4), "weight", (16, 2, 3, 3), 4),
        (nn.Conv2d(8, 8, 3, groups=8), "weight", (8, 1, 3, 3), 1),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else None,
)
def test_blocks(module: nn.Module, role: str, shape: tuple[int, ...], blocks: int) -> None:
    assert find_blocks(module, role, shape) == blocks


def test_blocks_of_one_class_are_counted() -> None:
    def block() -> nn.Module:
        return nn.ModuleDict({"fc": nn.Linear(2, 2)})

    stack = nn.Sequential(nn.Embedding(2, 2), *(block() for _ in range(3)), nn.Linear(2, 2))
    model = nn.ModuleList([stack, nn.Sequential(*stack)])
    names = {module: name for name, module in model.named_modules()}
    depths = count_siblings(names)
    assert depths[stack[1]["fc"]] == (2, 3)
    assert depths[stack[4]] == (2,)
    assert depths[model] == ()
