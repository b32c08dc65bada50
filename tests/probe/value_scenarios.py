"""Outputs that are not the usual floating-point tensors, and weights that are computed."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.utils import parametrizations

from tests.probe.scenario import Scenario, Twin, scenario, score


@scenario
def empty_tensor() -> Scenario:
    model, x = nn.Sequential(nn.Linear(6, 6), nn.ReLU()), torch.randn(0, 6)

    def drive() -> torch.Tensor:
        output = model(x)
        score(output).backward()
        return output

    def twin(see: Twin) -> None:
        see.backward(score(see("", see("1", see("0", model[0](x)).relu()))))

    return Scenario(model, drive, twin)


@scenario
def complex_out() -> Scenario:
    class Transform(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.fft.rfft(x).conj()

    class Magnitude(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.abs()

    model, x = nn.Sequential(nn.Linear(6, 6), Transform(), Magnitude()), torch.randn(5, 6)

    def drive() -> torch.Tensor:
        output = model(x)
        score(output).backward()
        return output

    def twin(see: Twin) -> None:
        h = see("0", model[0](x))
        h = see("1", torch.fft.rfft(h).conj())
        see.backward(score(see("", see("2", h.abs()))))

    return Scenario(model, drive, twin)


@scenario
def int_bool_out() -> Scenario:
    class Select(nn.Module):
        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"index": x.argmax(1), "mask": x > 0.0, "value": x}

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.select = nn.Linear(6, 6), Select()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            selected = self.select(self.first(x))
            return selected["value"] * selected["mask"]

    model, x = Model(), torch.randn(5, 6)

    def drive() -> torch.Tensor:
        output = model(x)
        score(output).backward()
        return output

    def twin(see: Twin) -> None:
        h = see("first", model.first(x))
        see("select", h.argmax(1), output="index")
        mask = see("select", h > 0.0, output="mask")
        see.backward(score(see("", see("select", h, output="value") * mask)))

    return Scenario(model, drive, twin)


@scenario
def weight_norm_param() -> Scenario:
    layer = parametrizations.weight_norm(nn.Linear(6, 6))
    model, x = nn.Sequential(layer, nn.ReLU()), torch.randn(5, 6)

    def drive() -> torch.Tensor:
        output = model(x)
        score(output).backward()
        return output

    def twin(see: Twin) -> None:
        length = layer.parametrizations.weight.original0
        direction = layer.parametrizations.weight.original1
        weight = length * direction / direction.norm(dim=1, keepdim=True)
        h = see("0", x @ weight.t() + layer.bias)
        see.backward(score(see("", see("1", h.relu()))))

    return Scenario(model, drive, twin, unobserved=("^0: weight: it is parametrized",))
