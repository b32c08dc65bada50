"""Sums of a Gaussian and a rectified one, against closed forms and brute force."""

import math

import pytest
import torch
from torch import nn

import varprobe as vp
from varprobe.errors import MissingRuleError
from varprobe.recording import Site
from varprobe.theory.expectations import Field
from varprobe.theory.explicit import ExplicitPairs
from varprobe.theory.fluctuations import GradientSpread, Spread
from varprobe.theory.law import Gradient, Law
from varprobe.theory.layout import Layout, Role
from varprobe.theory.pointwise import IDENTITY, Pointwise
from varprobe.theory.superposition import superpose

RELU = Pointwise(torch.relu)
STEP = Pointwise(lambda x: (x > 0).double())

# A step falls between two nodes of a quadrature: half of the largest weight of one. There are 4000
# over ±10 deviations of a field, 400 over ±8 of a branch.
FIELD = 0.4 * 20 / 4000 / 2
BRANCH = 0.4 * 16 / 400 / 2

COPULA = 0.03
"""What the copula may be off where one branch goes together at 0.9 and the other half as much, and
a position differs by a fifth from the typical one; 4 standard errors of the draws are 0.006."""


def make_law(function, correlation, spreads=(1.0, 1.0)):
    scales = torch.tensor(spreads, dtype=torch.float64)
    same = torch.tensor([[1, correlation], [correlation, 1]], dtype=torch.float64)
    differ = torch.full((2, 2), correlation / 2, dtype=torch.float64)
    pairs = ExplicitPairs(torch.stack([differ, same]), 2).scale(scales)
    field = Field(pairs, torch.zeros(2, dtype=torch.float64), gaussian=True)
    layout = Layout.of([Role.SAMPLE, Role.FEATURE, Role.POSITION], [2, 64, 2])
    return Law(layout=layout, field=field, function=function, field_spread=Spread())


def add(x, y, alpha=1.0, scatter=0.0):
    pairs = x.pairs + y.pairs * alpha**2
    pairs = pairs.add_product(x.means, y.means, alpha).add_product(y.means, x.means, alpha)
    return superpose(x, y, alpha, pairs, x.means + alpha * y.means, scatter), pairs


def draw(correlation, spreads, count=1_000_000):
    u = torch.randn(2, count, dtype=torch.float64)
    u[1] = correlation * u[0] + math.sqrt(1 - correlation**2) * u[1]
    return u * torch.tensor(spreads, dtype=torch.float64)[:, None]


def test_the_distribution_is_that_of_the_sum():
    found, pairs = add(make_law(IDENTITY, 0.3), make_law(RELU, 0.3))
    # y > 0 half of the time; where u > 0, y > -u in three quarters of the plane's half.
    assert float(found.field.expect(Pointwise(lambda w: STEP(found.function(w))))[0]) == (
        pytest.approx(5 / 8, abs=FIELD + 2e-3)
    )
    assert found.field.expect(found.function).tolist() == (
        pytest.approx([1 / math.sqrt(2 * math.pi)] * 2, rel=1e-4)
    )
    assert torch.allclose(found.field.expect_pairs(found.function).values, pairs.values, rtol=1e-4)


@pytest.mark.parametrize("spreads", [(1.0, 1.0), (1.0, 0.8)], ids=["alike", "border"])
@pytest.mark.parametrize("correlation", [0.0, 0.4, 0.9])
@pytest.mark.parametrize("function", [RELU, STEP], ids=["value", "slope"])
def test_functions_of_the_sum_go_together_as_drawn(function, correlation, spreads):
    torch.manual_seed(0)
    y, u = draw(correlation, spreads), draw(correlation / 2, spreads)
    sums = function(y - 0.7 * torch.relu(u))
    laws = make_law(IDENTITY, correlation, spreads), make_law(RELU, correlation / 2, spreads)
    found, _ = add(*laws, alpha=-0.7)
    composed = Pointwise(lambda w: function(found.function(w)))
    drawn = sums @ sums.T / sums.shape[1]
    expected = found.field.expect_pairs(composed).values[1]
    assert torch.allclose(expected, drawn, rtol=COPULA)


