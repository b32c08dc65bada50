"""VP303: a layer that departs from what its own weights make of its input."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import varprobe as vp
from tests.diagnosis.cases import draw_weights, he, mlp

WIDTH = 512


def find(model: nn.Module, inputs: torch.Tensor) -> list[vp.Finding]:
    return list(vp.check(model, inputs, select=["VP303"]).findings)


def make_net(seed: int) -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(seed)
    layers = [layer() for _ in range(5) for layer in (lambda: nn.Linear(WIDTH, WIDTH), nn.ReLU)]
    return draw_weights(nn.Sequential(*layers), he), torch.randn(64, WIDTH)


def scale_output(layer: nn.Module, factor: float) -> None:
    layer.register_forward_hook(lambda _module, _inputs, output: factor * output)


def test_one_layer_with_ten_percent_too_much_gain_is_named() -> None:
    model, inputs = make_net(0)
    scale_output(model[2], 1.1)
    (finding,) = find(model, inputs)
    assert (finding.module, finding.level) == ("2", "warning")
    assert finding.measured / finding.expected == pytest.approx(1.21, rel=0.1)
    assert "standard errors" in finding.message


def test_the_same_net_without_it_is_right() -> None:
    assert find(*make_net(0)) == []


def test_less_than_five_percent_is_no_news_however_certain() -> None:
    model, inputs = make_net(0)
    scale_output(model[6], 1.01)
    assert find(model, inputs) == []


def test_an_output_of_nothing_departs() -> None:
    model, inputs = make_net(0)
    scale_output(model[6], 0.0)
    (finding,) = find(model, inputs)
    assert (finding.module, finding.measured) == ("6", 0.0)


def test_several_layers_are_counted_behind_the_worst() -> None:
    model, inputs = make_net(0)
    scale_output(model[2], 1.2)
    scale_output(model[8], 0.5)
    (finding,) = find(model, inputs)
    assert finding.module == "8"
    assert "and 1 more layers depart" in finding.message


@pytest.mark.parametrize("unit", [1e-6, 1e6])
def test_the_units_of_the_input_do_not_matter(unit: float) -> None:
    model, inputs = make_net(1)
    scale_output(model[2], 1.1)
    assert [finding.module for finding in find(model, inputs * unit)] == ["2"]


def test_trained_weights_are_not_random() -> None:
    torch.manual_seed(0)
    model = draw_weights(mlp(3, nn.ReLU), he)
    inputs = torch.randn(64, 128)
    with torch.no_grad():  # weights that look for what the inputs are
        model[0].weight += 0.3 * inputs[:1]
    assert [finding.module for finding in find(model, inputs)] == ["0"]
