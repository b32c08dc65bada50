"""Cases that were written when the checks were done, and are reported as they came out."""

from __future__ import annotations

import itertools
import math

import torch
from torch import nn
from torch.nn import functional as F

from tests.diagnosis.cases import draw_weights, he, normal
from tests.verdicts.case import Calls, Case, images, rows, sequences, stack
from tests.verdicts.convolutional import Inverted, chain, convolve


class Gated(nn.Module):
    """WaveNet's layer: a dilated convolution and its gate, with a way around or without."""

    def __init__(self, dilation: int, *, around: bool) -> None:
        super().__init__()
        options = {"padding": dilation, "dilation": dilation}
        self.filter, self.gate = (nn.Conv1d(32, 32, 3, **options) for _ in range(2))
        self.out = nn.Conv1d(32, 32, 1)
        self.around = around

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.out(torch.tanh(self.filter(x)) * torch.sigmoid(self.gate(x)))
        return x + y if self.around else y


def wave_net(*, around: bool) -> nn.Module:
    layers = [Gated(2 ** (i % 4), around=around) for i in range(12)]
    return nn.Sequential(nn.Conv1d(1, 32, 1), *layers, nn.Conv1d(32, 8, 1))


def u_shape(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    kept = []
    for layer in model.down:
        x = F.relu(layer(x))
        kept.append(x)
        x = F.avg_pool2d(x, 2)
    for layer in model.up:
        x = F.relu(layer(F.interpolate(x, scale_factor=2) + kept.pop()))
    return model.out(x)


def small_u() -> nn.Module:
    model = Calls(
        u_shape,
        down=nn.ModuleList(nn.Conv2d(3 if i == 0 else 16, 16, 3, padding=1) for i in range(4)),
        up=nn.ModuleList(nn.Conv2d(16, 16, 3, padding=1) for _ in range(4)),
        out=nn.Conv2d(16, 2, 1),
    )
    return draw_weights(model, normal(0.01))


def autoencoder() -> nn.Module:
    widths = [64, 48, 32, 16, 8, 16, 32, 48, 64]
    pairs = itertools.pairwise(widths)
    layers = [layer for a, b in pairs for layer in (nn.Linear(a, b), nn.Sigmoid())]
    return nn.Sequential(*layers)


def constant_filters() -> nn.Module:
    model = chain([Inverted(16) for _ in range(4)], 16)
    for name, parameter in model.named_parameters():
        if "depthwise" in name:
            nn.init.ones_(parameter)
    return model


class Patches(nn.Module):
    def __init__(self, *, registers: int = 0) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 64, 4, 4)
        self.registers = nn.Parameter(torch.zeros(1, registers, 64))
        self.positions = nn.Parameter(0.02 * torch.randn(1, 16, 64))
        layer = nn.TransformerEncoderLayer(64, 4, 128, 0.0, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 4, enable_nested_tensor=False)
        self.norm, self.head = nn.LayerNorm(64), nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patches(x).flatten(2).mT + self.positions
        x = torch.cat([self.registers.expand(len(x), -1, -1), x], 1)
        return self.head(self.norm(self.encoder(x)).mean(1))


def blind_patches() -> nn.Module:
    model = Patches()
    nn.init.zeros_(model.patches.weight)
    return model


def with_registers() -> nn.Module:
    model = Patches(registers=4)
    nn.init.zeros_(model.head.weight)
    return model


