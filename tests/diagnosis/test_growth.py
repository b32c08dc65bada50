from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from torch import nn

import varprobe as vp
from tests.diagnosis.cases import ROWS, Case, draw_weights, he, he_times, make, mlp
from tests.verdicts.case import stack as stack_of
from tests.verdicts.convolutional import bottlenecks
from varprobe.diagnosis.growth import (
    MAX_GROWTH,
    MAX_GROWTH_IN_CHAIN,
    RELU_LOG_VARIANCE,
    SIGNIFICANCE,
)


def findings_of(model: nn.Module, inputs: torch.Tensor, **options: object) -> dict[str, vp.Finding]:
    diagnosis = vp.diagnose(vp.analyze(vp.profile(model, inputs, **options)))
    return {f.code: f for f in diagnosis.all_findings if f.level != "info"}


def stack(factor: float, depth: int = 30) -> tuple[nn.Module, torch.Tensor]:
    return make(Case(lambda: draw_weights(mlp(depth, nn.ReLU), he_times(factor)), ROWS), seed=0)


@pytest.mark.parametrize(
    ("factor", "codes"),
    [(0.5, {"VP101", "VP201", "VP301"}), (1.0, set()), (2.0, {"VP102", "VP202", "VP301"})],
)
def test_a_wrong_gain_shows_in_both_directions(factor: float, codes: set[str]) -> None:
    assert set(findings_of(*stack(factor))) == codes


def test_the_numbers_are_those_of_the_law() -> None:
    # The second moment of half of He's weights falls by 4 a layer. From the first to the 30th
    # linear layer there are 29; width 128 scatters by sqrt(5 · 29 / 128) = 1.06 in the log.
    finding = findings_of(*stack(0.5))["VP101"]
    scatter = math.sqrt(RELU_LOG_VARIANCE * 29 / 128)
    assert finding.module == "58"
    assert abs(math.log(finding.measured * 4**29) + scatter**2 / 2) < SIGNIFICANCE * scatter
    assert finding.threshold == 1 / MAX_GROWTH_IN_CHAIN
    assert "allowed is a factor of 400" in finding.message
    assert "over 29 layers" in finding.message
    assert "kaiming_normal" in finding.remedy


@pytest.mark.parametrize("unit", [1e-6, 1e6])
@pytest.mark.parametrize("factor", [0.5, 1.0, 2.0])
def test_units_of_input_and_loss_change_no_verdict(factor: float, unit: float) -> None:
    model, inputs = stack(factor)

    def loss(output: torch.Tensor) -> torch.Tensor:
        return output.mean() * unit

    plain = findings_of(model, inputs, loss=lambda output: output.mean())
    assert set(findings_of(model, inputs * unit, loss=loss)) == set(plain)


def test_a_small_head_is_no_fault() -> None:
    model, inputs = stack(1.0)
    with torch.no_grad():
        model[-1].weight.mul_(1e-6)
    assert findings_of(model, inputs) == {}


def test_narrow_nets_may_scatter_more_than_wide_ones() -> None:
    # The same growth, -2 · ln 10 a layer over two layers of a role, is chance in a net of width 1
    # (variance 5 a layer) and none in a net of width 128.
    def chain(width: int, depth: int) -> float:
        case = Case(lambda: draw_weights(mlp(depth, nn.ReLU, width), he_times(0.2)), (32, width))
        return len(findings_of(*make(case, seed=1)))

    assert chain(128, 8) > 0
    assert chain(2, 4) == 0


