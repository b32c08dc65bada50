from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import varprobe as vp
from varprobe.observation.influence import find_influential

SPARES = ("used", "unused", "zero")


def make_layers() -> dict[str, nn.Parameter]:
    layers = {name: nn.Parameter(torch.randn(4, 4)) for name in SPARES}
    nn.init.zeros_(layers["zero"])
    return layers


def test_finds_those_that_move_the_output_and_puts_all_back() -> None:
    layers, x = make_layers(), torch.randn(8, 4)
    before = {name: layer.detach().clone() for name, layer in layers.items()}

    def forward() -> torch.Tensor:
        return F.linear(F.linear(x, layers["used"].detach()) + 1, layers["zero"].detach()) + x

    assert find_influential(forward, layers) == ["zero"]  # behind it nothing of "used" is left
    nn.init.ones_(layers["zero"])
    assert find_influential(forward, layers) == ["used", "zero"]
    assert torch.equal(layers["used"], before["used"])


def changing() -> Callable[[], torch.Tensor]:
    return lambda: torch.randn(3)


def failing() -> Callable[[], torch.Tensor]:
    def forward() -> torch.Tensor:
        raise RuntimeError("once only")

    return forward


def spoiled() -> Callable[[], torch.Tensor]:
    return lambda: torch.tensor([torch.nan, 1.0])


@pytest.mark.parametrize("make", [changing, failing, spoiled])
def test_claims_nothing_where_nothing_follows(make: Callable[[], Callable[[], object]]) -> None:
    assert find_influential(make(), make_layers()) == []


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.spare, self.experts = (
            nn.Linear(4, 4),
            nn.Linear(4, 4),
            nn.ModuleList(nn.Linear(4, 4) for _ in range(2)),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x.add_(1)  # in place: the next forward must find what the first one found
        return F.linear(self.layer(F.dropout(x)), self.spare.weight.detach())


def test_a_profile_lists_them_and_leaves_no_trace() -> None:
    model, x = Net(), torch.randn(8, 4)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    batch, dice = x.clone(), torch.random.get_rng_state()
    recording = vp.profile(model, x)
    assert [u.module for u in recording.unobserved if "used detached" in u.reason] == [
        "spare.weight"
    ]
    assert torch.equal(torch.random.get_rng_state(), dice)
    assert torch.equal(x, batch)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_forward_pass_alone_asks_nothing() -> None:
    recording = vp.profile(Net(), torch.randn(8, 4), loss=False)
    assert not any("used detached" in unseen.reason for unseen in recording.unobserved)


def test_it_is_asked_once_and_not_for_every_draw() -> None:
    calls = []

    class Counting(Net):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            calls.append(len(x))
            return self.layer(x)

    vp.profile(Counting, torch.randn(8, 4), draws=3)
    # Twice as it is, to see that it answers the same, and once with other weights: none is used.
    assert len(calls) == 3 + 3
