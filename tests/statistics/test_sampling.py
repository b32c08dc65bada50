"""A sample is unbiased whatever the layout, and says by how much it may be off."""

from __future__ import annotations

import math
from functools import reduce

import pytest
import torch

from varprobe.errors import InvalidArgumentError
from varprobe.statistics import (
    Sampler,
    device as device_statistics,
    find_sampling,
    measure,
    read,
    sampling as module,
)
from varprobe.statistics.sampling import SampledReading

REPEATS = 500


def iid() -> torch.Tensor:
    return torch.randn(2**18 + 37)


def rectified() -> torch.Tensor:
    return torch.randn(2**18).relu()


def heavy_tails() -> torch.Tensor:
    return torch.distributions.StudentT(5.0).sample((2**18,))


def channels_apart() -> torch.Tensor:
    return torch.randn(4, 64, 32, 32) * torch.randn(64, 1, 1).exp()


def channels_in_turn() -> torch.Tensor:
    return torch.randn(4, 32, 32, 64) * torch.randn(64).exp()


def biased_units() -> torch.Tensor:
    return 0.1 * torch.randn(4096, 64) + torch.randn(64)


def rows_of_one_number() -> torch.Tensor:
    return torch.randn(1024, 1).expand(1024, 256).contiguous()


def a_path() -> torch.Tensor:
    return torch.randn(2**18).cumsum(0)


@pytest.mark.parametrize("max_elements", [4096, 65536])
@pytest.mark.parametrize(
    "draw",
    [
        iid,
        rectified,
        heavy_tails,
        channels_apart,
        channels_in_turn,
        biased_units,
        rows_of_one_number,
        a_path,
    ],
)
def test_two_standard_errors_hold_the_truth(draw, max_elements) -> None:
    values = draw()
    whole = read(measure(values, full=False)).moments
    sampler = Sampler(max_elements)
    readings = [sampler.measure(values, full=False) for _ in range(REPEATS)]
    scores = torch.tensor([score(reading, whole) for reading in readings])
    held = (scores.abs() <= 2.0).double().mean(0)
    # 95.4 % of normal scores; 500 repeats scatter by 1 %, and squares with heavy tails lean.
    assert held.min() >= 0.91
    # Unbiased: the mean of 500 scores scatters by 0.045. Where the error is estimated from what it
    # came by, a small sample has a small error, and the scores lean to one side.
    assert scores.mean(0).abs().max() < 0.35
    if draw in (iid, rectified, channels_in_turn, biased_units):
        # Nor is the error overstated where nothing changes along the memory.
        assert held.max() <= 0.99


def score(reading: SampledReading, whole) -> tuple[float, float]:
    moments, sampling = read(reading).moments, find_sampling(reading)
    assert moments.numel == whole.numel
    errors = (sampling.square_sum_variance**0.5, sampling.sum_variance**0.5)
    departures = (moments.second_moment - whole.second_moment, moments.mean - whole.mean)
    return tuple(d * moments.numel / e for d, e in zip(departures, errors, strict=True))