def test_a_branch_sees_the_average_over_the_other():
    y, x = make_law(IDENTITY, 0.3), make_law(RELU, 0.3)
    found, _ = add(y, x)
    ones = ExplicitPairs(torch.ones(2, 2, 2, dtype=torch.float64), 2)
    gradient = Gradient(layout=x.layout, signal=ones, signal_spread=GradientSpread())
    opened = Pointwise(lambda w: STEP(found.function(w)))
    above = gradient.times(found.field, opened)
    through_field, through_relu = found.share(above, 0), found.share(above, 1)
    u = torch.tensor([-2.0, -0.5, 0.5, 2.0], dtype=torch.float64)
    # Open if y > -relu(u): half of the time for u < 0, Φ(u) for u > 0.
    expected = torch.special.ndtr(u.clamp_min(0))
    assert torch.allclose(through_relu.factor.mean(u), expected, atol=BRANCH)
    # Open if relu(u) > -y: always for y > 0, else if u > -y.
    expected = torch.where(u > 0, 1.0, torch.special.ndtr(u))
    assert torch.allclose(through_field.factor.mean(u), expected, atol=BRANCH)
    for branch in (through_field, through_relu):
        assert torch.allclose(branch.pairs.values, above.pairs.values, rtol=1e-9)
    # Both masks are open in 3/4 of the half plane u > 0.
    below = through_relu.times(x.field, STEP)
    assert below.pairs.second_moments.tolist() == pytest.approx([3 / 8] * 2, abs=BRANCH)


def integrate(function, sizes=(1.0, 1.0)):
    """E of a function of √a y + √b relu(u), y and u independent standard normals."""
    nodes = torch.linspace(-8, 8, 1601, dtype=torch.float64)
    weights = torch.exp(-nodes.square() / 2)
    weights /= weights.sum()
    a, b = (math.sqrt(size) for size in sizes)
    return float(weights @ function(a * nodes[:, None] + b * torch.relu(nodes)) @ weights)


def square_relu(x):
    return torch.relu(x).square()


def test_what_follows_a_sum_follows_each_branch_with_an_exponent():
    found, _ = add(make_law(IDENTITY, 0.3), make_law(RELU, 0.3))
    exponents = found.field.grow(Pointwise(lambda w: square_relu(found.function(w))))
    step = 1e-3
    for sizes, exponent in zip([(1 + step, 1.0), (1.0, 1 + step)], exponents, strict=True):
        grown = math.log(integrate(square_relu, sizes) / integrate(square_relu))
        assert exponent == pytest.approx(grown / math.log1p(step), abs=5e-3)
    # What is rectified is twice as large where both are.
    assert sum(exponents) == pytest.approx(1.0, abs=1e-3)
    opened = found.field.grow(Pointwise(lambda w: STEP(found.function(w))))
    assert sum(opened) == pytest.approx(0.0, abs=1e-3)


def test_branches_that_scatter_against_each_other_let_less_through_a_relu():
    scatter = 0.3
    laws = make_law(IDENTITY, 0.3), make_law(RELU, 0.3)
    # E relu² bends down: to second order by half its second derivative times the scatter.
    levels = [integrate(square_relu, (1 + shift, 1.0)) for shift in (-0.3, 0.0, 0.3)]
    bend = (levels[0] - 2 * levels[1] + levels[2]) / 0.3**2 * scatter / 2
    assert bend < -0.003
    found = {}
    for size in (0.0, scatter):
        sums, pairs = add(*laws, scatter=size)
        function = sums.function
        found[size] = float(
            sums.field.expect(Pointwise(lambda w, f=function: square_relu(f(w))))[0]
        )
        assert torch.allclose(sums.field.expect_pairs(function).values, pairs.values, rtol=2e-3)
    assert found[0.0] == pytest.approx(levels[1], rel=1e-3)
    assert found[scatter] - found[0.0] == pytest.approx(bend, rel=0.25)


def test_a_branch_that_starts_at_zero_changes_nothing():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.branch, self.norm = nn.Linear(32, 32), nn.BatchNorm1d(32)
            nn.init.zeros_(self.norm.weight)

        def forward(self, x):
            return torch.relu(x + self.norm(self.branch(x)))

    def predict(*blocks):
        torch.manual_seed(0)
        ends = nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 8)
        prediction = vp.predict(nn.Sequential(*ends[:2], *blocks, ends[2]), x)
        assert not prediction.unsupported
        first, head = Site(module="0", signal="gradient"), Site(module=str(2 + len(blocks)))
        return [prediction.find(site).second_moment for site in (first, head)]

    x = torch.randn(16, 32)
    assert predict(Block(), Block()) == pytest.approx(predict(), rel=1e-6)


@pytest.mark.parametrize("size", [1e-3, 1e-8])
def test_a_branch_of_next_to_nothing_leaves_the_other_as_it_is(size):
    # As behind LayerScale. The one of next to nothing is the Gaussian one.
    found, _ = add(make_law(IDENTITY, 0.3, (size, size)), make_law(RELU, 0.3))
    mean = 1 / math.sqrt(2 * math.pi)
    assert found.field.expect(found.function).tolist() == pytest.approx([mean] * 2, rel=2e-3)
    square = Pointwise(lambda w: found.function(w).square())
    assert found.field.expect(square).tolist() == pytest.approx([0.5] * 2, rel=5e-3)


def test_a_sum_that_is_not_finite_has_no_distribution():
    with pytest.raises(MissingRuleError, match="not finite"):
        add(make_law(RELU, 0.5, (math.nan, math.nan)), make_law(IDENTITY, 0.5))
