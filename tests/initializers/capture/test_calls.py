"""Calls that are run again on other tensors."""

from __future__ import annotations

import torch

from varprobe.initializers.capture.calls import Call, find_written, name_arguments

aten = torch.ops.aten


def make_call(func, *args, **kwargs):
    read = [t for t in (*args, *kwargs.values()) if isinstance(t, torch.Tensor)]
    given = name_arguments(func, args, kwargs)
    return Call(func, args, kwargs, read, list(find_written(func, given)))


def test_a_tensor_that_is_read_twice_gets_one_value() -> None:
    x = torch.empty(3)
    call = make_call(aten.mul.Tensor, x, x)
    assert call.operands == [x]
    assert call.run([torch.tensor([1.0, 2.0, 3.0])]).tolist() == [1.0, 4.0, 9.0]


def test_an_operation_in_place_leaves_the_nodes_alone() -> None:
    x, nodes = torch.empty(3), torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    call = make_call(aten.add_.Tensor, x, 5, alpha=2)
    assert call.targets == [x]
    assert call.compute(nodes).tolist() == [11.0, 12.0, 13.0]
    assert nodes.tolist() == [1.0, 2.0, 3.0]


def test_a_place_to_write_to_is_not_read() -> None:
    x, out = torch.empty(3), torch.empty(3)
    call = make_call(aten.exp.out, x, out=out)
    assert (call.operands, call.targets, call.has_out) == ([x], [out], True)
    assert call.run([torch.zeros(2)]).tolist() == [1.0, 1.0]


def test_whole_numbers_keep_their_type_and_drawn_ones_are_nodes() -> None:
    mask, x = torch.empty(3, dtype=torch.bool), torch.empty(3, dtype=torch.float16)
    call = make_call(aten.where.ScalarOther, mask, x, 7.0)
    nodes = torch.tensor([1.0, 0.5], dtype=torch.float64)
    result = call.compute(torch.tensor([1.0, 0.0], dtype=torch.float64), nodes)
    assert (result.dtype, result.tolist()) == (torch.float64, [1.0, 7.0])


def test_arguments_are_named_with_their_defaults() -> None:
    given = name_arguments(aten.normal_.default, (torch.empty(1), 2.0), {})
    assert (given["mean"], given["std"], given["generator"]) == (2.0, 1.0, None)
