from __future__ import annotations

import math
import subprocess
import sys

import mpmath
import pytest

from varprobe import initializers
from varprobe.errors import InvalidArgumentError
from varprobe.initializers.laws import (
    TRUNCATED_KURTOSIS,
    TRUNCATED_VARIANCE,
    WeightLaw,
    default_variance,
    kaiming_variance,
    lecun_variance,
    xavier_variance,
)


def moment(density: mpmath.mpf, order: int, low: float, high: float) -> mpmath.mpf:
    kept = mpmath.quad(density, [low, 0, high])
    return mpmath.quad(lambda x: x**order * density(x), [low, 0, high]) / kept


def test_the_truncated_normal_has_the_moments_that_quadrature_finds() -> None:
    second = moment(mpmath.npdf, 2, -2, 2)
    fourth = moment(mpmath.npdf, 4, -2, 2)
    # A few roundings of double precision.
    assert pytest.approx(float(second), rel=1e-14) == TRUNCATED_VARIANCE
    assert pytest.approx(float(fourth / second**2), rel=1e-13) == TRUNCATED_KURTOSIS


def test_kurtosis_is_that_of_the_density() -> None:
    uniform = (
        moment(lambda x: mpmath.mpf(1), 4, -1, 1) / moment(lambda x: mpmath.mpf(1), 2, -1, 1) ** 2
    )
    assert WeightLaw.uniform(1.0).kurtosis == pytest.approx(float(uniform), rel=1e-14)
    normal = moment(mpmath.npdf, 4, -mpmath.inf, mpmath.inf)
    assert WeightLaw.normal(1.0).kurtosis == pytest.approx(float(normal), rel=1e-14)


def test_an_orthogonal_element_is_a_coordinate_on_the_sphere() -> None:
    # On the circle a coordinate is cos of a uniform angle: E cos² = 1/2, E cos⁴ = 3/8.
    law = WeightLaw.orthogonal(2, gain=3.0)
    assert (law.variance, law.kurtosis) == (9 / 2, (3 / 8) / (1 / 2) ** 2)
    # A coordinate on the zero-sphere is ±1.
    assert WeightLaw.orthogonal(1).kurtosis == 1.0


def test_the_second_moment_counts_the_mean() -> None:
    assert WeightLaw.normal(4.0, mean=3.0).second_moment == 13.0
    assert WeightLaw.constant(3.0).second_moment == 9.0


def test_formulas() -> None:
    assert kaiming_variance(50) == 0.04
    assert kaiming_variance(50, gain_squared=1.5) == 0.03
    assert xavier_variance(30, 10) == 0.05
    assert xavier_variance(30, 10, gain_squared=2.0) == 0.1
    assert lecun_variance(8) == 0.125
    assert default_variance(100) == pytest.approx(1 / 300)


def test_he_2015_stds_of_the_vgg_layers() -> None:
    stds = [math.sqrt(kaiming_variance(9 * width)) for width in (64, 128, 256, 512)]
    assert [round(std, 4) for std in stds] == [0.0589, 0.0417, 0.0295, 0.0208]


@pytest.mark.parametrize("law", [kaiming_variance, lecun_variance, default_variance])
def test_a_fan_of_zero_is_refused(law) -> None:
    with pytest.raises(
        InvalidArgumentError, match=r"^A fan counts the weights .* at least 1, got 0\.$"
    ):
        law(0)


def test_the_package_loads_its_public_names_when_they_are_used() -> None:
    assert initializers.initialize.__module__ == "varprobe.initializers.application"
    assert {name for name in initializers.__all__ if hasattr(initializers, name)} == {
        "Change",
        "Repair",
        "WeightLaw",
        "initialization",
        "initialize",
        "law_of",
        "repair",
    }
    with pytest.raises(AttributeError, match="has no attribute 'kaiming'"):
        _ = initializers.kaiming


def test_the_laws_load_without_torch() -> None:
    code = "import sys, varprobe.initializers.laws; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
