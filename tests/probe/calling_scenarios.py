"""Modules that are called several times, not at all, or in unusual ways."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from tests.probe.scenario import Scenario, Twin, mlp, scenario, score, see_mlp


@scenario
def shared_module_called_3x() -> Scenario:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell, self.act = nn.Linear(6, 6), nn.Tanh()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for _ in range(3):
                x = self.act(self.cell(x))
            return x

    model, x = Model(), torch.randn(5, 6)

    def drive() -> torch.Tensor:
        output = model(x)
        score(output).backward()
        return output

    def twin(see: Twin) -> None:
        h = x
        for call in range(3):
            h = see("cell", model.cell(h), call=call)
            h = see("act", h.tanh(), call=call)
        see.backward(score(see("", h)))

    return Scenario(model, drive, twin)


@scenario
def shared_module_called_parallel_branches() -> Scenario:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encode = nn.Linear(6, 6)

        def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            return self.encode(a) * self.encode(b)

    model, a, b = Model(), torch.randn(5, 6), torch.randn(5, 6)

    def drive() -> torch.Tensor:
        output = model(a, b)
        score(output).backward()
        return output

    def twin(see: Twin) -> None:
        first = see("encode", model.encode(a), call=0)
        second = see("encode", model.encode(b), call=1)
        see.backward(score(see("", first * second)))

    return Scenario(model, drive, twin)


@scenario
def one_call_unused_in_loss() -> Scenario:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell = nn.Linear(6, 6)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return self.cell(x), self.cell(2 * x)

    model, x = Model(), torch.randn(5, 6)

    def drive() -> torch.Tensor:
        _, used = model(x)
        score(used).backward()
        return used

    def twin(see: Twin) -> None:
        see("", see("cell", model.cell(x), call=0), output="0")
        used = see("", see("cell", model.cell(2 * x), call=1), output="1")
        see.backward(score(used))

    return Scenario(model, drive, twin, unobserved=("^cell: gradient: none arrived",))


@scenario
def output_used_several_times() -> Scenario:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 6)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = self.first(x)
            return h + self.second(h) * h.sigmoid()

    model, x = Model(), torch.randn(5, 6)

    def drive() -> torch.Tensor:
        output = model(x)
        score(output).backward()
        return output

    def twin(see: Twin) -> None:
        h = see("first", model.first(x))
        branch = see("second", model.second(h))
        see.backward(score(see("", h + branch * h.sigmoid())))

    return Scenario(model, drive, twin)


@scenario
def identity_module_returns_input() -> Scenario:
    model = nn.Sequential(nn.Identity(), nn.Linear(6, 6), nn.Identity(), nn.Dropout(0.0))
    x = torch.randn(5, 6, requires_grad=True)

    def drive() -> torch.Tensor:
        output = model.eval()(x)
        score(output).backward()
        return output

    def twin(see: Twin) -> None:
        h = see("1", model[1](see("0", x)))
        see.backward(score(see("", see("3", see("2", h)))))

    return Scenario(model, drive, twin)


@scenario
def tied_lm_head_weight_only() -> Scenario:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.mix = nn.Embedding(9, 6), nn.Linear(6, 6)
            self.head = nn.Linear(6, 9, bias=False)
            self.head.weight = self.embed.weight

        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            return F.linear(self.mix(self.embed(tokens)), self.head.weight)

    model, tokens = Model(), torch.randint(9, (5,))

    def drive() -> torch.Tensor:
        output = model(tokens)
        score(output).backward()
        return output

    def twin(see: Twin) -> None:
        h = see("embed", model.embed.weight[tokens])
        h = see("mix", model.mix(h))
        see.backward(score(see("", h @ model.head.weight.t())))

    return Scenario(model, drive, twin, unobserved=("^head: never called; its weights may be",))


@scenario
def mha_out_proj_never_called() -> Scenario:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attend = nn.MultiheadAttention(6, 2, batch_first=True)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.attend(x, x, x, need_weights=False)[0]

    model, x = Model(), torch.randn(2, 5, 6)

    def drive() -> torch.Tensor:
        output = model(x)
        score(output).backward()
        return output

    def twin(see: Twin) -> None:
        qkv = F.linear(x, model.attend.in_proj_weight, model.attend.in_proj_bias)
        q, k, v = (part.view(2, 5, 2, 3).transpose(1, 2) for part in qkv.split(6, dim=-1))
        mixed = (q @ k.transpose(2, 3) / 3**0.5).softmax(-1) @ v
        out = model.attend.out_proj
        h = F.linear(mixed.transpose(1, 2).reshape(2, 5, 6), out.weight, out.bias)
        see.backward(score(see("", see("attend", h, output="0"))))

    return Scenario(model, drive, twin, unobserved=(r"^attend\.out_proj: never called",))


@scenario
def functional_ops_invisible() -> Scenario:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 6)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = F.gelu(self.first(x))
            return F.softmax(self.second(h) + x, dim=-1)

    model, x = Model(), torch.randn(5, 6)

    def drive() -> torch.Tensor:
        output = model(x)
        score(output).backward()
        return output

    def twin(see: Twin) -> None:
        h = F.gelu(see("first", model.first(x)))
        h = see("second", model.second(h))
        see.backward(score(see("", (h + x).softmax(-1))))

    return Scenario(model, drive, twin, unobserved=("^.root.: operations of its own",))


@dataclass
class Answer:
    logits: torch.Tensor
    extra: list[torch.Tensor]
    nothing: None = None


@scenario
def tuple_list_dict_dc_none_out() -> Scenario:
    class Pair(nn.Linear):
        def forward(self, x: torch.Tensor) -> object:
            h = super().forward(x)
            return {"pair": (h, [h.relu(), None]), "count": 3}

    class Wrap(nn.Module):
        def forward(self, x: torch.Tensor) -> Answer:
            return Answer(logits=x.tanh(), extra=[x * 2.0])

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.pair, self.wrap = Pair(6, 6), Wrap()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h, (positive, _) = self.pair(x)["pair"]
            answer = self.wrap(h)
            return answer.logits + answer.extra[0] + positive

    model, x = Model(), torch.randn(5, 6)

    def drive() -> torch.Tensor:
        output = model(x)
        score(output).backward()
        return output

    def twin(see: Twin) -> None:
        h = see("pair", F.linear(x, model.pair.weight, model.pair.bias), output="pair.0")
        positive = see("pair", h.relu(), output="pair.1.0")
        logits = see("wrap", h.tanh(), output="logits")
        extra = see("wrap", h * 2.0, output="extra.0")
        see.backward(score(see("", logits + extra + positive)))

    return Scenario(model, drive, twin)


@scenario
def kwargs_only() -> Scenario:
    class Add(nn.Module):
        def forward(self, *, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
            return left + right

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.add = nn.Linear(6, 6), Add()

        def forward(self, *, x: torch.Tensor) -> torch.Tensor:
            h = self.first(input=x)
            return self.add(left=h, right=x)

    model, x = Model(), torch.randn(5, 6)

    def drive() -> torch.Tensor:
        output = model(x=x)
        score(output).backward()
        return output

    def twin(see: Twin) -> None:
        h = see("first", model.first(x))
        see.backward(score(see("", see("add", h + x))))

    return Scenario(model, drive, twin)


@scenario
def data_dependent_control_flow() -> Scenario:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.low, self.high = nn.Linear(6, 6), nn.Linear(6, 6)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            while x.abs().max() < 40.0:
                x = self.high(x * 3.0) if x.sum() > 0 else self.low(x * 3.0)
            return x

    model, x = Model(), torch.randn(5, 6)

    def drive() -> torch.Tensor:
        output = model(x)
        score(output).backward()
        return output

    def twin(see: Twin) -> None:
        h, calls = x, {"low": 0, "high": 0}
        while h.abs().max() < 40.0:
            name = "high" if h.sum() > 0 else "low"
            h = see(name, getattr(model, name)(h * 3.0), call=calls[name])
            calls[name] += 1
        see.backward(score(see("", h)))

    return Scenario(model, drive, twin)


@scenario
def exception_in_forward_then_retry() -> Scenario:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.failing = mlp(), True

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = self.body(x)
            if self.failing:
                raise RuntimeError("out of luck")
            return h * 2.0

    model, x = Model(), torch.randn(5, 6)

    def drive() -> torch.Tensor:
        try:
            model(x)
        except RuntimeError:
            model.failing = False
        output = model(x)
        score(output).backward()
        return output

    def twin(see: Twin) -> None:
        see("body", see_mlp(model.body, x, see, "body."))
        see.begin_forward()
        h = see("body", see_mlp(model.body, x, see, "body."))
        see.backward(score(see("", h * 2.0)))

    return Scenario(model, drive, twin)
