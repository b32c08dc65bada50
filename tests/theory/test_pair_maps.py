import math

import numpy as np
import pytest
from hypothesis import given, strategies as st

from varprobe.errors import InvalidArgumentError, VarprobeWarning
from varprobe.theory.pair_maps import FEW, MAX_VARIANCES, expect_pairs
from varprobe.theory.quadrature import expect, expect_pair


def hardtanh(x):
    return np.clip(x, -1, 1)


def hardtanh_slope(x):
    return np.where(np.abs(x) < 1, 1.0, 0.0)


def tanh_slope(x):
    return 1 - np.tanh(x) ** 2


FUNCTIONS = [(np.tanh, ()), (tanh_slope, ()), (hardtanh, (-1.0, 1.0))]


def exact(function, kinks, q1, q2, rho):
    triples = zip(*(array.ravel() for array in np.broadcast_arrays(q1, q2, rho)), strict=True)
    return np.array([expect_pair(function, function, *triple, kinks) for triple in triples])


@pytest.mark.parametrize(("function", "kinks"), FUNCTIONS)
@pytest.mark.parametrize(("q1", "q2"), [(1.0, 1.0), (0.01, 0.01), (20.0, 20.0), (1.0, 4.0)])
def test_a_table_equals_the_quadrature(function, kinks, q1, q2):
    rho = np.concatenate([np.linspace(-1, 1, 61), 1 - np.geomspace(1e-12, 0.1, 12)])
    table = expect_pairs(function, kinks, q1, q2, rho)
    expected = exact(function, kinks, q1, q2, rho)
    # The Chebyshev series ends where its coefficients are 1e-10 of the largest.
    assert table == pytest.approx(expected, abs=2e-10 * np.abs(expected).max())


def test_a_table_of_a_function_that_jumps_is_good_at_nearly_equal_variances():
    rho = np.linspace(-1, 1, 61)
    table = expect_pairs(hardtanh_slope, (-1.0, 1.0), 1.0, 1.05, rho)
    assert table == pytest.approx(exact(hardtanh_slope, (-1.0, 1.0), 1.0, 1.05, rho), abs=1e-7)


@pytest.mark.parametrize(
    ("function", "kinks", "tolerance"),
    [
        # Documented remainders: geometrically small, 1e-4 where f' jumps, 1e-2 where f jumps.
        (np.tanh, (), 1e-6),
        (tanh_slope, (), 1e-5),
        (hardtanh, (-1.0, 1.0), 5e-4),
        (hardtanh_slope, (-1.0, 1.0), 2e-2),
    ],
)
def test_a_series_equals_the_quadrature_and_is_exact_on_the_diagonal(function, kinks, tolerance):
    variances = np.geomspace(0.1, 10, 12)
    rho = np.random.default_rng(0).uniform(-1, 1, (12, 12))
    np.fill_diagonal(rho, 1)
    assert variances.size > MAX_VARIANCES
    assert rho.size > FEW
    series = expect_pairs(function, kinks, variances[:, None], variances, rho)
    expected = exact(function, kinks, variances[:, None], variances, rho).reshape(rho.shape)
    assert series == pytest.approx(expected, abs=tolerance)
    diagonal = expect(lambda x: function(x) ** 2, variances, kinks=kinks)
    assert np.diag(series) == pytest.approx(diagonal, rel=1e-12)


def test_the_mirrored_diagonal_of_a_series_is_exact_too():
    variances = np.geomspace(0.1, 10, 64)

    def shifted(x):
        return np.tanh(x + 0.5)

    series = expect_pairs(shifted, (), variances, variances, -1.0)
    mirrored = expect(lambda x: shifted(x) * shifted(-x), variances)
    assert series == pytest.approx(mirrored, abs=1e-12)


@given(rho=st.floats(-1, 1), q1=st.floats(0.01, 10), q2=st.floats(0.01, 10))
def test_pairs_obey_cauchy_schwarz_symmetry_and_oddness(rho, q1, q2):
    value = float(expect_pairs(np.tanh, (), q1, q2, rho))
    bound = float(np.prod(expect(lambda x: np.tanh(x) ** 2, [q1, q2])) ** 0.5)
    # Each of the three numbers is good to 1e-11.
    assert abs(value) <= bound * (1 + 1e-10)
    assert float(expect_pairs(np.tanh, (), q2, q1, rho)) == pytest.approx(value, abs=1e-11)
    assert float(expect_pairs(np.tanh, (), q1, q2, -rho)) == pytest.approx(-value, abs=1e-11)


def test_few_variances_in_one_array_share_tables():
    variances = np.array([0.5, 2.0])
    rho = np.linspace(-1, 1, 40)[:, None, None]
    table = expect_pairs(np.tanh, (), variances[:, None], variances, rho)
    expected = exact(np.tanh, (), variances[:, None], variances, rho)
    assert table.ravel() == pytest.approx(expected, abs=1e-10)


def test_large_arrays_are_cut_into_blocks_without_a_seam():
    rho = np.linspace(-1, 1, 300_000)
    table = expect_pairs(np.tanh, (), 1.0, 1.0, rho)
    # The slope of the map is at most E φ'² < 1, so that neighbours differ by less than a step.
    assert np.abs(np.diff(table)).max() < 2 / 300_000
    variances = np.geomspace(0.5, 2, 300)
    grid = np.linspace(-1, 1, 90_000).reshape(300, 300)
    whole = expect_pairs(np.tanh, (), variances[:, None], variances, grid)
    part = expect_pairs(np.tanh, (), variances[123, None], variances, grid[123])
    assert whole[123] == pytest.approx(part, abs=1e-13)


def test_a_function_too_sharp_for_the_table_is_told():
    def sharp(x):
        return np.tanh(200 * x)

    with pytest.warns(VarprobeWarning, match=r"is off by .* at correlation 1"):
        expect_pairs(sharp, (), 1.0, 1.0, np.linspace(-1, 1, FEW + 1))


def test_what_is_no_variance_or_correlation_is_refused():
    with pytest.raises(InvalidArgumentError, match="variance"):
        expect_pairs(np.tanh, (), 1.0, -1.0, 0.5)
    with pytest.raises(InvalidArgumentError, match="correlation"):
        expect_pairs(np.tanh, (), 1.0, 1.0, math.nan)
