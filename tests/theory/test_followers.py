from __future__ import annotations

import pytest

from varprobe.theory.followers import find_followers, find_wanted_gain
from varprobe.theory.nonlinearities import get_nonlinearity


def test_each_layer_has_the_first_nonlinearity_before_the_next_layer() -> None:
    calls = [
        ("fc1", "weighted"),
        ("dropout", "other"),
        ("relu", "nonlinearity"),
        ("tanh", "nonlinearity"),
        ("fc2", "weighted"),
        ("fc3", "weighted"),
        ("gelu", "nonlinearity"),
    ]
    assert find_followers(calls) == {"fc1": "relu", "fc3": "gelu"}


def test_a_rescaling_ends_what_a_layer_has_to_answer_for() -> None:
    calls = [("conv", "weighted"), ("norm", "rescaling"), ("relu", "nonlinearity")]
    assert find_followers(calls) == {}
    assert find_followers([("relu", "nonlinearity")]) == {}


@pytest.mark.parametrize(
    ("name", "squared"), [("relu", 2.0), ("gelu", 2.3519), ("tanh", 1.0), ("sigmoid", 1.0)]
)
def test_saturating_nonlinearities_want_unit_gain(name: str, squared: float) -> None:
    assert find_wanted_gain(get_nonlinearity(name)) ** 2 == pytest.approx(squared, abs=1e-3)
