"""Whole nets against exact infinite-width kernels: tests/theory/data/make_kernels.py."""

import itertools
import json
import math
from pathlib import Path

import pytest
import torch
from torch import nn

from varprobe.initializers.laws import WeightLaw
from varprobe.theory.law import Weight
from varprobe.theory.propagation import propagate
from varprobe.theory.tracer import trace

DATA = json.loads((Path(__file__).parent / "data" / "kernels.json").read_text())

WIDTH = 256
"""Of no consequence: the kernel is that of infinite width."""

DIGITS = 1e-10
"""The data have twelve digits, of which a hundred roundings leave ten."""

SINGLE = 1e-6
"""Inputs that were divided by the root of two in single precision."""


class Erf(nn.Module):
    def forward(self, x):
        return torch.erf(x)


ACTIVATIONS = {
    "relu": nn.ReLU(),
    "relu with biases": nn.ReLU(),
    "leaky relu": nn.LeakyReLU(0.25),
    "erf": Erf(),
    "gelu": nn.GELU(),
    "tanh": nn.Tanh(),
}


class Block(nn.Module):
    """A branch behind a LayerNorm on a residual stream."""

    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.expand = nn.Linear(WIDTH, WIDTH, bias=False)
        self.contract = nn.Linear(WIDTH, WIDTH, bias=False)

    def forward(self, x):
        return x + self.contract(nn.functional.gelu(self.expand(self.norm(x))))


def predict_kernels(model, x, kinds, weight, bias=0.0):
    """Return the second moments of all pairs of positions behind each module of some classes.

    ``weight`` is the variance of a weight times its fan-in, ``bias`` that of a bias.
    """
    tape, _ = trace(model, (x,), {})
    sources = {}
    names = {id(tensor): name for name, tensor in model.named_parameters()}
    for index, (number, tensor) in enumerate(tape.sources.items()):
        if id(tensor) not in names:
            continue
        variance = weight / tensor[0].numel() if tensor.dim() > 1 else bias
        law = WeightLaw.normal(variance)
        if "norm" in names[id(tensor)]:
            law = WeightLaw.constant(float(tensor.detach().mean()))
        sources[number] = Weight(law, tuple(tensor.shape), 1 << index)
    values = propagate(tape, sources).values
    found = [values[output.value] for output in tape.outputs if output.kind in kinds]
    for law in found:
        assert law.standing.status == "exact"
    return [law.pairs.to_explicit().values[1].double() for law in found]


def check(found, expected, tolerance):
    """Compare a matrix over positions with the exact one."""
    # What almost vanishes is compared with the size of the rest.
    floor = 0.1 * float(expected.diagonal().mean()) * tolerance
    assert torch.allclose(found, expected, rtol=tolerance, atol=floor)


def unfold(kernel):
    k11, k12, k22 = kernel
    return torch.tensor([[k11, k12], [k12, k22]], dtype=torch.float64)


@pytest.mark.parametrize("name", DATA["mlp"])
def test_ten_layers(name):
    case, x = DATA["mlp"][name], torch.tensor(DATA["inputs"])
    sizes = [x.shape[1]] + [WIDTH] * len(case["kernels"])
    layers = [
        layer
        for inside, outside in itertools.pairwise(sizes)
        for layer in (nn.Linear(inside, outside), ACTIVATIONS[name])
    ]
    found = predict_kernels(
        nn.Sequential(*layers), x, {"Linear"}, case["sigma_w2"], case["sigma_b2"]
    )
    for matrix, kernel in zip(found, case["kernels"], strict=True):
        check(matrix, unfold(kernel), DIGITS)


def test_blocks_behind_layer_norms():
    x, kernels = torch.tensor(DATA["inputs"]), DATA["layer_norm"]
    blocks = [Block() for _ in kernels[1:]]
    stem = nn.Linear(x.shape[1], WIDTH, bias=False)
    # The stem of the data has a weight variance of 1, not 2.
    scaled = x / math.sqrt(2)
    found = predict_kernels(nn.Sequential(stem, *blocks), scaled, {"Block"}, 2.0)
    for matrix, kernel in zip(found, kernels[1:], strict=True):
        check(matrix, unfold(kernel), SINGLE)


def test_convolutions_with_zeros_outside():
    x = torch.tensor(DATA["conv"]["pixels"])
    expected = torch.tensor(DATA["conv"]["kernel"], dtype=torch.float64)
    sizes = [3, WIDTH, WIDTH, WIDTH, WIDTH]
    layers = [
        layer
        for inside, outside in itertools.pairwise(sizes)
        for layer in (nn.Conv2d(inside, outside, 3, padding=1), nn.ReLU())
    ]
    *_, last = predict_kernels(nn.Sequential(*layers), x, {"Conv2d"}, 2.0, 1 / 16)
    check(last, expected, DIGITS)
