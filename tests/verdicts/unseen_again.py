"""More such cases, written before the checks changed once more, and run when they had."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import nn
from torch.nn import functional as F

from tests.diagnosis.cases import draw_weights, he, he_times, lecun, normal
from tests.verdicts.case import Calls, Case, images, rows, sequences, stack, tokens
from tests.verdicts.convolutional import chain, convolve


class Pointwise(nn.Module):
    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(x)


class Maxout(nn.Module):
    """The larger of two linear units (Goodfellow et al. 2013)."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.linear = nn.Linear(width, 2 * width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x).unflatten(-1, (-1, 2)).amax(-1)


def maxout(depth: int, draw: Callable[[torch.Tensor], None]) -> nn.Module:
    return draw_weights(nn.Sequential(*[Maxout() for _ in range(depth)], nn.Linear(64, 10)), draw)


def unroll(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    state = torch.zeros(len(x), 64)
    for step in x.unbind(1):
        state = model.cell(step, state)
    return model.head(state)


def chaotic_cell() -> nn.Module:
    model = Calls(unroll, cell=nn.RNNCell(64, 64), head=nn.Linear(64, 10))
    nn.init.orthogonal_(model.cell.weight_hh, gain=3.0)
    return model


def decode(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return model.head(model.decoder(model.tokens(x), model.memory(x)))


def loud_decoder() -> nn.Module:
    layer = nn.TransformerDecoderLayer(64, 4, 128, 0.0, batch_first=True, norm_first=True)
    model = Calls(
        decode,
        tokens=nn.Embedding(100, 64),
        memory=nn.Embedding(100, 64),
        decoder=nn.TransformerDecoder(layer, 6),
        head=nn.Linear(64, 100),
    )
    with torch.no_grad():
        model.decoder.layers[2].linear2.weight.mul_(100.0)
    return model


def blocked_by_norms() -> nn.Module:
    layers = [
        layer
        for i in range(6)
        for layer in (convolve(3 if i == 0 else 16, 16), nn.BatchNorm2d(16), nn.ReLU())
    ]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))
    nn.init.zeros_(model[7].weight)
    return model


