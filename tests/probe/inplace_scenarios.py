"""Tensors that are changed in place after a module returned them, and views of them."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from tests.probe.scenario import Scenario, Twin, mlp, scenario, score, see_mlp


class Two(nn.Module):
    """Two layers; each scenario says what happens between them."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 6)


@scenario
def plain_mlp() -> Scenario:
    model, x = mlp(), torch.randn(5, 6)

    def drive() -> torch.Tensor:
        output = model(x)
        score(output).backward()
        return output

    def twin(see: Twin) -> None:
        see.backward(score(see("", see_mlp(model, x, see))))

    return Scenario(model, drive, twin)


@scenario
def inplace_relu_after_layer() -> Scenario:
    model, x = mlp(inplace=True), torch.randn(5, 6)

    def drive() -> torch.Tensor:
        output = model(x)
        score(output).backward()
        return output

    def twin(see: Twin) -> None:
        see.backward(score(see("", see_mlp(model, x, see))))

    return Scenario(model, drive, twin)


@scenario
def inplace_functional_on_output() -> Scenario:
    class Model(Two):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = self.first(x)
            h.mul_(3.0)
            F.leaky_relu_(h, 0.1)
            return self.second(h)

    model, x = Model(), torch.randn(5, 6)

    def drive() -> torch.Tensor:
        output = model(x)
        score(output).backward()
        return output

    def twin(see: Twin) -> None:
        h = see("first", model.first(x))
        h = see("second", model.second(F.leaky_relu(h * 3.0, 0.1)))
        see.backward(score(see("", h)))

    return Scenario(model, drive, twin, unobserved=("root.*operations of its own",))


@scenario
def inplace_residual_x_iadd_y() -> Scenario:
    class Model(Two):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = self.first(x)
            h += self.second(h.relu())
            return h

    model, x = Model(), torch.randn(5, 6)

    def drive() -> torch.Tensor:
        output = model(x)
        score(output).backward()
        return output

    def twin(see: Twin) -> None:
        h = see("first", model.first(x))
        branch = see("second", model.second(h.relu()))
        see.backward(score(see("", h + branch)))

    return Scenario(model, drive, twin)


@scenario
def inplace_residual_y_iadd_x() -> Scenario:
    class Model(Two):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = self.first(x)
            branch = self.second(h)
            branch += h
            return branch.relu_()

    model, x = Model(), torch.randn(5, 6)

    def drive() -> torch.Tensor:
        output = model(x)
        score(output).backward()
        return output

    def twin(see: Twin) -> None:
        h = see("first", model.first(x))
        branch = see("second", model.second(h))
        see.backward(score(see("", torch.relu(branch + h))))

    return Scenario(model, drive, twin)


@scenario
def view_of_output_modified() -> Scenario:
    class Model(Two):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = self.first(x)
            h.t()[2:].mul_(2.0)
            h[:, :3].relu_()
            return self.second(h)

    model, x = Model(), torch.randn(5, 6)

    def drive() -> torch.Tensor:
        output = model(x)
        score(output).backward()
        return output

    def twin(see: Twin) -> None:
        h = see("first", model.first(x))
        h = h * torch.tensor([1.0, 1.0, 2.0, 2.0, 2.0, 2.0])
        h = torch.cat([h[:, :3].relu(), h[:, 3:]], 1)
        see.backward(score(see("", see("second", model.second(h)))))

    return Scenario(model, drive, twin)


@scenario
def output_is_view_modified() -> Scenario:
    model = nn.Sequential(
        nn.Linear(6, 6), nn.Unflatten(1, (2, 3)), nn.ReLU(inplace=True), nn.Flatten(), nn.ELU()
    )
    x = torch.randn(5, 6)

    def drive() -> torch.Tensor:
        output = model(x)
        score(output).backward()
        return output

    def twin(see: Twin) -> None:
        h = see("0", model[0](x))
        h = see("1", h.unflatten(1, (2, 3)))
        h = see("2", h.relu())
        h = see("3", h.flatten(1))
        see.backward(score(see("", see("4", F.elu(h)))))

    return Scenario(model, drive, twin)


class Slice(nn.Module):
    """Return every second column: a view with gaps."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, 1::2]


@scenario
def output_is_part_of_a_tensor_and_modified() -> Scenario:
    model = nn.Sequential(nn.Linear(6, 6), Slice(), nn.ReLU(inplace=True), nn.Linear(3, 2))
    x = torch.randn(5, 6)

    def drive() -> torch.Tensor:
        output = model(x)
        score(output).backward()
        return output

    def twin(see: Twin) -> None:
        h = see("0", model[0](x))
        h = see("1", h[:, 1::2])
        h = see("2", h.relu())
        see.backward(score(see("", see("3", model[3](h)))))

    return Scenario(model, drive, twin)


@scenario
def base_modified_while_view_hooked() -> Scenario:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.view = nn.Linear(6, 6), nn.Flatten(0)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = self.first(x)
            flat = self.view(h)
            h.relu_()
            return flat * 2.0

    model, x = Model(), torch.randn(5, 6)

    def drive() -> torch.Tensor:
        output = model(x)
        score(output).backward()
        return output

    def twin(see: Twin) -> None:
        h = see("first", model.first(x))
        flat = see("view", h.flatten())
        see.backward(score(see("", flat.relu() * 2.0)))

    return Scenario(model, drive, twin)


@scenario
def chunk_multi_output_views() -> Scenario:
    class Chunk(nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return x.chunk(2, dim=1)

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.chunk = nn.Linear(6, 6), Chunk()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            value, gate = self.chunk(self.first(x))
            return value * gate.sigmoid()

    model, x = Model(), torch.randn(5, 6)

    def drive() -> torch.Tensor:
        output = model(x)
        score(output).backward()
        return output

    def twin(see: Twin) -> None:
        h = see("first", model.first(x))
        value, gate = h[:, :3], h[:, 3:]
        value = see("chunk", value, output="0")
        gate = see("chunk", gate, output="1")
        see.backward(score(see("", value * gate.sigmoid())))

    return Scenario(model, drive, twin)


@scenario
def user_modifies_returned_output() -> Scenario:
    model, x = mlp(), torch.randn(5, 6)

    def drive() -> torch.Tensor:
        output = model(x)
        output.mul_(3.0).relu_()
        score(output).backward()
        return output

    def twin(see: Twin) -> None:
        output = see("", see_mlp(model, x, see))
        see.backward(score((output * 3.0).relu()))

    return Scenario(model, drive, twin)