@pytest.mark.parametrize("period", [2, 64, 100, 512])
def test_no_period_falls_into_step_with_it(period) -> None:
    values = torch.zeros(2**19 // period, period)
    values[:, 0] = 1.0
    sampler = Sampler(2**14)
    means = [read(sampler.measure(values, full=False)).moments.mean for _ in range(100)]
    exact = 1.0 / period
    # 100 samples of 256 cells that meet the period by chance.
    error = torch.tensor(means).std().item() / 10
    assert abs(sum(means) / 100 - exact) <= 4.0 * error + 1e-12


def test_every_element_has_the_same_chance() -> None:
    # 64 cells held in full, and 40 elements that are left out at one end or the other.
    flat = torch.arange(1000 * 16 + 8)
    sampler = Sampler(256 * 16)
    counts = torch.zeros(len(flat))
    for _ in range(4000):
        counts += torch.bincount(sampler._pick(flat).flatten(), minlength=len(flat))
    middle = counts[16:-16]
    expected = 4000 * 256 / 1000
    # Binomial: 1024 expected, standard deviation below 32; 16,000 elements, 5.5 of them.
    assert (middle - expected).abs().max() < 5.5 * 32
    assert middle.mean() == pytest.approx(expected, rel=0.01)
    assert counts[:16].sum() == pytest.approx(counts[-16:].sum().item(), rel=0.1)


@pytest.mark.parametrize("full", [False, True])
def test_what_is_small_is_read_whole(full) -> None:
    values = torch.randn(256).relu()
    reading = Sampler(256).measure(values, full=full)
    assert read(reading) == read(measure(values, full=full))
    assert find_sampling(reading) is None


def test_counts_are_those_of_all_elements() -> None:
    values = torch.randn(2**18).relu()
    values[::64] = torch.nan
    reading = Sampler(2**16).measure(values, full=True)
    moments = read(reading).moments
    assert moments.numel == 2**18
    # Every cell has one of them.
    assert moments.nan == 2**12
    assert moments.zero_fraction == pytest.approx(0.5 * 63 / 64, abs=0.01)
    assert sum(read(reading).exponents.values()) == pytest.approx(2**18 * 0.5 * 63 / 64, rel=0.02)
    assert moments.second_moment == pytest.approx(0.5, rel=0.05)
    assert math.isnan(find_sampling(reading).sum_variance)


def test_readings_merge_as_independent_ones() -> None:
    sampler = Sampler(4096)
    parts = [torch.randn(2**16) * scale for scale in (1.0, 5.0, 0.1)] + [torch.randn(100)]
    readings = [sampler.measure(part, full=False) for part in parts]
    merged = reduce(SampledReading.merge, readings)
    samplings = [find_sampling(reading) for reading in readings[:3]]
    found = find_sampling(merged)
    assert found.numel == 3 * 4096 + 100
    for name in ("sum_variance", "square_sum_variance"):
        assert getattr(found, name) == pytest.approx(sum(getattr(s, name) for s in samplings))
    exact = read(reduce(lambda a, b: a.merge(b), [r.reading for r in readings])).moments
    assert read(merged).moments == exact


def test_a_divided_reading_is_that_of_divided_elements() -> None:
    values = torch.randn(2**16)
    one = Sampler(4096).measure(values, full=True).divide(8.0)
    two = Sampler(4096).measure(values / 8.0, full=True)
    assert read(one) == read(two)
    assert find_sampling(one) == find_sampling(two)


def test_the_generators_of_the_user_stay_where_they_are() -> None:
    values, before = torch.randn(2**16), torch.get_rng_state()
    first = Sampler(4096).measure(values, full=False)
    torch.randn(7)
    second = Sampler(4096).measure(values, full=False)
    assert read(first) == read(second)
    torch.set_rng_state(before)
    Sampler(4096).measure(values, full=False)
    assert torch.equal(torch.get_rng_state(), before)


def test_on_the_device_as_on_the_host(monkeypatch) -> None:
    values = torch.randn(2**16).relu()
    on_host = Sampler(4096).measure(values, full=True)

    def measure_there(tensor: torch.Tensor, *, full: bool) -> object:
        return device_statistics.measure(tensor, implicit_zeros=0, full=full)

    monkeypatch.setattr(module, "measure", measure_there)
    there = Sampler(4096).measure(values, full=True)
    found, expected = read(there), read(on_host)
    assert (found.finite, found.zeros) == (expected.finite, expected.zeros)
    assert found.exponents == expected.exponents
    assert found.m2 == pytest.approx(expected.m2, rel=1e-6)
    assert found.mean == pytest.approx(expected.mean, rel=1e-6)
    one, two = find_sampling(there), find_sampling(on_host)
    # The host adds up 64 numbers of float32, with 6e-8 of error each.
    assert one.sum_variance == pytest.approx(two.sum_variance, rel=1e-5)
    assert one.square_sum_variance == pytest.approx(two.square_sum_variance, rel=1e-5)


@pytest.mark.parametrize("scale", [1e-30, 1e25])
def test_any_magnitude_has_an_error(scale) -> None:
    values = torch.randn(2**16)
    plain = find_sampling(Sampler(4096).measure(values, full=False))
    scaled = find_sampling(Sampler(4096).measure(values * scale, full=False))
    assert scaled.sum_variance == pytest.approx(plain.sum_variance * scale**2, rel=1e-4)
    expected = plain.square_sum_variance * scale**4
    assert scaled.square_sum_variance == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    "values",
    [
        torch.randn(300, 300).t(),
        torch.randn(600, 300)[:, ::2],
        torch.randn(4, 16, 40, 40).to(memory_format=torch.channels_last),
        torch.randn(40_000).bfloat16(),
        torch.randn(40_000, dtype=torch.complex64),
        torch.randint(0, 9, (90_000,)),
    ],
)
def test_any_dense_tensor_is_sampled(values) -> None:
    reading = Sampler(2**14).measure(values, full=True)
    moments, sampling = read(reading).moments, find_sampling(reading)
    whole = read(measure(values, full=True)).moments
    assert moments.numel == whole.numel
    assert sampling.numel == 2**14
    error = sampling.square_sum_variance**0.5 / whole.numel
    assert abs(moments.second_moment - whole.second_moment) < 5 * error


def test_a_sparse_tensor_is_read_whole() -> None:
    values = torch.randn(300, 300).relu().to_sparse()
    reading = Sampler(4096).measure(values, full=True)
    assert read(reading) == read(measure(values, full=True))


def test_too_few_elements_are_refused() -> None:
    with pytest.raises(InvalidArgumentError, match=r"max_elements is 255, .* for example 65536"):
        Sampler(255)