def round_trip(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return model.head(torch.tensor(torch.relu(model.body(x)).tolist()))


class Sharp(nn.Module):
    """Attention whose scores nobody divides by anything, on a stream without norms."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(64, 64, bias=False) for _ in range(3))
        draw_weights_of(self, 0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + (self.query(x) @ self.key(x).mT).softmax(-1) @ self.value(x)


def draw_weights_of(model: nn.Module, std: float) -> None:
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=std)


class Doubling(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.layer = nn.LayerNorm(64), nn.Linear(64, 64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * x + torch.relu(self.layer(self.norm(x)))


def recur(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    state = torch.zeros(len(x), 64)
    for step in x.unbind(1):
        state = torch.relu(model.cell(torch.cat([step, state], 1)))
    return model.head(state)


def relu_recurrence() -> nn.Module:
    model = Calls(recur, cell=nn.Linear(128, 64), head=nn.Linear(64, 10))
    return draw_weights(model, normal(0.5))


FAULTY = {
    "u-shape N(0, .01)": Case(small_u, images(32)),
    "sigmoid autoencoder": Case(autoencoder, rows()),
    "wave net without a way around": Case(
        lambda: wave_net(around=False), lambda: torch.randn(8, 1, 64)
    ),
    "depthwise filters of ones": Case(constant_filters, images()),
    "patches from zero": Case(blind_patches, images()),
    "a list in between": Case(
        lambda: Calls(round_trip, body=nn.Linear(64, 64), head=nn.Linear(64, 10)), rows()
    ),
    "scores undivided": Case(
        lambda: nn.Sequential(*[Sharp() for _ in range(8)], nn.Linear(64, 10)), sequences()
    ),
    "doubling stream": Case(
        lambda: nn.Sequential(*[Doubling() for _ in range(16)], nn.Linear(64, 10)), rows()
    ),
    "relu recurrence": Case(relu_recurrence, sequences(length=30)),
    "mish 30 xavier": Case(
        lambda: draw_weights(stack(30, nn.Mish), nn.init.xavier_uniform_), rows()
    ),
}


class Free(nn.Module):
    """A block without norms whose input is divided by the scale that it is known to have."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = convolve(32, 32), convolve(32, 32)
        he(self.conv1.weight.data)
        he(self.conv2.weight.data)
        self.expected = math.sqrt(1 + depth * 0.04)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv2(torch.relu(self.conv1(torch.relu(x / self.expected))))
        return x + 0.2 * y


def encode(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    hidden = model.body(x)
    mean, log_variance = model.mean(hidden), model.log_variance(hidden)
    return model.decoder(mean + torch.randn_like(mean) * (log_variance / 2).exp())


def variational() -> nn.Module:
    model = Calls(
        encode,
        body=nn.Sequential(nn.Linear(196, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU()),
        mean=nn.Linear(64, 8),
        log_variance=nn.Linear(64, 8),
        decoder=nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 196), nn.Sigmoid()),
    )
    nn.init.normal_(model.log_variance.weight, std=1e-3)
    return model


def translate(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return model.head(model.transformer(model.source(x), model.target(x[:, :8])))


def pool_points(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return model.head(model.shared(x).amax(2))


def generate_weights(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    hidden = torch.relu(model.body(x))
    weight = model.make(model.code.weight).view(10, 64)
    return hidden @ weight.T


def match(model: nn.Module, pairs: torch.Tensor) -> torch.Tensor:
    user, item = model.users(pairs[:, 0]), model.items(pairs[:, 1])
    return (model.left(user) * model.right(item)).sum(1)


class Modulated(nn.Module):
    """A block that the time scales and shifts, from nothing at the beginning (DiT)."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(64, elementwise_affine=False)
        self.modulate = nn.Linear(64, 192)
        self.feed = nn.Sequential(nn.Linear(64, 128), nn.SiLU(), nn.Linear(128, 64))
        nn.init.zeros_(self.modulate.weight)
        nn.init.zeros_(self.modulate.bias)

    def forward(self, x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        scale, shift, gate = self.modulate(F.silu(time)).chunk(3, -1)
        return x + gate * self.feed(self.norm(x) * (1 + scale) + shift)


def denoise(model: nn.Module, x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
    angles = time[:, None] * torch.exp(-torch.arange(32) / 4)
    time = model.time(torch.cat([angles.sin(), angles.cos()], -1))
    x = model.enter(x)
    for block in model.blocks:
        x = block(x, time)
    return model.out(x)


def denoiser() -> nn.Module:
    model = Calls(
        denoise,
        time=nn.Sequential(nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 64)),
        enter=nn.Linear(16, 64),
        blocks=nn.ModuleList(Modulated() for _ in range(6)),
        out=nn.Linear(64, 16),
    )
    nn.init.zeros_(model.out.weight)
    return model


class Grouped(nn.Module):
    """ResNeXt's block."""

    def __init__(self) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            convolve(32, 32, 1),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            convolve(32, 32, groups=8),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            convolve(32, 32, 1),
            nn.BatchNorm2d(32),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x + self.branch(x))


HEALTHY = {
    "wave net": Case(lambda: wave_net(around=True), lambda: torch.randn(8, 1, 64)),
    "norm-free blocks": Case(
        lambda: nn.Sequential(convolve(3, 32), *[Free(i) for i in range(12)], nn.Conv2d(32, 4, 1)),
        images(),
    ),
    "vit with registers, zero head": Case(with_registers, images()),
    "variational autoencoder": Case(variational, lambda: torch.rand(32, 196)),
    "encoder and decoder": Case(
        lambda: Calls(
            translate,
            source=nn.Embedding(50, 64),
            target=nn.Embedding(50, 64),
            transformer=nn.Transformer(64, 4, 3, 3, 128, 0.0, batch_first=True),
            head=nn.Linear(64, 50),
        ),
        lambda: torch.randint(0, 50, (4, 12)),
    ),
    "points": Case(
        lambda: Calls(
            pool_points,
            shared=nn.Sequential(
                nn.Conv1d(3, 32, 1),
                nn.BatchNorm1d(32),
                nn.ReLU(),
                nn.Conv1d(32, 64, 1),
                nn.BatchNorm1d(64),
                nn.ReLU(),
            ),
            head=nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Dropout(0.3), nn.Linear(32, 5)),
        ),
        lambda: torch.rand(8, 3, 100),
    ),
    "weights from a code": Case(
        lambda: Calls(
            generate_weights,
            body=nn.Linear(64, 64),
            code=nn.Embedding(1, 16),
            make=nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 640)),
        ),
        rows(),
    ),
    "two towers": Case(
        lambda: Calls(
            match,
            users=nn.Embedding(100, 32),
            items=nn.Embedding(100, 32),
            left=nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 16)),
            right=nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 16)),
        ),
        lambda: torch.randint(0, 100, (64, 2)),
    ),
    "denoiser": Case(denoiser, lambda: (torch.randn(16, 16), torch.rand(16) * 100)),
    "resnext": Case(
        lambda: nn.Sequential(
            convolve(3, 32),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            *[Grouped() for _ in range(8)],
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(32, 10),
        ),
        images(),
    ),
}
