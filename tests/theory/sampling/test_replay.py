"""What no rule reaches is estimated from draws: against independent Monte-Carlo, and harmlessly."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import varprobe as vp
from varprobe.errors import InvalidArgumentError
from varprobe.recording import Site
from varprobe.theory import predict_silently
from varprobe.theory.sampling import replay

DRAWS = 64
MONTE_CARLO = 64


class Cumulate(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cumsum(x, 1) / 8


class Maximal(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(64, 64) for _ in range(6))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = torch.relu(torch.maximum(x, layer(x)))
        return x


class RectifiedAttention(nn.Module):
    """Products of queries and keys without a softmax, which no rule reaches."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.norm = heads, nn.LayerNorm(width)
        self.attend, self.project = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = self.attend(self.norm(x)).chunk(3, -1)
        query, key, value = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)
        scores = torch.relu(query @ key.mT / math.sqrt(key.shape[-1])) / key.shape[-2]
        return x + self.project((scores @ value).transpose(1, 2).flatten(2))


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(30, 64)
        self.position = nn.Embedding(12, 64)
        self.layers = nn.ModuleList(RectifiedAttention(64, 4) for _ in range(3))
        self.head = nn.Linear(64, 32)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.embedding(tokens) + self.position(torch.arange(12))
        for layer in self.layers:
            x = layer(x)
        return self.head(x.mean(1))


