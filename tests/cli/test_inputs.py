from __future__ import annotations

import click
import pytest
import torch

from varprobe.cli.inputs import FLOATS, INTEGERS, InputSpec, draw_inputs, parse_input


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("32,3,224,224", InputSpec(shape=(32, 3, 224, 224))),
        ("8", InputSpec(shape=(8,))),
        ("8,64:float64", InputSpec(shape=(8, 64), dtype="float64")),
        ("4,16:int64:1000", InputSpec(shape=(4, 16), dtype="int64", high=1000)),
    ],
)
def test_an_input_is_a_shape_a_dtype_and_a_bound(text: str, spec: InputSpec) -> None:
    assert parse_input(text) == spec


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "'' is no shape: expected whole numbers above 0 between commas"),
        ("4,x", "'4,x' is no shape"),
        ("4,0", "'4,0' is no shape"),
        ("4:int64:5:6", "is no shape"),
        ("4:float65", "no dtype 'float65' here: choose from float32, "),
        ("4:int64", "integers, and only integers, need the number below which they lie, as in 4:i"),
        ("4:float32:7", "integers, and only integers"),
        ("4:int64:0", "integers, and only integers"),
    ],
)
def test_what_is_wrong_is_said(text: str, message: str) -> None:
    with pytest.raises(click.BadParameter) as caught:
        parse_input(text)
    assert message in caught.value.message


def test_the_numbers_are_those_of_the_seed() -> None:
    specs = [parse_input("64,64"), parse_input("64,64:int64:10")]
    first, again, other = (
        draw_inputs(specs, seed=seed, device=torch.device("cpu")) for seed in (0, 0, 1)
    )
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])
    normal, integers = first
    # Of 4096 numbers, the mean of squares has a standard error of sqrt(2/4096) = 0.022.
    assert abs(normal.square().mean() - 1) < 5 * 0.022
    assert set(integers.unique().tolist()) == set(range(10))


@pytest.mark.parametrize("dtype", [*FLOATS, *INTEGERS])
def test_every_dtype_that_is_offered_exists(dtype: str) -> None:
    text = f"2,3:{dtype}" + (":5" if dtype in INTEGERS else "")
    (drawn,) = draw_inputs([parse_input(text)], seed=0, device=torch.device("cpu"))
    assert (str(drawn.dtype), tuple(drawn.shape)) == (f"torch.{dtype}", (2, 3))


def test_on_the_meta_device_floats_have_no_numbers_and_integers_do() -> None:
    specs = [parse_input("4,1000000000000"), parse_input("64:int64:10")]
    floats, integers = draw_inputs(specs, seed=0, device=torch.device("meta"))
    assert floats.is_meta
    (drawn,) = draw_inputs(specs[1:], seed=0, device=torch.device("cpu"))
    assert torch.equal(integers, drawn)
