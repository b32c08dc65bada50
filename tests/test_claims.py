"""What the README claims of the whole: measured, predicted and known laws agree."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import varprobe as vp

DEPTH = 30


def mlp(width: int) -> nn.Sequential:
    return nn.Sequential(*[m for _ in range(DEPTH) for m in (nn.Linear(width, width), nn.ReLU())])


def conv_net(channels: int) -> nn.Sequential:
    """A stack without borders: padding that wraps around is what the laws assume."""

    def conv() -> nn.Conv2d:
        return nn.Conv2d(channels, channels, 3, padding=1, padding_mode="circular")

    return nn.Sequential(*[layer for _ in range(DEPTH) for layer in (conv(), nn.ReLU())])


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


NETS = {
    "mlp": (lambda: mlp(256), draw(32, 256), 256, 256),
    "conv": (lambda: conv_net(32), draw(4, 32, 8, 8), 9 * 32, 9 * 32),
}


def curves(prediction: vp.Prediction, signal: str) -> list[float]:
    """Return the predicted second moments at the weighted layers' outputs, by depth."""
    return [
        row.second_moment
        for row in prediction
        if row.site.signal == signal and row.kind in ("Linear", "Conv2d")
    ]


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize(
    ("init", "factor"),
    # He conserves the second moment; Xavier keeps half of it behind every ReLU.
    [("kaiming_normal", 1.0), ("xavier_normal", 0.5)],
)
def test_prediction_is_the_law(net: str, init: str, factor: float) -> None:
    build, inputs, _, _ = NETS[net]
    prediction = vp.predict(build, inputs, init=init)
    forward, backward = curves(prediction, "activation"), curves(prediction, "gradient")
    for layer in range(DEPTH):
        assert forward[layer] / forward[0] == pytest.approx(factor**layer, rel=0.005)
        assert backward[-1 - layer] / backward[-1] == pytest.approx(factor**layer, rel=0.005)


@pytest.mark.parametrize("net", NETS)
def test_prediction_of_the_library_default_is_the_law(net: str) -> None:
    """Weights of variance 1/(3 fan_in) lose a factor of 6 a layer, down to what the bias feeds."""
    build, inputs, fan_in, fan_out = NETS[net]
    prediction = vp.predict(build, inputs, init="default")
    forward, backward = curves(prediction, "activation"), curves(prediction, "gradient")
    bias = 1 / (3 * fan_in)
    fixed_point = bias / (1 - 1 / 6)
    for layer in range(DEPTH):
        expected = fixed_point + (forward[0] - fixed_point) * 6.0**-layer
        assert forward[layer] == pytest.approx(expected, rel=0.005)
        decay = (fan_out / fan_in / 6) ** layer
        assert backward[-1 - layer] / backward[-1] == pytest.approx(decay, rel=0.005)


@pytest.mark.parametrize("init", ["kaiming_normal", "xavier_normal", "default"])
def test_64_draws_agree_with_the_prediction_at_every_layer(init: str) -> None:
    """The mean log second moment lies within four standard errors, forward and backward.

    A single draw of a right net scatters by about sqrt(5 l / 256) at layer l; 64 draws by an eighth
    of that.
    """
    model, inputs = mlp(256), draw(32, 256)
    recording = vp.profile(model, inputs, init=init, draws=64, seed=1)
    analysis = vp.analyze(recording, vp.predict(model, inputs, init=init))
    for signal in ("activation", "gradient"):
        sites = analysis.select(signal=signal)
        assert len(sites) == 2 * DEPTH + 1
        assert all(site.draws == 64 for site in sites)
        worst = max(sites, key=lambda site: abs(site.z))
        assert abs(worst.z) < 4, f"{worst.site}: ratio {worst.ratio}, z {worst.z}"


def test_behind_a_relu_the_variance_is_not_the_second_moment() -> None:
    # Samples of one length: a spread of lengths alone would part the two numbers further.
    model, inputs = mlp(256), nn.functional.normalize(draw(32, 256), dim=1)
    law = 1 - 1 / math.pi
    for row in vp.predict(model, inputs, init="kaiming_normal"):
        if row.kind == "ReLU" and row.site.signal == "activation":
            assert row.variance / row.second_moment == pytest.approx(law, rel=1e-6)
    recording = vp.profile(model, inputs, init="kaiming_normal")
    (first,) = [r for r in recording.select(signal="activation") if r.site.module == "1"]
    # 8,192 outputs of 256 units; the ratio of one layer scatters by less than 1/sqrt(256).
    assert first.moments.variance / first.moments.second_moment == pytest.approx(law, abs=0.06)
