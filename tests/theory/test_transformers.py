"""Transformers by rules alone, against Monte-Carlo."""

from __future__ import annotations

from statistics import median

import pytest
import torch

from tests.reference.module_moments import compare
from tests.theory.transformers import GPT, Llama, VisionTransformer, make_encoder


def draw_tokens():
    return torch.randint(0, 40, (3, 12))


def draw_images():
    return torch.randn(3, 3, 16, 16)


# name: net, input, initialization. A standard deviation of 0.18 makes scores of variance 4.
NETS = {
    "gpt": (lambda: GPT(2, 64, 12, 40), draw_tokens, "normal(std=0.02, embeddings=True)"),
    "gpt, large scores": (
        lambda: GPT(2, 64, 12, 40),
        draw_tokens,
        "normal(std=0.18, embeddings=True)",
    ),
    "llama": (lambda: Llama(2, 64, 40), draw_tokens, "normal(std=0.02, embeddings=True)"),
    "llama, large scores": (
        lambda: Llama(2, 64, 40),
        draw_tokens,
        "normal(std=0.125, embeddings=True)",
    ),
    "vit": (lambda: VisionTransformer(2, 64, 0.0), draw_images, "default"),
    "vit, class token drawn": (lambda: VisionTransformer(2, 64, 0.5), draw_images, "default"),
    "encoder": (lambda: make_encoder(2, 64), lambda: torch.randn(3, 12, 64), "default"),
}


@pytest.mark.parametrize("name", NETS)
def test_small_nets_agree(name):
    # 4 standard errors of Monte-Carlo beside an error of order 1/n, n = 64 features in 4 heads.
    for signal, error, noise in compare(*NETS[name], draws=24):
        allowed = 0.05 if signal == "activation" else 0.15
        assert abs(error) < allowed + 4 * noise, (signal, error, noise)


@pytest.mark.slow
@pytest.mark.parametrize("name", NETS)
def test_nets_agree_to_a_few_percent(name):
    rows = list(compare(*NETS[name], draws=400))
    for signal, typical in (("activation", 0.02), ("gradient", 0.04), ("weight_gradient", 0.04)):
        errors = [abs(error) for s, error, _ in rows if s == signal]
        noise = median(noise for s, _, noise in rows if s == signal)
        assert median(errors) < typical + noise
        assert max(errors) < (0.05 if signal == "activation" else 0.15) + 4 * noise
