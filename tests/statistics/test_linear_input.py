"""What a layer received, against Monte-Carlo over the layer's weights."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, strategies as st
from torch import nn

from varprobe.moments import LinearInput
from varprobe.statistics import measure_linear_input
from varprobe.statistics.linear_input import MAX_WINDOWS

# Layers without bias, and an input with at most MAX_WINDOWS positions: nothing is sampled then.
LAYERS: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "rows": (nn.Linear(7, 5), (6, 7)),
    "one row": (nn.Linear(7, 5), (7,)),
    "rows of sequences": (nn.Linear(7, 5), (2, 3, 7)),
    "1d": (nn.Conv1d(3, 4, 3), (2, 3, 9)),
    "2d": (nn.Conv2d(3, 4, 3), (2, 3, 6, 7)),
    "3d": (nn.Conv3d(2, 4, 2), (2, 2, 3, 4, 3)),
    "unbatched": (nn.Conv2d(3, 4, 3), (3, 6, 7)),
    "stride": (nn.Conv2d(3, 4, 3, stride=(2, 3)), (2, 3, 8, 9)),
    "dilation": (nn.Conv2d(3, 4, (3, 2), dilation=(2, 3)), (2, 3, 8, 9)),
    "groups": (nn.Conv2d(6, 4, 3, groups=2), (2, 6, 5, 6)),
    "depthwise": (nn.Conv1d(4, 8, 3, groups=4), (2, 4, 8)),
    "zero padding": (nn.Conv2d(3, 4, 3, padding=(2, 1)), (2, 3, 5, 4)),
    "same padding": (nn.Conv1d(3, 4, 3, dilation=2, padding="same"), (2, 3, 8)),
    "reflected": (nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"), (2, 3, 5, 4)),
    "circular": (nn.Conv1d(3, 4, 3, padding=2, padding_mode="circular"), (2, 3, 8)),
    "replicated": (nn.Conv3d(2, 4, 3, padding=1, padding_mode="replicate"), (1, 2, 3, 4, 3)),
    "all at once": (
        nn.Conv2d(4, 6, 3, stride=2, dilation=2, groups=2, padding=2, padding_mode="reflect"),
        (2, 4, 9, 8),
    ),
}

DRAWS = 800


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("mean", [0.0, 2.0])
def test_second_moment_of_the_output_over_draws_of_the_weights(name, mean) -> None:
    """Given the input, the output's second moment has the mean w² · energy.

    Its relative variance is 2 / (channels · effective_samples). The mean of N draws has a standard
    error of sqrt(variance / N); the variance, with a chi-square's excess kurtosis of 12 / degrees
    of freedom, has a relative one of sqrt((2 + 12 / degrees) / N). Five of them.
    """
    layer, shape = LAYERS[name]
    layer.bias = None
    x = torch.randn(shape) + mean
    received = measure_linear_input(layer, x)
    assert received is not None
    second_moments = torch.empty(DRAWS, dtype=torch.float64)
    with torch.no_grad():
        for draw in range(DRAWS):
            layer.weight.normal_(0.0, 0.5)
            output = layer(x)
            second_moments[draw] = output.double().square().mean()
    assert received.positions == output.numel() // layer.weight.shape[0]
    assert received.second_moment == pytest.approx(x.double().square().mean().item(), rel=1e-12)
    degrees = layer.weight.shape[0] * received.effective_samples
    relative = second_moments / (0.25 * received.energy)
    assert relative.mean().item() == pytest.approx(1.0, abs=5 * math.sqrt(2 / degrees / DRAWS))
    spread = 5 * math.sqrt((2 + 12 / degrees) / DRAWS)
    assert relative.var().item() == pytest.approx(2 / degrees, rel=spread)


@pytest.mark.parametrize("name", LAYERS)
def test_energy_is_the_sum_of_squares_over_the_window(name) -> None:
    layer, shape = LAYERS[name]
    layer.bias = None
    x = torch.randn(shape)
    received = measure_linear_input(layer, x)
    with torch.no_grad():
        layer.weight.fill_(1.0)
        # Padding by copies and squaring commute.
        energies = layer.double()(x.double().square())
        layer.float()
    assert received.energy == pytest.approx(energies.mean().item(), rel=1e-12)


@pytest.mark.parametrize("name", LAYERS)
def test_common_energy_is_that_of_two_positions(name) -> None:
    """Weights of variance 1 give outputs y, and E[y_p y_q] = h_p · h_q for each channel."""
    layer, shape = LAYERS[name]
    layer.bias = None
    x = torch.randn(shape) + 2.0
    received = measure_linear_input(layer, x)
    if received.positions == 1:
        assert received.common_energy == pytest.approx(received.energy)
        return
    # By linearity: the Gram matrix from the outputs for unit weights, one weight at a time.
    layer.double()
    gram = torch.zeros(received.positions, received.positions, dtype=torch.float64)
    with torch.no_grad():
        for index in range(layer.weight.numel()):
            layer.weight.zero_().view(-1)[index] = 1.0
            output = layer(x.double())
            axis = -1 if isinstance(layer, nn.Linear) else -len(layer.kernel_size) - 1
            by_channel = output.movedim(axis, 0).reshape(layer.weight.shape[0], -1)
            gram += by_channel.t() @ by_channel
    layer.float()
    gram /= layer.weight.shape[0]
    pairs = received.positions * (received.positions - 1)
    expected = (gram.sum() - gram.trace()).item() / pairs
    assert received.common_energy == pytest.approx(expected, rel=1e-9)
    assert received.energy == pytest.approx(gram.trace().item() / received.positions, rel=1e-9)
    samples = (gram.trace() ** 2 / gram.square().sum()).item()
    if getattr(layer, "groups", 1) == 1:
        assert received.effective_samples == pytest.approx(samples, rel=1e-9)


def test_many_positions_are_sampled_well() -> None:
    rows = torch.randn(20 * MAX_WINDOWS, 50)
    received = measure_linear_input(nn.Linear(50, 4), rows)
    gram = rows.double().t() @ rows.double()
    exact = (gram.trace() ** 2 / gram.square().sum()).item()
    assert received.energy == pytest.approx(gram.trace().item() / len(rows), rel=1e-12)
    assert received.positions == len(rows)
    # 32,640 pairs: the mean of squared cosines has a standard error of sqrt(2 / 32640) = 0.8 %.
    assert received.effective_samples == pytest.approx(exact, rel=0.04)


@given(copies=st.integers(1, 40), seed=st.integers(0, 2**31))
def test_copies_of_one_row_are_worth_one_sample(copies, seed) -> None:
    row = torch.randn(1, 6, generator=torch.Generator().manual_seed(seed))
    received = measure_linear_input(nn.Linear(6, 3), row.repeat(copies, 1))
    assert received.effective_samples == pytest.approx(1.0)
    assert received.common_energy == pytest.approx(received.energy)


@given(scale=st.sampled_from([1e-3, 1.0, 1e3]), seed=st.integers(0, 2**31))
def test_the_scale_of_the_input_is_that_of_its_energies_alone(scale, seed) -> None:
    x = torch.randn(2, 3, 5, 5, generator=torch.Generator().manual_seed(seed)).double()
    layer = nn.Conv2d(3, 4, 3, padding=1)
    plain, scaled = (measure_linear_input(layer, x * s) for s in (1.0, scale))
    assert scaled.energy == pytest.approx(scale**2 * plain.energy)
    assert scaled.common_energy == pytest.approx(scale**2 * plain.common_energy)
    assert scaled.effective_samples == pytest.approx(plain.effective_samples)


@pytest.mark.parametrize(
    ("layer", "x"),
    [
        (nn.Linear(3, 2), torch.zeros(4, 3)),
        (nn.Linear(3, 2), torch.full((4, 3), torch.nan)),
        (nn.Linear(3, 2), torch.full((4, 3), torch.inf)),
        (nn.Linear(3, 2), torch.zeros(0, 3)),
        (nn.Linear(3, 2), torch.ones(4, 3, device="meta")),
        (nn.Linear(3, 2), torch.ones(4, 3).to_sparse()),
        (nn.ConvTranspose1d(3, 2, 3), torch.ones(4, 3, 5)),
        (nn.ReLU(), torch.ones(4, 3)),
    ],
)
def test_without_numbers_or_weights_there_is_nothing_to_sum_up(layer, x) -> None:
    assert measure_linear_input(layer, x) is None


def test_inputs_with_a_few_zero_rows_only_in_the_sample_are_worth_one() -> None:
    # One row of a thousand is not zero, and it is not among those that are looked at.
    rows = torch.zeros(1000, 3)
    rows[_find_unsampled(1000)] = 1.0
    received = measure_linear_input(nn.Linear(3, 2), rows)
    assert received == LinearInput(
        second_moment=1e-3,
        energy=pytest.approx(3e-3),
        common_energy=0.0,
        effective_samples=1.0,
        positions=1000,
        sample_spread=pytest.approx(1.0),
    )


def spreads(layer: nn.Module, x: torch.Tensor) -> tuple[float | None, float | None]:
    received = measure_linear_input(layer, x)
    assert received is not None
    return received.sample_spread, received.token_spread


def correlate(slices: torch.Tensor) -> float:
    """Return the mean product of two different slices, over the mean square: pair by pair."""
    rows = slices.flatten(1).double()
    products = [float(a @ b) for i, a in enumerate(rows) for b in rows[:i]]
    return sum(products) / len(products) / (float(rows.square().sum()) / len(rows))


def test_the_spread_is_what_correlation_leaves() -> None:
    x = torch.randn(6, 5, 7) + 2 * torch.randn(1, 5, 7) + torch.randn(6, 1, 7)
    samples, tokens = spreads(nn.Linear(7, 3), x)
    assert samples == pytest.approx(1 - correlate(x))
    assert tokens == pytest.approx(1 - correlate(x.transpose(0, 1)))
    images = torch.rand(4, 3, 8, 8)
    assert spreads(nn.Conv2d(3, 4, 3), images) == (pytest.approx(1 - correlate(images)), None)


def test_equal_samples_have_exactly_no_spread() -> None:
    assert spreads(nn.Linear(7, 3), torch.randn(1, 7).expand(5, 7)) == (0.0, None)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [(nn.Linear(7, 5), (1, 7)), (nn.Linear(7, 5), (7,)), (nn.Conv2d(3, 4, 3), (3, 6, 7))],
)
def test_one_sample_has_no_spread(layer: nn.Module, shape: tuple[int, ...]) -> None:
    assert spreads(layer, torch.randn(shape)) == (None, None)


def _find_unsampled(positions: int) -> int:
    from varprobe.statistics.linear_input import _choose

    return next(iter({*range(positions)} - {*_choose(positions).tolist()}))


def test_the_users_random_numbers_stay() -> None:
    layer, before = nn.Linear(3, 2), torch.get_rng_state()
    measure_linear_input(layer, torch.ones(1000, 3))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_convolution_with_a_forward_of_its_own_is_left_alone() -> None:
    class Padded(nn.Conv2d):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(nn.functional.pad(x, (2, 2, 2, 2)))

    images = torch.randn(2, 3, 4, 4)
    assert measure_linear_input(Padded(3, 4, 5), images) is None
    assert measure_linear_input(nn.Conv2d(3, 4, 5, padding=2), images) is not None
