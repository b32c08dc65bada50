"""Transformers, recurrent nets and graphs: library defaults, designs, and what goes wrong."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from nets import GPT, Llama, Recurrent, VisionTransformer, build_encoder
from torch import nn
from torch.nn import functional as F

from tests.diagnosis.cases import draw_weights, he_times, normal
from tests.verdicts.case import Calls, Case, images, rows, sequences, tokens


def gpt(*, scaled: bool = True, tied: bool = False, layers: int = 6) -> nn.Module:
    """Return GPT-2's initialization: N(0, .02²), projections into the stream by 1/sqrt(2L)."""
    model = GPT(layers, 64, 4, 16, 100)
    for name, parameter in model.named_parameters():
        if parameter.dim() == 2:
            ends = scaled and name.endswith(("project.weight", "contract.weight"))
            nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * layers) if ends else 0.02)
        elif name.endswith("bias"):
            nn.init.zeros_(parameter)
    if tied:
        model.head.weight = model.tokens.weight
    return model


class Attention(nn.Module):
    """Attention with or without a way around it, and a norm before it or none."""

    def __init__(self, width: int, *, around: bool, norm: bool, scale: float = 0.125) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width) if norm else nn.Identity()
        self.query, self.key, self.value, self.out = (
            nn.Linear(width, width, bias=False) for _ in range(4)
        )
        self.around, self.scale = around, scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(x)
        scores = self.query(y) @ self.key(y).mT * self.scale
        y = self.out(scores.softmax(-1) @ self.value(y))
        return x + y if self.around else y


def attend(depth: int, *, around: bool, norm: bool) -> nn.Sequential:
    layers = [Attention(64, around=around, norm=norm) for _ in range(depth)]
    return nn.Sequential(*layers, nn.Linear(64, 10))


def zero_branches(model: nn.Module) -> nn.Module:
    for name, parameter in model.named_parameters():
        if name.endswith(("project.weight", "contract.weight")):
            nn.init.zeros_(parameter)
    return model


