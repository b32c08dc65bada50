"""Every function of torch that the tables name exists: a misspelt one would hide nothing."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from varprobe.observation.naming import _COPIES, _FILLS, _OPERATORS, _REARRANGEMENTS, name_operation

NAMED = [*_COPIES.split(), *_REARRANGEMENTS.split(), *_FILLS.split()]


@pytest.mark.parametrize("name", NAMED)
def test_what_makes_no_numbers_is_something_of_torch(name) -> None:
    spellings = (name, f"{name}_", f"__{name}__")
    homes = (torch, torch.Tensor, F, torch.nested, torch.nn.utils.rnn, torch.ops.aten)
    assert any(hasattr(home, spelling) for home in homes for spelling in spellings)


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (torch.add, "add"),
        (torch.Tensor.add_, "add"),
        (torch.Tensor.__iadd__, "add"),
        (torch.Tensor.__rsub__, "sub"),
        (torch.Tensor.__rtruediv__, "div"),
        (torch.Tensor.__rpow__, "pow"),
        (torch.Tensor.__rmatmul__, "matmul"),
        (torch.Tensor.__setitem__, "setitem"),
        (F.relu, "relu"),
        (F.relu_, "relu"),
        (torch.ops.aten.relu, "relu"),
        (torch.ops.aten.relu_.default, "relu"),
        (torch.round, "round"),
        (torch.relu, "relu"),
        (torch.Tensor.shape.__get__, None),
        (torch.Tensor.__len__, None),
        (torch.nn.init.kaiming_normal_, "fill"),
    ],
)
def test_one_operation_has_one_name(function, name) -> None:
    assert name_operation(function) == name


def test_no_operator_is_another_with_a_letter_in_front() -> None:
    assert not {f"{letter}{name}" for letter in "ri" for name in _OPERATORS} & _OPERATORS
