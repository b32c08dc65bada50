"""Sums over pairs against dense matrices; the form with one average other position against all."""

import pytest
import torch
from hypothesis import given, strategies as st

from varprobe.theory import pairs as pairs_module
from varprobe.theory.explicit import ExplicitPairs, independent
from varprobe.theory.positions import LinearMap, Window
from varprobe.theory.profile import ProfilePairs

ROUNDING = 1e-10
"""float64 sums of some thousand terms of order 1 to 100."""


def draw(positions, samples=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(2, positions, positions, generator=generator, dtype=torch.float64)
    return ExplicitPairs(values + values.mT, samples)


def inner(first, second):
    return float((first.values * second.values).sum())


def to_dense(pairs):
    """All (sample, position) in one matrix."""
    count = pairs.samples
    same = torch.eye(count, dtype=torch.float64)
    return torch.kron(same, pairs.values[1]) + torch.kron(1 - same, pairs.values[0])


@given(
    fine=st.integers(1, 9),
    taps=st.integers(1, 4),
    stride=st.integers(1, 3),
    padding=st.integers(0, 2),
    dilation=st.integers(1, 2),
)
def test_windows_run_like_torch_and_back_as_the_adjoint(fine, taps, stride, padding, dilation):
    reach = dilation * (taps - 1) + 1
    if fine + 2 * padding < reach:
        return
    coarse = (fine + 2 * padding - reach) // stride + 1
    window = Window(fine, coarse, taps, stride, padding, dilation)
    pairs = draw(2 * fine)
    summed = pairs.gather_windows((2, fine), (window,))

    index = torch.arange(1.0, 2 * fine + 1).view(1, 1, 2, fine)
    patches = torch.nn.functional.unfold(index, (1, taps), dilation, (0, padding), (1, stride))[
        0
    ].long()
    expected = sum(pairs.gather(tap - 1).values for tap in patches)
    assert torch.allclose(summed.values, expected, atol=ROUNDING)

    other = draw(2 * coarse, seed=1)
    back = other.scatter_windows((2, coarse), (window,))
    assert inner(other, summed) == pytest.approx(inner(back, pairs), abs=1e-8)


@given(st.lists(st.integers(-1, 4), min_size=1, max_size=8))
def test_scattering_is_the_adjoint_of_gathering(index):
    index = torch.tensor(index)
    pairs, other = draw(5), draw(len(index), seed=1)
    back = other.scatter(index, 5)
    assert inner(other, pairs.gather(index)) == pytest.approx(inner(back, pairs), abs=1e-8)


def test_repeating_is_the_adjoint_of_reducing():
    pairs, other = draw(6), draw(2, seed=1)
    assert inner(other, pairs.reduce(2, 3)) == pytest.approx(inner(other.repeat(3), pairs))


def test_products_and_centring_are_those_of_the_whole_batch():
    first, second = draw(4), draw(4, seed=1)
    assert torch.allclose(to_dense(first @ second), to_dense(first) @ to_dense(second))
    centre = torch.eye(12, dtype=torch.float64) - 1 / 12
    assert torch.allclose(to_dense(first.centre()), centre @ to_dense(first) @ centre)
    assert first.total() == pytest.approx(float(to_dense(first).sum()))
    assert first.average() == pytest.approx(float(to_dense(first).mean()))


def test_a_map_that_factorizes_is_its_dense_matrix():
    generator = torch.Generator().manual_seed(2)
    factors = tuple(torch.rand(n, m, generator=generator).double() for n, m in ((2, 4), (3, 2)))
    matrix = LinearMap(factors)
    vector = torch.rand(8, generator=generator).double()
    assert torch.allclose(matrix @ vector, matrix.dense() @ vector)
    assert torch.allclose(matrix.squared.dense(), matrix.dense().square())
    assert torch.allclose(matrix.adjoint.dense(), matrix.dense().T)


def test_dealing_hands_each_window_to_one_position():
    shares = LinearMap((torch.tensor([[0.5, 0.5, 0, 0], [0, 0, 0.25, 0.75]]).double(),))
    signal = draw(2)
    dealt = signal.deal(shares)
    assert dealt.values[1, 0, 1] == 0
    assert float(dealt.second_moments.sum()) == pytest.approx(float(signal.second_moments.sum()))


class TestProfile:
    """On a law that is what the form assumes: bordered variances, one correlation for all pairs."""

    SIDE = 12

    @pytest.fixture
    def both(self):
        window = Window(self.SIDE, self.SIDE, 3, 1, 1, 1)
        bordered = independent(self.SIDE**2, 4).gather_windows((self.SIDE,) * 2, (window,) * 2)
        spread = bordered.second_moments.sqrt()
        explicit = bordered.add_product(spread, spread, 0.4)
        return explicit, explicit.to_profile()

    def assert_close(self, first, second, rel):
        assert isinstance(second, ProfilePairs)
        assert second.mean == pytest.approx(first.mean, rel=rel)
        assert second.total() == pytest.approx(first.total(), rel=rel)

    # The profile's own error on this law; the assertions keep it from growing.
    def test_strided_windows(self, both):
        window = Window(self.SIDE, 6, 3, 2, 1, 1)
        made = [p._run_windows((self.SIDE,) * 2, (window,) * 2, coarse=True) for p in both]
        self.assert_close(*made, rel=0.02)

    def test_pooling(self, both):
        halves = torch.kron(torch.eye(6), torch.full((1, 2), 0.5)).double()
        made = [pairs._transform(LinearMap((halves, halves))) for pairs in both]
        self.assert_close(*made, rel=0.005)

    def test_products(self, both):
        explicit, profile = both
        self.assert_close(explicit @ explicit, profile @ profile, rel=0.02)

    def test_going_over_and_back(self, both):
        explicit, profile = both
        back = profile.to_explicit()
        assert back.mean == pytest.approx(explicit.mean, rel=1e-12)
        assert back.total() == pytest.approx(explicit.total(), rel=1e-9)

    def test_the_form_changes_with_the_number_of_positions(self, monkeypatch):
        monkeypatch.setattr(pairs_module, "MOST_EXPLICIT", 9)
        window = Window(3, 6, 2, 1, 0, 1)
        small = draw(9)
        grown = small.scatter_windows((3, 3), (Window(6, 3, 2, 2, 0, 1),) * 2)
        assert isinstance(grown, ProfilePairs)
        assert isinstance(grown.reduce(6, 6), ExplicitPairs)
        assert window.slices()