class Rezero(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(64, 128), nn.Linear(128, 64)
        self.alpha = nn.Parameter(torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.alpha * self.fc2(F.gelu(self.fc1(x)))


class Mixer(nn.Module):
    def __init__(self, width: int, length: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mix = nn.Sequential(nn.Linear(length, 64), nn.GELU(), nn.Linear(64, length))
        self.feed = nn.Sequential(nn.Linear(width, 128), nn.GELU(), nn.Linear(128, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.mix(self.norm1(x).mT).mT
        return x + self.feed(self.norm2(x))


class Low(nn.Module):
    """A frozen layer and a trainable correction of rank 4, whose second factor begins at 0."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.layer = layer.requires_grad_(False)
        self.down = nn.Linear(layer.in_features, 4, bias=False)
        self.up = nn.Linear(4, layer.out_features, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x) + self.up(self.down(x))


def with_adapters() -> nn.Module:
    model = gpt()
    model.requires_grad_(False)
    for block in model.blocks:
        block.attend = Low(block.attend)
    return model


class Experts(nn.Module):
    """Each token goes to one of eight experts; with few tokens some get none."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.router = nn.Linear(width, 8)
        self.experts = nn.ModuleList(nn.Linear(width, width) for _ in range(8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight, chosen = self.router(x).softmax(-1).max(-1)
        y = torch.zeros_like(x)
        for index, expert in enumerate(self.experts):
            mine = chosen == index
            if mine.any():
                y[mine] = weight[mine][:, None] * expert(x[mine])
        return x + y


def padded() -> nn.Module:
    embedding = nn.Embedding(100, 64, padding_idx=0)
    return nn.Sequential(embedding, build_encoder(2, 64), nn.Linear(64, 10))


def read_out(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Let learned queries look at the sequence (Perceiver, DETR)."""
    queries = model.queries.weight.expand(len(x), -1, -1)
    for layer in model.layers:
        queries = queries + layer(queries, x, x)[0]
    return model.head(queries)


def perceiver() -> nn.Module:
    layers = nn.ModuleList(nn.MultiheadAttention(64, 4, batch_first=True) for _ in range(3))
    return Calls(read_out, queries=nn.Embedding(8, 64), layers=layers, head=nn.Linear(64, 10))


class Graph(nn.Module):
    """Graph convolutions over a ring with random chords, their sums averaged over neighbours."""

    def __init__(self, depth: int, *, around: bool = False, aggregate: str = "mean") -> None:
        super().__init__()
        self.norms = nn.ModuleList(
            nn.LayerNorm(64) if around else nn.Identity() for _ in range(depth)
        )
        self.layers = nn.ModuleList(nn.Linear(64, 64) for _ in range(depth))
        self.head = nn.Linear(64, 10)
        self.around = around
        ring = torch.eye(48) + torch.eye(48).roll(1, 0) + torch.eye(48).roll(-1, 0)
        adjacency = ((ring + (torch.rand(48, 48) < 0.1)) > 0).float()
        degree = adjacency.sum(1, keepdim=True)
        self.register_buffer("average", adjacency / degree if aggregate == "mean" else adjacency)
        for layer in self.layers:
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for norm, layer in zip(self.norms, self.layers, strict=True):
            y = torch.relu(layer(self.average @ norm(x)))
            x = x + y if self.around else y
        return self.head(x)


class Unrolled(nn.Module):
    """A recurrent net written out: the same layer at every step."""

    def __init__(self, draw: Callable[[torch.Tensor], object], steps: int) -> None:
        super().__init__()
        self.enter, self.recur = nn.Linear(64, 64), nn.Linear(64, 64)
        self.head = nn.Linear(64, 10)
        self.steps = steps
        draw_weights(self.recur, draw)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        state = torch.tanh(self.enter(x))
        for _ in range(self.steps):
            state = torch.tanh(self.recur(state))
        return self.head(state)


def draw_weights_of(model: nn.Module, draw: Callable[[torch.Tensor], object]) -> nn.Module:
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                draw(parameter)
    return model


FAULTY = {
    "attention without a way around": Case(
        lambda: attend(12, around=False, norm=False), sequences()
    ),
    "attention under norms, no way around": Case(
        lambda: attend(12, around=False, norm=True), sequences()
    ),
    "transformer without norms, N(0, 1)": Case(
        lambda: draw_weights_of(attend(12, around=True, norm=False), normal(1.0)), sequences()
    ),
    "graph 32, mean": Case(lambda: Graph(32), rows(count=48)),
    "graph 12, sum": Case(lambda: Graph(12, aggregate="sum"), rows(count=48)),
    "recurrence N(0, .01)": Case(lambda: Unrolled(normal(0.01), 30), rows()),
    "recurrence that dies out": Case(lambda: Unrolled(he_times(0.4), 30), rows()),
}


HEALTHY = {
    "gpt-2": Case(gpt, tokens()),
    "gpt-2 tied": Case(lambda: gpt(tied=True), tokens()),
    "gpt, torch's default": Case(lambda: GPT(6, 64, 4, 16, 100), tokens()),
    "gpt, branches from 0": Case(lambda: zero_branches(gpt()), tokens()),
    "gpt with adapters": Case(with_adapters, tokens()),
    "llama": Case(lambda: Llama(4, 64, 100), tokens()),
    "vit": Case(lambda: VisionTransformer(4, 64, size=16), images()),
    "post-norm encoder": Case(lambda: build_encoder(6, 64), sequences()),
    "rezero 24": Case(
        lambda: nn.Sequential(*[Rezero() for _ in range(24)], nn.Linear(64, 10)), rows()
    ),
    "mlp mixer": Case(
        lambda: nn.Sequential(*[Mixer(64, 16) for _ in range(6)], nn.Linear(64, 10)), sequences()
    ),
    "experts": Case(lambda: nn.Sequential(Experts(), Experts(), nn.Linear(64, 10)), rows(count=8)),
    "padding": Case(padded, tokens()),
    "perceiver": Case(perceiver, sequences()),
    "gru": Case(lambda: Recurrent(nn.GRU, 64), sequences()),
    "lstm 3 layers": Case(
        lambda: Calls(
            lambda self, x: self.head(self.lstm(x)[0]),
            lstm=nn.LSTM(64, 64, 3, batch_first=True),
            head=nn.Linear(64, 10),
        ),
        sequences(),
    ),
    "graph 3, mean": Case(lambda: Graph(3), rows(count=48)),
    "graph 16, norms and residual": Case(lambda: Graph(16, around=True), rows(count=48)),
    "orthogonal recurrence": Case(lambda: Unrolled(nn.init.orthogonal_, 30), rows()),
}
