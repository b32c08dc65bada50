"""The model of these tests, its data, and how a distributed recording is held against one of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from tests.probe.untouched import to_bytes
from varprobe.probe import Probe
from varprobe.recording import Record, Recording

ROWS, WIDTH, CLASSES = 16, 8, 4
SIGNALS = ("activation", "gradient", "weight", "weight_gradient")

TOLERANCE = 1e-6
"""What is promised. The models compute in float64, which leaves it to the statistics alone: other
shapes are summed in another order, and nothing else may differ."""


class Net(nn.Module):
    """Layers of several kinds with a bias of zeros, and a residual that is no module."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.up = nn.Linear(WIDTH, 2 * WIDTH)
        self.act = nn.Tanh()
        self.down = nn.Linear(2 * WIDTH, WIDTH)
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(x + self.down(self.act(self.up(self.norm(x)))))


def build() -> Net:
    """Return the same model on every rank."""
    torch.manual_seed(0)
    net = Net().double()
    nn.init.zeros_(net.up.bias)
    return net


def build_chain() -> nn.Sequential:
    """Return a model that can be cut into stages."""
    torch.manual_seed(0)
    layers = [nn.Linear(WIDTH, WIDTH), nn.Tanh(), nn.Linear(WIDTH, WIDTH), nn.Tanh()]
    return nn.Sequential(*layers, nn.Linear(WIDTH, CLASSES)).double()


def make_rows() -> torch.Tensor:
    """Return the whole batch; it is cut over the ranks."""
    return torch.randn(ROWS, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def loss_of(output: torch.Tensor) -> torch.Tensor:
    """Average over all elements, as most losses do."""
    return output.square().mean()


def record(model: nn.Module, x: torch.Tensor, **options: Any) -> Probe:
    """Return the probe of one forward and backward pass."""
    with Probe(model, stats="full", signals=SIGNALS, **options) as probe:
        loss_of(model(x)).backward()
    return probe


def by_site(recording: Recording, signal: str) -> dict[str, Record]:
    """Return the records of a signal by their place."""
    return {str(r.site): r for r in recording.select(signal=signal)}


def assert_alike(found: Recording, expected: Recording, signals: Mapping[str, float]) -> None:
    """Compare two recordings; ``signals`` holds the factor by which each may be larger."""
    for signal, factor in signals.items():
        ours, theirs = by_site(found, signal), by_site(expected, signal)
        assert list(ours) == list(theirs), signal
        for site, one in ours.items():
            other = theirs[site]
            where = f"{signal} of {site}"
            a, b = one.moments, other.moments
            scale = factor * math.sqrt(b.second_moment)
            assert (one.kind, one.depth, one.fan_in) == (other.kind, other.depth, other.fan_in)
            assert (a.numel, a.nonfinite) == (b.numel, b.nonfinite), where
            assert abs(a.mean - factor * b.mean) <= TOLERANCE * scale, where
            assert math.isclose(a.second_moment, factor**2 * b.second_moment, rel_tol=TOLERANCE), (
                where
            )
            assert math.isclose(a.variance, factor**2 * b.variance, rel_tol=TOLERANCE), where
            assert math.isclose(a.abs_max, factor * b.abs_max, rel_tol=TOLERANCE), where
            assert a.zeros == b.zeros, where
            if factor == 1.0:
                assert one.exponents == other.exponents, where


def describe_training(model: nn.Module, x: torch.Tensor, *, is_probed: bool) -> dict[str, object]:
    """Train one step, and return all numbers of this rank as bytes."""
    probe = Probe(model, signals=SIGNALS)
    if is_probed:
        probe.start()
    output = model(x)
    loss_of(output).backward()
    probe.stop()
    torch.optim.AdamW(model.parameters()).step()
    tensors = {"output": output, **model.state_dict()}
    gradients = {f"gradient of {n}": p.grad for n, p in model.named_parameters()}
    return {name: _to_bytes(tensor) for name, tensor in {**tensors, **gradients}.items()}


def _to_bytes(tensor: Any) -> object:
    return None if tensor is None else to_bytes(getattr(tensor, "_local_tensor", tensor))
