from __future__ import annotations

import pytest

from varprobe.identification.recognized import Band, Recognized
from varprobe.identification.variance_laws import GAINS, Form, VarianceLaw, find_compatible
from varprobe.initializers.laws import WeightLaw


def find(
    variance: float, form: Form, *, centre: float = 0.0, of: str = "", **fields: object
) -> list[str]:
    fields = {"candidates": ("normal",), **fields}
    band = Band(low=variance * 0.99, high=variance * 1.01, of=of)
    laws = find_compatible(Recognized(bands=(band,), **fields), [form], GAINS, centre=centre)
    return [law.name for law in laws]


WIDE = Form(fans={"fan_in": 100, "fan_out": 300}, pairs={"": (100, 300)}, matrix=(300, 100))


@pytest.mark.parametrize(
    ("variance", "names"),
    [
        (2 / 100, ["kaiming fan_in relu"]),
        (2 / 300, ["kaiming fan_out relu"]),
        (25 / 900, ["kaiming fan_in tanh"]),
        (1 / 100, ["lecun", "xavier relu", "std 0.1"]),
        (1 / 200, ["xavier"]),
        (2 / 500, ["small init"]),
        (1 / 300, ["1/(3 fan_in)", "lecun fan_out"]),
        (1 / 900, ["1/(3 fan_out)"]),
        (4e-4, ["std 0.02"]),
        (0.0213, []),
    ],
)
def test_the_compatible_laws_are_those_within_the_band(variance: float, names: list[str]) -> None:
    found = find(variance, WIDE)
    assert found[: len(names)] == names
    assert all(name.startswith("std") for name in found[len(names) :])


def test_what_torch_draws_itself_comes_first_if_it_is_so_distributed() -> None:
    form = Form(fans={"fan_in": 100}, default=WeightLaw.uniform(1 / 300))
    assert find(1 / 301, form, candidates=("uniform",), support=(-0.1, 0.1))[0] == "torch default"
    assert "torch default" not in find(1 / 301, form, candidates=("normal",))


def test_constants_are_torchs_own_or_nobodys() -> None:
    ones = Form(default=WeightLaw.constant(1.0))
    for value, names in [(1.0, ["torch default"]), (0.5, [])]:
        laws = find_compatible(Recognized(candidates=("constant",)), [ones], GAINS, centre=value)
        assert [law.name for law in laws] == names


def test_numbers_about_another_centre_follow_no_fan() -> None:
    assert find(1 / 100, WIDE, centre=1.0) == ["std 0.1 about 1"]
    uniform = {"candidates": ("uniform",), "support": (0.001, 0.999)}
    assert find(1 / 12.05, WIDE, centre=0.5, **uniform) == ["U(0, 1)"]


def test_before_truncation_is_said() -> None:
    found = find(4e-4, WIDE, of="before truncation", candidates=("trunc_normal",))
    assert found == ["std 0.02 before truncation"]


def test_gains_of_orthogonal_matrices() -> None:
    orthogonal = {"of": "gain²", "candidates": ("orthogonal",)}
    assert find(1.0, WIDE, **orthogonal) == ["orthogonal"]
    assert find(2.0, WIDE, **orthogonal) == ["orthogonal relu"]
    assert find(0.01, WIDE, **orthogonal) == ["orthogonal gain 0.1"]


def test_scaled_standard_deviations_know_the_depth() -> None:
    form = Form(depths=(12,))
    assert find(4e-4 / 24, form)[0] == "std 0.02/sqrt(2·12)"


def test_round_numbers_of_two_digits_are_the_last_resort() -> None:
    assert find(0.037**2, Form()) == ["std 0.037"]
    assert find(0.03**2, WIDE) == ["std 0.03"]
    assert find(2 / 100, WIDE) == ["kaiming fan_in relu"]


def test_a_law_is_a_name_and_a_number() -> None:
    assert VarianceLaw("lecun", 0.01) == VarianceLaw(name="lecun", variance=0.01)
