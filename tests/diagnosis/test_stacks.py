from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

import varprobe as vp
from tests.diagnosis.cases import draw_weights, he_times, mlp
from tests.diagnosis.judging import rows
from varprobe.diagnosis.stacks import Stack, find_stacks


class Looped(nn.Module):
    """Layers whose order is written in Python: whether there is a way around is not known."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


class Around(nn.Sequential):
    """A Sequential of another kind: it adds its input."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + super().forward(x)


def block(*between: nn.Module) -> list[nn.Module]:
    return [*between, nn.ReLU(), nn.Linear(64, 64)]


def head() -> nn.Linear:
    return nn.Linear(64, 10)


def list_stacks(model: nn.Module) -> list[Stack]:
    torch.manual_seed(0)
    analysis = vp.analyze(vp.profile(draw_weights(model, he_times(1.0)), rows()))
    return find_stacks(analysis, analysis.recording.runs[0], signal="activation")


def names(stack: Stack) -> list[str]:
    return [site.site.module for site in stack.sites]


def test_a_sequential_is_one_chain_however_its_layers_are_named() -> None:
    blocks = (nn.Sequential(*block()) for _ in range(3))
    (stack,) = list_stacks(nn.Sequential(nn.Linear(64, 64), *blocks, nn.ReLU(), head()))
    assert names(stack) == ["0", "1.1", "2.1", "3.1"]
    assert stack.is_chain
    assert not stack.has_norms


@pytest.mark.parametrize(
    "build",
    [
        lambda: Looped(*block(), *block(), *block(), *block(), head()),
        lambda: nn.Sequential(*(Around(*block()) for _ in range(4)), head()),
        lambda: nn.Sequential(*(nn.Linear(64 - i, 63 - i) for i in range(4)), nn.Linear(60, 10)),
    ],
    ids=["in a loop", "with a way around", "of different sizes"],
)
def test_what_may_be_no_chain_is_none(build: Callable[[], nn.Module]) -> None:
    (stack,) = list_stacks(build())
    assert len(stack.sites) == 4
    assert not stack.is_chain


def test_one_layer_called_again_and_again_is_no_chain() -> None:
    layer = nn.Linear(64, 64)
    (stack,) = list_stacks(nn.Sequential(layer, layer, layer, layer, head()))
    assert len(stack.sites) == 4
    assert not stack.is_chain


def test_the_norms_of_a_chain_are_seen() -> None:
    blocks = (nn.Sequential(*block(nn.LayerNorm(64))) for _ in range(3))
    (stack,) = list_stacks(nn.Sequential(nn.Linear(64, 64), *blocks, head()))
    # What a norm takes up is not compared with what stands before all norms.
    assert names(stack) == ["1.2", "2.2", "3.2"]
    assert stack.is_chain
    assert stack.has_norms


def test_branches_are_a_stack_across_their_blocks() -> None:
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.branch = nn.Sequential(*block(), *block())

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.branch(x)

    # A branch is a chain of two layers; the blocks that it lies in are none.
    (found,) = list_stacks(nn.Sequential(*(Residual() for _ in range(3)), head()))
    assert len(found.sites) == 6
    assert not found.is_chain


def test_growth_that_a_chain_must_not_have_is_left_to_other_stacks() -> None:
    # Half of He's weights lose 4⁻⁵ = 1/1024 over six layers: too much for a chain, and for nothing
    # else.
    torch.manual_seed(0)
    chain = draw_weights(mlp(6, nn.ReLU), he_times(0.5))
    loop = Looped(*chain)
    inputs = rows(width=128)

    def codes(model: nn.Module) -> set[str]:
        diagnosis = vp.diagnose(vp.analyze(vp.profile(model, inputs)), select=["VP1", "VP2"])
        return {finding.code for finding in diagnosis.all_findings}

    assert codes(chain) == {"VP101", "VP201"}
    assert codes(loop) == set()


class Unrolled(nn.Module):
    def __init__(self, cell: nn.RNNCellBase) -> None:
        super().__init__()
        self.cell, self.head = cell, nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        state = None
        for step in x.unbind(1):
            state = self.cell(step, state)
        return self.head(state[0] if isinstance(state, tuple) else state)


@pytest.mark.parametrize("make", [nn.RNNCell, nn.GRUCell, nn.LSTMCell])
def test_a_cell_may_forget_and_must_not_explode(make: type[nn.RNNCellBase]) -> None:
    torch.manual_seed(0)
    x = torch.randn(8, 40, 64)

    def find(model: nn.Module) -> list[str]:
        diagnosis = vp.diagnose(vp.analyze(vp.profile(model, x)), select=["VP1", "VP2"])
        return [finding.code for finding in diagnosis.all_findings]

    model = Unrolled(make(64, 64))
    gradients = vp.analyze(vp.profile(model, x)).select(signal="gradient")
    steps = [s.second_moment for s in gradients if s.first.kind == make.__name__]
    assert steps[0] < 1e-4 * steps[-2]  # torch's default forgets
    assert find(model) == []
    # Orthogonal weights of gain 3 are chaotic: what is far away in time matters most.
    nn.init.orthogonal_(model.cell.weight_hh, gain=3.0 if make is nn.RNNCell else 30.0)
    assert "VP202" in find(model)
