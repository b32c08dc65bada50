"""All draws of a layer together have the scale that theory expects, forward and back."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from varprobe.initializers.laws import WeightLaw
from varprobe.theory.law import Weight
from varprobe.theory.sampling.contraction import Contraction, find_contraction
from varprobe.theory.tracer import Operation, Slot, trace

DRAWS = 3
VARIANCE = 0.01

LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(32, 24), (4, 32)),
    "linear without bias": (lambda: nn.Linear(32, 24, bias=False), (4, 32)),
    "convolution": (lambda: nn.Conv2d(16, 8, 3, stride=2, padding=1), (2, 16, 7, 7)),
    "groups": (lambda: nn.Conv1d(16, 8, 5, groups=2, bias=False), (2, 16, 9)),
    "dilation": (lambda: nn.Conv1d(16, 8, 3, dilation=2), (2, 16, 9)),
    "transposed": (lambda: nn.ConvTranspose2d(16, 8, 3, stride=2), (2, 16, 5, 5)),
}


def find(module: nn.Module, x: torch.Tensor) -> tuple[Operation, Contraction]:
    tape, _ = trace(module, (x,), {})
    (operation,) = (o for o in tape.operations if o.op is not None)
    (value,) = (v for v, t in tape.sources.items() if t is module.weight)
    weight = Weight(WeightLaw.normal(VARIANCE), tuple(module.weight.shape), 1)
    contraction = find_contraction(operation, {value: weight}, {value: 1})
    assert contraction is not None
    return operation, contraction


@pytest.mark.parametrize("name", LAYERS)
def test_draws_have_the_expected_scale_in_both_directions(name: str) -> None:
    build, shape = LAYERS[name]
    torch.manual_seed(0)
    module = build()
    _, contraction = find(module, torch.randn(shape))
    inputs = [torch.randn(shape, requires_grad=True) for _ in range(DRAWS)]
    weights = [torch.randn_like(module.weight, requires_grad=True) for _ in range(DRAWS)]
    biases = [None if module.bias is None else torch.zeros_like(module.bias)] * DRAWS
    outputs = contraction(inputs, weights, biases)
    gradients = [torch.randn_like(output) for output in outputs]
    torch.autograd.backward(outputs, gradients)

    # The slow, obvious way: a layer with every weight v, on squares.
    squared = build()
    with torch.no_grad():
        squared.weight.fill_(VARIANCE)
        if squared.bias is not None:
            squared.bias.zero_()
    wanted = down = 0.0
    for x, gradient in zip(inputs, gradients, strict=True):
        leaf = x.detach().square().requires_grad_()
        result = squared(leaf)
        result.backward(gradient.square())
        wanted += float(result.detach().sum())
        assert leaf.grad is not None
        down += float(leaf.grad.sum())
    found = sum(float(output.detach().square().sum()) for output in outputs)
    assert found == pytest.approx(wanted, rel=1e-5)
    found = sum(float(x.grad.square().sum()) for x in inputs if x.grad is not None)
    assert found == pytest.approx(down, rel=1e-5)


def test_gradients_of_the_weights_are_autograds() -> None:
    torch.manual_seed(0)
    module = nn.Linear(32, 24)
    _, contraction = find(module, torch.randn(4, 32))
    inputs = [torch.randn(4, 32) for _ in range(DRAWS)]
    weights = [torch.randn(24, 32, requires_grad=True) for _ in range(DRAWS)]
    biases = [torch.randn(24, requires_grad=True) for _ in range(DRAWS)]
    outputs = contraction(inputs, weights, biases)
    torch.autograd.backward(outputs, [2 * output.detach() for output in outputs])
    for x, weight, bias in zip(inputs, weights, biases, strict=True):
        w, b = (t.detach().requires_grad_() for t in (weight, bias))
        F.linear(x, w, b).square().sum().backward()
        torch.testing.assert_close(weight.grad, w.grad)
        torch.testing.assert_close(bias.grad, b.grad)


def test_draws_keep_their_distance() -> None:
    # One factor for all: how far draws lie apart is what the error bar is made of.
    torch.manual_seed(0)
    module = nn.Linear(32, 24, bias=False)
    _, contraction = find(module, torch.randn(4, 32))
    x = torch.randn(4, 32)
    weights = [torch.randn(24, 32) * scale for scale in (1.0, 3.0)]
    first, second = contraction([x, x], [w.clone() for w in weights], [None, None])
    ratio = F.linear(x, weights[1]).square().sum() / F.linear(x, weights[0]).square().sum()
    assert float(second.square().sum() / first.square().sum()) == pytest.approx(float(ratio))


def make(law: WeightLaw, shape: tuple[int, ...], uses: int = 1) -> Contraction | None:
    op = torch.ops.aten.linear.default
    operation = Operation(op, "linear", (Slot(0), Slot(1)), {}, (2,), None, True)
    return find_contraction(operation, {1: Weight(law, shape, 1)}, {1: uses})


@pytest.mark.parametrize(
    ("law", "shape", "uses", "known"),
    [
        (WeightLaw.normal(1.0), (32, 32), 1, True),
        (WeightLaw.normal(1.0), (32, 32), 2, False),  # its second input depends on it
        (WeightLaw.normal(1.0), (32, 8), 1, False),  # too few to be independent of what comes back
        (WeightLaw.constant(1.0), (32, 32), 1, False),
        (WeightLaw.normal(1.0, mean=1.0), (32, 32), 1, False),
    ],
)
def test_only_a_fresh_weight_of_mean_zero_has_a_known_scale(
    law: WeightLaw, shape: tuple[int, ...], uses: int, known: bool
) -> None:
    assert (make(law, shape, uses) is not None) == known


def test_a_layer_that_passes_nothing_is_left_alone() -> None:
    contraction = make(WeightLaw.normal(1.0), (32, 32))
    assert contraction is not None
    x = torch.zeros(4, 32, requires_grad=True)
    outputs = contraction([x, x], [torch.randn(32, 32) for _ in range(2)], [None, None])
    torch.autograd.backward(outputs, [torch.zeros_like(o) for o in outputs])
    assert not outputs[0].any()
    assert x.grad is not None
    assert not x.grad.any()
