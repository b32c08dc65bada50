"""Functions of one Gaussian variable that are asked for their values."""

import pytest
import torch

from varprobe.theory import pointwise
from varprobe.theory.pointwise import Pointwise, remember


class Counted:
    """A function that counts how often it is asked."""

    def __init__(self):
        self.asked = 0
        self.function = Pointwise(self)

    def __call__(self, x):
        self.asked += 1
        return torch.tanh(x)


def test_what_a_function_is_composed_of_is_asked_once():
    counted = Counted()
    twice = counted.function * counted.function + counted.function
    x = torch.randn(5, dtype=torch.float64)
    expected = torch.tanh(x) ** 2 + torch.tanh(x)
    with remember():
        assert torch.equal(twice(x), expected)
        assert torch.equal(twice(x), expected)
        assert counted.asked == 1
        twice(x.clone())
        assert counted.asked == 2
    assert torch.equal(twice(x), expected)
    assert counted.asked == 5


def test_nothing_is_kept_after_an_exception():
    counted = Counted()
    x = torch.zeros(1)
    failing = counted.function * Pointwise(lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError), remember():
        failing(x)
    counted.function(x)
    assert counted.asked == 2


def test_the_oldest_values_go_first(monkeypatch):
    monkeypatch.setattr(pointwise, "MOST_BYTES", 2 * 8)
    counted = Counted()
    first, second, third = (torch.full((1,), float(i), dtype=torch.float64) for i in range(3))
    with remember():
        for x in (first, second, first, third, first):
            counted.function(x)
        assert counted.asked == 3
        counted.function(second)
        assert counted.asked == 4


def test_other_arrays_at_the_same_address_are_told_apart():
    function = Pointwise(torch.sin)
    with remember():
        for value in range(100):
            x = torch.full((3,), float(value), dtype=torch.float64)
            assert torch.equal(function(x), torch.sin(x))
            del x