class SwiGLU(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate, self.up, self.down = nn.Linear(64, 128), nn.Linear(64, 128), nn.Linear(128, 64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(F.silu(self.gate(x)) * self.up(x))


def upsample() -> nn.Module:
    layers = [
        layer
        for i in range(8)
        for layer in (nn.ConvTranspose2d(32, 32, 3, 2 if i % 3 == 0 else 1, 1), nn.ReLU())
    ]
    return nn.Sequential(nn.Linear(16, 32 * 4), nn.Unflatten(1, (32, 2, 2)), *layers)


def without_gradients(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    for branch in model.branches:
        x = x + branch(x).detach()
    return model.head(x)


FAULTY = {
    "maxout N(0, .01)": Case(lambda: maxout(20, normal(0.01)), rows()),
    "cell of three times orthogonal": Case(chaotic_cell, sequences(length=60)),
    "one loud projection in a decoder": Case(loud_decoder, tokens()),
    "hard tanh N(0, 1)": Case(lambda: draw_weights(stack(12, nn.Hardtanh), normal(1.0)), rows()),
    "norms of gain 0": Case(blocked_by_norms, images()),
    "exponentials": Case(lambda: draw_weights(stack(5, partial(Pointwise, torch.exp)), he), rows()),
    "squared relu": Case(
        lambda: draw_weights(
            stack(12, partial(Pointwise, lambda x: torch.relu(x).square())), he_times(2.0)
        ),
        rows(),
    ),
    "gated layers N(0, .02)": Case(
        lambda: draw_weights(
            nn.Sequential(*[SwiGLU() for _ in range(12)], nn.Linear(64, 10)), normal(0.02)
        ),
        rows(),
    ),
    "transposed convolutions, default": Case(upsample, rows(16, 8)),
    "branches detached": Case(
        lambda: Calls(
            without_gradients,
            branches=nn.ModuleList(nn.Sequential(nn.Linear(64, 64), nn.ReLU()) for _ in range(4)),
            head=nn.Linear(64, 10),
        ),
        rows(),
    ),
}


def attend_to_all(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    places = torch.arange(x.shape[1])[:, None] / 10000 ** (torch.arange(32) / 32)
    hidden = model.tokens(x) * 8.0 + torch.cat([places.sin(), places.cos()], -1)
    return F.linear(model.encoder(hidden), model.tokens.weight)


def first_transformer() -> nn.Module:
    layer = nn.TransformerEncoderLayer(64, 4, 256, 0.1, batch_first=True)
    model = Calls(
        attend_to_all, tokens=nn.Embedding(100, 64), encoder=nn.TransformerEncoder(layer, 4)
    )
    nn.init.normal_(model.tokens.weight, std=1 / 8)
    return model


class Coupling(nn.Module):
    """An affine coupling that begins as the identity (RealNVP, Glow)."""

    def __init__(self, *, first: bool) -> None:
        super().__init__()
        self.first = first
        self.net = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 64))
        nn.init.zeros_(self.net[2].weight)
        nn.init.zeros_(self.net[2].bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        kept, changed = x.chunk(2, -1) if self.first else x.chunk(2, -1)[::-1]
        scale, shift = self.net(kept).chunk(2, -1)
        changed = changed * torch.tanh(scale).exp() + shift
        return torch.cat([kept, changed] if self.first else [changed, kept], -1)


def add_up_set(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return model.outer(model.inner(x).sum(1))


class Conditioned(nn.Module):
    """A residual block whose channels a condition scales and shifts (FiLM)."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.conv = nn.GroupNorm(4, 32), convolve(32, 32)
        self.film = nn.Linear(16, 64)

    def forward(self, x: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        scale, shift = self.film(condition)[..., None, None].chunk(2, 1)
        return x + self.conv(F.silu(self.norm(x) * (1 + scale) + shift))


def condition_all(model: nn.Module, x: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
    x = model.enter(x)
    for block in model.blocks:
        x = block(x, condition)
    return model.head(x.mean((2, 3)))


def integrate(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    for _ in range(10):
        x = x + 0.1 * model.field(x)
    return model.head(x)


class Inception(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.paths = nn.ModuleList(
            nn.Sequential(convolve(32, 8, size), nn.BatchNorm2d(8), nn.ReLU()) for size in (1, 3, 5)
        )
        self.pooled = nn.Sequential(
            nn.MaxPool2d(3, 1, 1), convolve(32, 8, 1), nn.BatchNorm2d(8), nn.ReLU()
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([*(path(x) for path in self.paths), self.pooled(x)], 1)


class LinearAttention(nn.Module):
    """Attention without a softmax (Katharopoulos et al. 2020)."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.inward = nn.LayerNorm(64), nn.Linear(64, 192)
        self.outward = nn.Linear(64, 64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        query, key, value = self.inward(self.norm(x)).chunk(3, -1)
        query, key = F.elu(query) + 1, F.elu(key) + 1
        summed = query @ (key.mT @ value)
        return x + self.outward(summed / (query @ key.sum(1)[..., None]))


def tag(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    letters = model.letters(x).flatten(0, 1).mT
    words = torch.relu(model.conv(letters)).amax(2).view(len(x), -1, 32)
    return model.head(model.memory(words)[0])


def serve_tasks(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    trunk = model.trunk(x)
    return torch.stack([head(trunk).squeeze(-1) for head in model.heads])


HEALTHY = {
    "the first transformer": Case(first_transformer, tokens()),
    "affine couplings": Case(
        lambda: nn.Sequential(*[Coupling(first=i % 2 == 0) for i in range(8)]), rows()
    ),
    "a sum over a set": Case(
        lambda: Calls(
            add_up_set,
            inner=nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU()),
            outer=nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1)),
        ),
        lambda: torch.randn(16, 64, 8),
    ),
    "blocks under a condition": Case(
        lambda: Calls(
            condition_all,
            enter=convolve(3, 32),
            blocks=nn.ModuleList(Conditioned() for _ in range(6)),
            head=nn.Linear(32, 10),
        ),
        lambda: (torch.randn(8, 3, 16, 16), torch.randn(8, 16)),
    ),
    "a field integrated": Case(
        lambda: Calls(
            integrate,
            field=nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 64)),
            head=nn.Linear(64, 10),
        ),
        rows(),
    ),
    "maxout with its gain": Case(lambda: maxout(10, lecun), rows()),
    "inception": Case(lambda: chain([nn.ReLU(), *[Inception() for _ in range(5)]], 32), images()),
    "linear attention": Case(
        lambda: nn.Sequential(*[LinearAttention() for _ in range(6)], nn.Linear(64, 10)),
        sequences(),
    ),
    "tags of words": Case(
        lambda: Calls(
            tag,
            letters=nn.Embedding(30, 16, padding_idx=0),
            conv=nn.Conv1d(16, 32, 3, padding=1),
            memory=nn.LSTM(32, 32, batch_first=True, bidirectional=True),
            head=nn.Linear(64, 9),
        ),
        lambda: torch.randint(0, 30, (4, 12, 8)),
    ),
    "five tasks": Case(
        lambda: Calls(
            serve_tasks,
            trunk=draw_weights(
                nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU()), he
            ),
            heads=nn.ModuleList(nn.Linear(64, 1) for _ in range(5)),
        ),
        lambda: torch.randn(32, 20) * math.sqrt(2.0),
    ),
}