class Roles(nn.Module):
    """Two roles of very different scale in each block; neither grows over depth."""

    def __init__(self) -> None:
        super().__init__()
        self.small = nn.ModuleList(nn.Linear(64, 64, bias=False) for _ in range(4))
        self.large = nn.ModuleList(nn.Linear(64, 64, bias=False) for _ in range(4))
        draw_weights_without_bias(self.small, 1e-4)
        draw_weights_without_bias(self.large, 1.0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for small, large in zip(self.small, self.large, strict=True):
            x = torch.relu(large(x)) + small(x)
        return x


def draw_weights_without_bias(layers: nn.ModuleList, factor: float) -> None:
    with torch.no_grad():
        for layer in layers:
            he(layer.weight)
            layer.weight.mul_(factor)


def test_layers_are_compared_with_their_like() -> None:
    torch.manual_seed(0)
    assert findings_of(Roles(), torch.randn(32, 64)) == {}


class Pyramid(nn.Module):
    """Four stages, each at half the resolution and twice the channels of the one before."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        widths = [3, 16, 32, 64, 128]
        self.stages = nn.ModuleList(
            nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in itertools.pairwise(widths)
        )
        self.head = nn.Linear(128, 10)
        draw_weights(self, he_times(factor))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for stage in self.stages:
            x = torch.relu(stage(x))
        return self.head(x.mean((2, 3)))


@pytest.mark.parametrize(("factor", "healthy"), [(1.0, True), (0.1, False), (10.0, False)])
def test_resolution_is_no_growth(factor: float, healthy: bool) -> None:
    # A quarter of the pixels at each stage, and an average over those that are left.
    torch.manual_seed(0)
    assert (findings_of(Pyramid(factor), torch.randn(4, 3, 64, 64)) == {}) == healthy


class Block(nn.Module):
    """A wide layer and a narrow gain: fc2's outputs are far below fc1's, in every block alike."""

    def __init__(self, width: int, *, norm: bool) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width) if norm else nn.Identity()
        self.fc2 = nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.fc2(torch.relu(self.norm(self.fc1(x))))


def blocks(scale_of: Callable[[int], float], *, norm: bool) -> nn.Module:
    """Return blocks whose fc1 is scaled by a function of its depth, and whose fc2 is tiny."""
    torch.manual_seed(0)
    model = nn.Sequential(*[Block(64, norm=norm) for _ in range(6)], nn.Linear(64, 10))
    with torch.no_grad():
        for depth, block in enumerate(model[:-1]):
            block.fc1.weight.mul_(scale_of(depth))
            block.fc2.weight.mul_(1e-4)
    return model


def test_two_layers_of_one_block_are_two_roles() -> None:
    assert findings_of(blocks(lambda _: 1.0, norm=False), torch.randn(32, 64)) == {}


@pytest.mark.parametrize(("norm", "healthy"), [(True, True), (False, False)])
def test_the_scale_before_a_norm_is_a_convention(norm: bool, healthy: bool) -> None:
    # Weights ten times as large from block to block: a norm takes them back, and the gradients
    # before it fall as the outputs grow.
    model = blocks(lambda depth: 10.0**depth, norm=norm)
    assert vp.check(model, torch.randn(32, 64)).healthy == healthy


class Shared(nn.Module):
    """One layer for branches of very different scale, beside layers of its own for each."""

    def __init__(self) -> None:
        super().__init__()
        self.branches = nn.ModuleList(nn.Linear(64, 64) for _ in range(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        small, large = 1e-4 * x, x
        for branch in self.branches:
            small, large = 1e-4 * torch.tanh(branch(small)), torch.tanh(branch(large))
        return small + large


def test_the_calls_of_branches_are_no_depth() -> None:
    torch.manual_seed(0)
    vp.initialize(model := Shared(), "xavier_normal")
    assert vp.check(model, torch.randn(32, 64), select=["VP102"]).findings == ()


class Recurrent(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.cell = draw_weights(nn.Linear(64, 64), he_times(factor))
        self.head = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for _ in range(20):
            x = torch.relu(self.cell(x))
        return self.head(x)


@pytest.mark.parametrize(("factor", "healthy"), [(1.0, True), (0.5, False), (2.0, False)])
def test_the_calls_of_a_recurrent_layer_are(factor: float, healthy: bool) -> None:
    torch.manual_seed(0)
    assert (findings_of(Recurrent(factor), torch.randn(32, 64)) == {}) == healthy


def test_two_layers_are_no_trend() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 10))
    with torch.no_grad():
        model[1].weight.mul_(1e-6)
    assert "VP101" not in findings_of(model, torch.randn(32, 64))


def test_draws_narrow_the_band() -> None:
    # ln 0.85² · 19 layers = -6.2. One draw of a net of width 8 scatters by sqrt(5 · 19 / 8) = 3.4,
    # which four standard deviations excuse by far; the mean over 16 draws by 0.9.
    def build() -> nn.Module:
        return draw_weights(mlp(20, nn.ReLU, width=8), he_times(0.85))

    torch.manual_seed(0)
    inputs = torch.randn(64, 8)

    def is_healthy(draws: int, seed: int) -> bool:
        codes = ["VP101", "VP201"]
        return vp.check(build, inputs, draws=draws, seed=seed, select=codes).healthy

    assert all(is_healthy(1, seed) for seed in range(8))
    assert not is_healthy(16, 0)


def test_uses_every_run_of_a_recording() -> None:
    model, inputs = stack(1.0)
    good = vp.profile(model, inputs, init="kaiming_normal", run="good")
    bad = vp.profile(model, inputs, init="xavier_normal", run="bad")
    findings = vp.diagnose(vp.analyze(good.merge(bad))).all_findings
    assert {finding.run for finding in findings} == {"bad"}
    assert {"VP101", "VP201"} <= {finding.code for finding in findings}


def test_he_is_what_the_stack_was_drawn_from() -> None:
    # The twin of the faults above, drawn by the library's own initializer.
    model, inputs = stack(0.5)
    vp.initialize(model, "kaiming_normal", seed=0)
    assert findings_of(model, inputs) == {}


class Levels(nn.Module):
    """A pyramid: a trunk, and beside it a layer and a shared head for each of its sizes.

    One level is weighed far less than the others, as happens where hardly any box falls into it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.ModuleList(nn.Conv2d(16, 16, 3, padding=1) for _ in range(4))
        self.levels = nn.ModuleList(nn.Conv2d(16, 16, 3, padding=1) for _ in range(4))
        self.head = nn.Conv2d(16, 16, 3, padding=1)
        draw_weights(self, he)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        total = torch.zeros(())
        for index, (trunk, level) in enumerate(zip(self.trunk, self.levels, strict=True)):
            x = torch.relu(trunk(nn.functional.avg_pool2d(x, 2) if index else x))
            total = total + self.head(torch.relu(level(x))).sum((2, 3)) * (
                1e-4 if index == 0 else 1
            )
        return total


def test_levels_side_by_side_are_no_depth() -> None:
    torch.manual_seed(0)
    assert findings_of(Levels(), torch.randn(4, 16, 32, 32)) == {}


@pytest.mark.parametrize(("depth", "healthy"), [(10, True), (60, False)])
def test_batch_norm_stacks_explode(depth: int, healthy: bool) -> None:
    # Yang et al. 2019: the gradient's second moment grows by π/(π-1) a layer.
    torch.manual_seed(0)
    model = stack_of(depth, lambda: nn.Sequential(nn.BatchNorm1d(64), nn.ReLU()))
    assert ("VP202" not in findings_of(model, torch.randn(64, 64))) == healthy


def test_residual_nets_with_norms_may_go_further() -> None:
    # ResNet-152 grows by 9e6 over its blocks.
    model, images = make(Case(lambda: bottlenecks(40), (8, 3, 16, 16)), seed=0)
    analysis = vp.analyze(vp.profile(model, images))
    first, last = (
        layer.second_moment
        for name in ("3.conv3", "42.conv3")
        for layer in analysis.select(signal="gradient")
        if layer.site.module == name
    )
    assert first > MAX_GROWTH * last
    assert vp.diagnose(analysis).healthy


@pytest.mark.parametrize("training", [True, False])
def test_untrained_statistics_are_said(training: bool) -> None:
    torch.manual_seed(0)
    blocks = [nn.Sequential(nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU()) for _ in range(20)]
    model = nn.Sequential(*blocks, nn.Linear(64, 10)).train(training)
    findings = findings_of(model, torch.randn(64, 64))
    if training:
        assert findings == {}
        return
    assert "20 of its 20 BatchNorm layers use untrained statistics" in findings["VP201"].message
    assert "model.train()" in findings["VP201"].remedy
