from __future__ import annotations

from functools import reduce

import pytest
import torch
from hypothesis import given, strategies as st

from tests.reference import moments as numpy_reference
from tests.statistics.accuracy import PROMISED, assert_accurate
from tests.statistics.distributions import DISTRIBUTIONS
from tests.statistics.forms import MEASURES, measure_cpu, measure_reference
from varprobe.statistics import measure, reference
from varprobe.statistics.reading import HostReading
from varprobe.statistics.tensors import flatten


@MEASURES
@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_moments_are_those_of_two_exact_passes(name, measured) -> None:
    values = DISTRIBUTIONS[name]()
    exact = numpy_reference.measure(values)
    assert_accurate(measured(values, full=False).moments, exact)
    full = measured(values, full=True).moments
    assert_accurate(full, exact)
    assert full.zeros == exact.zeros


@MEASURES
@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_the_histogram_counts_every_finite_element_but_zeros(name, measured) -> None:
    values = DISTRIBUTIONS[name]()
    exponents = measured(values, full=True).exponents
    exact = reference.count_exponents(values)
    # Subnormal float32 numbers share the lowest bin but for the reference.
    shared = measured is not measure_reference and values.dtype is not torch.float64
    lowest = -126 if shared else -2000
    expected: dict[int, int] = {}
    for exponent, count in exact.items():
        exponent = max(exponent, lowest)
        expected[exponent] = expected.get(exponent, 0) + count
    assert exponents == expected


@pytest.mark.slow
@pytest.mark.parametrize("mean", [0.0, 1000.0])
def test_a_hundred_million_elements_lose_nothing(mean) -> None:
    values = torch.randn(100_000_000).add_(mean)
    found = measure_cpu(values, full=False).moments
    # numpy's own pairwise sum in float64 is good to 1e-15 here.
    exact_mean = values.double().mean().item()
    variance = values.double().sub_(exact_mean).square_().mean().item()
    assert found.variance == pytest.approx(variance, rel=PROMISED)
    assert found.mean == pytest.approx(exact_mean, abs=PROMISED)


@MEASURES
def test_what_was_not_asked_for_is_not_counted(measured) -> None:
    reading = measured(torch.zeros(3), full=False)
    assert reading.moments.zeros is None
    assert reading.exponents is None


@MEASURES
@given(
    seed=st.integers(0, 2**31),
    size=st.integers(1, 100),
    mean=st.floats(-30, 30),
    factor=st.sampled_from([2.0**-40, 0.5, 2.0, -8.0, 2.0**40]),
)
def test_variance_is_quadratic(measured, seed, size, mean, factor) -> None:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(size, generator=generator) + mean
    plain = measured(values, full=False).moments
    # A power of two is exact, so that the sample is the same but for its unit.
    scaled = measured(values * factor, full=False).moments
    floor = 1e-13 * plain.second_moment * factor**2
    assert scaled.variance == pytest.approx(factor**2 * plain.variance, rel=PROMISED, abs=floor)
    assert scaled.second_moment == pytest.approx(
        factor**2 * plain.second_moment, rel=PROMISED, abs=0
    )
    assert scaled.mean == pytest.approx(factor * plain.mean, rel=PROMISED, abs=floor**0.5)
    assert scaled.abs_max == abs(factor) * plain.abs_max


@MEASURES
@given(
    seed=st.integers(0, 2**31),
    sizes=st.lists(st.integers(0, 30), min_size=1, max_size=6),
    mean=st.sampled_from([0.0, 1.0, 300.0]),
    broken=st.booleans(),
)
def test_merged_chunks_are_the_whole(measured, seed, sizes, mean, broken) -> None:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(sum(sizes), generator=generator).relu() + mean
    if broken and len(values) > 3:
        values[:3] = torch.tensor([torch.nan, torch.inf, -torch.inf])
    parts = [measured(part, full=True) for part in values.split(sizes)]
    whole = measured(values, full=True)
    merged = reduce(HostReading.merge, parts)
    assert_accurate(merged.moments, numpy_reference.measure(values))
    assert merged.moments.zeros == whole.moments.zeros
    assert {e: n for e, n in merged.exponents.items() if n} == whole.exponents


@pytest.mark.parametrize(
    "arrange",
    [
        lambda x: x.t(),
        lambda x: x[:, ::2],
        lambda x: x[::3].t(),
        lambda x: x.unsqueeze(0).expand(4, -1, -1),
        lambda x: x.view(2, 10, 3, 10).to(memory_format=torch.channels_last),
        lambda x: x.flip(0),
        lambda x: x[0, 0],
    ],
)
def test_the_order_in_memory_does_not_matter(arrange) -> None:
    values = arrange(torch.randn(20, 30))
    assert_accurate(measure_cpu(values, full=True).moments, numpy_reference.measure(values))


def test_dense_memory_is_read_without_a_copy() -> None:
    image = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)
    assert flatten(image).data_ptr() == image.data_ptr()
    assert flatten(image.transpose(0, 2)).data_ptr() == image.data_ptr()


def test_a_storage_may_be_resized_after_it_was_measured() -> None:
    # Sharded and offloading trainers free outputs this way; `Tensor.numpy` would forbid it.
    values = torch.randn(5000).relu()
    measure(values, full=True)
    values.untyped_storage().resize_(0)
    assert values.untyped_storage().size() == 0


@pytest.mark.parametrize("factor", [1e-30, 1e30])
@pytest.mark.parametrize("mean", [0.0, 5.0])
def test_small_and_large_numbers_need_no_slow_path(monkeypatch, factor, mean) -> None:
    monkeypatch.setattr(reference, "measure", None)
    values = (torch.randn(5000) + mean) * factor
    assert_accurate(measure_cpu(values, full=False).moments, numpy_reference.measure(values))
