"""Distributions of one number, against closed forms and integrals over densities."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from varprobe.initializers.capture.elements import (
    compute,
    constant,
    dilute,
    invert_error_function,
    normal,
    numbers,
    orthogonal,
    pool,
    truncated_normal,
    uniform,
)
from varprobe.initializers.laws import WeightLaw


def assert_moments(law: WeightLaw, mean: float, variance: float, kurtosis: float) -> None:
    assert law.mean == pytest.approx(mean, rel=1e-9, abs=1e-12 * math.sqrt(variance))
    assert law.variance == pytest.approx(variance, rel=1e-8)
    assert law.kurtosis == pytest.approx(kurtosis, rel=1e-7)


@given(
    mean=st.floats(-3, 3),
    std=st.floats(1e-3, 10),
    low=st.floats(-7, 2),
    width=st.floats(0.05, 9),
)
@settings(max_examples=60, deadline=None)
def test_a_cut_normal_has_the_moments_of_its_density(mean, std, low, width) -> None:
    high = low + width
    law = pool([(truncated_normal(mean, std, mean + low * std, mean + high * std, 0), 1)])
    # The midpoint rule: 1e5 cells of 1e-4 standard deviations err by 1e-9.
    edges = np.linspace(low, high, 100_001)
    places = (edges[1:] + edges[:-1]) / 2
    density = np.exp((np.square(places).min() - places**2) / 2)
    centre = np.average(places, weights=density)
    powers = [np.average((places - centre) ** k, weights=density) for k in (2, 4)]
    # A cut beyond six standard deviations is left out, which takes 7e-8 of the variance and, by
    # ∫ x⁴ φ beyond six, 8e-7 of the kurtosis.
    assert law.mean == pytest.approx(mean + std * centre, abs=1e-7 * std)
    assert law.variance == pytest.approx(std**2 * powers[0], rel=1e-6)
    assert law.kurtosis == pytest.approx(powers[1] / powers[0] ** 2, rel=2e-6)


@pytest.mark.parametrize(
    ("function", "element", "mean", "variance", "fourth"),
    [
        # log u is minus an exponential: 1, 1, and a fourth central moment of 9.
        (torch.log, uniform(0.0, 1.0, 0), -1.0, 1.0, 9.0),
        (torch.square, normal(0.0, 1.0, 0), 1.0, 2.0, 60.0),
        (torch.square, uniform(0.0, 1.0, 0), 1 / 3, 4 / 45, 16 / 945),
        (lambda x: x + x * x, uniform(-1.0, 1.0, 0), 1 / 3, 19 / 45, None),
        (lambda x: x.clamp(min=0), normal(0.0, 1.0, 0), 0.5 ** 0.5 / math.pi ** 0.5,
         0.5 - 0.5 / math.pi, None),
    ],
)  # fmt: skip
def test_a_function_of_a_number(function, element, mean, variance, fourth) -> None:
    result = compute(function, [element])
    law = pool([(result, 1)])
    kurtosis = law.kurtosis if fourth is None else fourth / variance**2
    assert_moments(law, mean, variance, kurtosis)


def test_a_straight_line_keeps_the_form() -> None:
    element = compute(lambda x, c: c - 3 * x, [normal(1.0, 2.0, 0), constant(5.0)])
    assert (element.form, element.loc, element.scale) == ("normal", 2.0, -6.0)
    assert pool([(element, 4)]) == WeightLaw.normal(36.0, 2.0)
    assert pool([(compute(lambda x: 0 * x + 2, [element]), 1)]) == WeightLaw.constant(2.0)


def test_two_functions_of_one_draw_meet_and_two_draws_do_not() -> None:
    first = normal(0.0, 1.0, 0)
    doubled = compute(torch.add, [first, compute(lambda x: 3 * x, [first])])
    assert pool([(doubled, 1)]) == WeightLaw.normal(16.0)
    assert compute(torch.add, [first, normal(0.0, 1.0, 1)]) == "several draws meet"


@pytest.mark.parametrize(
    ("function", "said"), [(lambda x: x > 0, "jumps"), (lambda x: 1 / (x * 0), "finite")]
)
def test_what_cannot_be_told_says_why(function, said) -> None:
    assert said in compute(function, [normal(0.0, 1.0, 0)])


@pytest.mark.parametrize("cut", [0.5, 2.0, 7.0])
def test_the_inverse_error_function_makes_a_cut_normal(cut) -> None:
    end = math.erf(cut / math.sqrt(2))
    made = pool([(invert_error_function(uniform(-end, end, 0), 1), 1)])
    twin = pool(
        [(truncated_normal(0.0, math.sqrt(0.5), *(s * cut / 2**0.5 for s in (-1, 1)), 0), 1)]
    )
    assert made.distribution == twin.distribution
    assert_moments(made, twin.mean, twin.variance, twin.kurtosis)


@pytest.mark.parametrize("longer", [1, 2, 3, 10, 4096])
def test_a_coordinate_on_the_sphere(longer) -> None:
    expected = WeightLaw.orthogonal(longer, 2.0)
    assert_moments(
        pool([(orthogonal(longer, 2.0, 0), 1)]), 0.0, expected.variance, expected.kurtosis
    )


def test_zeros_in_between_scale_the_variance() -> None:
    assert_moments(pool([(dilute(normal(0.0, 2.0, 0), 0.75), 1)]), 0.0, 1.0, 12.0)


def test_pooled_parts_have_the_moments_of_all_their_elements() -> None:
    parts = [torch.tensor([1.0, 2.0, 2.0, 7.0]), torch.tensor([-3.0, 0.0])]
    law = pool([(numbers(part, i), len(part)) for i, part in enumerate(parts)])
    together = torch.cat(parts).double()
    centred = together - together.mean()
    variance = float(centred.square().mean())
    kurtosis = float(centred.pow(4).mean()) / variance**2
    assert law.distribution == "measured"
    assert_moments(law, float(together.mean()), variance, kurtosis)
    mixed = pool([(normal(0.0, 1.0, 0), 3), (normal(0.0, 3.0, 1), 1)])
    assert mixed == WeightLaw("other", 0.0, 3.0, 3 * (3 + 81) / 4 / 9)
    assert pool([(normal(0.0, 1.0, 0), 3), (normal(0.0, 1.0, 1), 1)]) == WeightLaw.normal(1.0)