class Loop(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.LSTMCell(32, 32)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        state = None
        for step in x.unbind(1):
            state = self.cell(step, state)
        return state[0]


class InPlace(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(64, 64), nn.Linear(64, 64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.first(x)
        h.view(-1).mul_(2)  # written to through another view
        h = h + 1
        h[:, ::2].relu_()
        return self.second(h)


MODELS: dict[str, tuple[Callable[[], nn.Module], Callable[[], torch.Tensor]]] = {
    "an operation without a rule": (
        lambda: nn.Sequential(nn.Linear(64, 64), Cumulate(), nn.Linear(64, 64), nn.ReLU()),
        lambda: torch.randn(16, 64),
    ),
    "branches that depend on each other": (Maximal, lambda: torch.randn(16, 64)),
    "attention": (Attention, lambda: torch.randint(0, 30, (4, 12))),
    "weights used at every step": (
        Loop,
        lambda: torch.randn(8, 6, 32),
    ),
    "changes in place": (InPlace, lambda: torch.randn(16, 64)),
    "normalized": (
        lambda: nn.Sequential(
            nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(inplace=True), nn.PixelShuffle(2),
            nn.Conv2d(4, 16, 3), nn.Softplus(), nn.Flatten(), nn.Linear(16 * 22 * 22, 16),
        ),
        lambda: torch.randn(4, 3, 14, 14),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_estimates_agree_with_independent_draws(name: str) -> None:
    build, draw_inputs = MODELS[name]
    torch.manual_seed(0)
    inputs = draw_inputs()
    prediction = vp.predict(build, inputs, init="default", draws=DRAWS)
    recording = vp.profile(build, inputs, init="default", draws=MONTE_CARLO, seed=1)
    assert {e.site for e in prediction} == {record.site for record in recording}
    estimated = [e for e in prediction if "draws" in e.reason]
    assert {"activation", "weight_gradient"} <= {e.site.signal for e in estimated}
    for row in prediction:
        measured = [r.moments.second_moment for r in recording if r.site == row.site]
        if row.second_moment == 0:
            assert not any(measured), row
            continue
        logs = np.log(measured)
        centre = math.log(row.second_moment) - row.log_std**2 / 2
        # Both sides scatter; 5 standard errors for some hundred rows, and 2 % of systematic error.
        error = logs.std(ddof=1) * math.sqrt(1 / DRAWS + 1 / MONTE_CARLO)
        assert abs(logs.mean() - centre) < 5 * error + 0.02, row
        if "draws" in row.reason and logs.std() > 0.02:
            # The standard deviation of 64 logarithms is known to 9 %, the ratio of two to 13 %.
            assert 0.55 < row.log_std / logs.std(ddof=1) < 1.8, row


def test_the_estimate_sharpens_with_the_scale_that_theory_knows() -> None:
    # Six layers of width 64 scatter by about 1.2 together; 8 draws alone would leave 40 %.
    torch.manual_seed(0)
    inputs = torch.randn(16, 64)
    finals = [
        vp.predict(Maximal, inputs, init="kaiming_normal", draws=8, seed=seed)
        .find(Site(module=""))
        .second_moment
        for seed in range(12)
    ]
    assert np.std(np.log(finals), ddof=1) < 0.2


def test_the_same_seed_gives_the_same_numbers() -> None:
    model, x = Maximal(), torch.randn(4, 64)
    first, again, other = (vp.predict(model, x, seed=seed).to_frame() for seed in (3, 3, 4))
    assert first.equals(again)
    assert not first.equals(other)


class Delicate(nn.Module):
    """Counts its calls, and holds statistics and hooks of its user."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.norm = nn.Linear(8, 8), nn.BatchNorm1d(8)
        self.dropout, self.spectral = nn.Dropout(0.5), nn.Linear(8, 8)
        nn.utils.parametrizations.spectral_norm(self.spectral)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cumsum(self.dropout(self.norm(self.spectral(self.layer(x)))), 1)


def test_nothing_of_the_model_changes() -> None:
    model, x = Delicate(), torch.randn(4, 8, requires_grad=True)
    before = copy.deepcopy(model.state_dict())
    state, kept = torch.get_rng_state(), x.detach().clone()
    prediction = vp.predict(model, x, loss=lambda output: output.square().mean())
    assert prediction.meta["draws"] == 16
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(x, kept)
    assert x.grad is None
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_autocast_inference_mode_and_no_grad_change_nothing() -> None:
    model, x = Maximal(), torch.randn(4, 64)
    expected = vp.predict(model, x).to_frame()
    for context in (torch.no_grad(), torch.inference_mode()):
        with context:
            assert vp.predict(model, x).to_frame().equals(expected)


def test_a_loss_of_ones_own_is_sent_back() -> None:
    model, x = nn.Sequential(nn.Linear(64, 64), nn.ReLU()), torch.randn(16, 64)

    def loss(output: torch.Tensor) -> torch.Tensor:
        return 100 * output.sum()

    prediction = vp.predict(model, x, loss=loss)
    row = prediction.find(Site(module="1", signal="gradient"))
    assert row is not None
    assert row.status == "approximate"
    assert row.second_moment == pytest.approx(1e4)
    assert prediction.find(Site(module="1")).status == "exact"


def test_zero_weights_stay_zero() -> None:
    model = nn.Sequential(nn.Linear(32, 32), Cumulate(), nn.Linear(32, 32))
    nn.init.zeros_(model[2].weight)
    nn.init.zeros_(model[2].bias)
    prediction = vp.predict(model, torch.randn(4, 32))
    assert prediction.find(Site(module="2")).second_moment == 0
    assert prediction.find(Site(module="0", signal="gradient")).second_moment == 0


class Routes(nn.Module):
    """Looks at its numbers to choose how many rows go on."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.layer(x)
        chosen = h[h[:, 0] > 0]
        return self.head(chosen.view(len(chosen), 8))


def test_a_model_that_cannot_run_on_other_weights_says_so() -> None:
    torch.manual_seed(0)
    prediction = predict_silently(Routes(), torch.randn(9, 8))
    assert prediction.meta["draws"] == 0
    row = prediction.find(Site(module="head"))
    assert row.status in ("unknown", "tainted")
    assert f"no estimate: {prediction.meta['no_draws']}" in row.reason
    assert math.isnan(row.second_moment)


def test_a_model_on_the_meta_device_is_drawn_from_its_laws() -> None:
    with torch.device("meta"):
        model, x = Maximal(), torch.randn(16, 64)
    prediction = vp.predict(model, x, init="kaiming_normal")
    assert prediction.meta["draws"] == 16
    assert not {"unknown", "tainted"} & {e.status for e in prediction}


def test_a_buffer_on_the_meta_device_has_no_numbers() -> None:
    class Buffered(Maximal):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("mask", torch.ones(64))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x * self.mask)

    with torch.device("meta"):
        model, x = Buffered(), torch.randn(16, 64)
    prediction = predict_silently(model, x, init="kaiming_normal")
    assert prediction.meta["draws"] == 0
    assert "a buffer is on the meta device" in str(prediction.meta["no_draws"])


def test_large_models_get_fewer_draws_or_none(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = Maximal(), torch.randn(4, 64)
    size = 4 * 64 * (1 + 3 * 6) + 6 * (64 * 64 + 64)
    for room, draws in ((size * 5, 4), (size, 0)):
        monkeypatch.setattr(replay, "MOST_ELEMENTS", room)
        prediction = predict_silently(model, x)
        assert prediction.meta["draws"] in (draws, draws + 1 if draws else 0)
    assert "too many to draw" in str(prediction.meta["no_draws"])


@pytest.mark.parametrize("draws", [1, -2])
def test_fewer_than_two_draws_are_refused(draws: int) -> None:
    with pytest.raises(InvalidArgumentError, match="two draws are the fewest"):
        vp.predict(Maximal(), torch.randn(4, 64), draws=draws)


def test_exact_models_are_not_drawn() -> None:
    options: dict[str, Any] = {"init": "kaiming_normal"}
    prediction = vp.predict(nn.Sequential(nn.Linear(8, 8), nn.ReLU()), torch.randn(2, 8), **options)
    assert prediction.meta["draws"] == 0
    assert prediction.meta["no_draws"] == ""
