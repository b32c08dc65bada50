"""Transformers from x-transformers: the residual and normalization variants in one library."""

from __future__ import annotations

from typing import Any

import torch
from x_transformers import (
    ContinuousTransformerWrapper,
    Decoder,
    Encoder,
    TransformerWrapper,
    ViTransformerWrapper,
    XTransformer,
)

from tests.corpus.subject import Builder, Subject

VOCABULARY = 99
SIZES: dict[str, Any] = {"dim": 64, "depth": 6, "heads": 2, "attn_dim_head": 64}


def _decoder(**options: Any) -> Builder:
    def subject() -> Subject:
        layers = Decoder(**SIZES, **options)
        model = TransformerWrapper(num_tokens=VOCABULARY, max_seq_len=32, attn_layers=layers)
        return Subject(model, (torch.randint(0, VOCABULARY, (2, 16)),))

    return subject


def _encoder_of_images() -> Subject:
    model = ViTransformerWrapper(
        image_size=32, patch_size=8, num_classes=10, attn_layers=Encoder(**SIZES)
    )
    return Subject(model, (torch.randn(4, 3, 32, 32),))


def _encoder_of_vectors() -> Subject:
    model = ContinuousTransformerWrapper(
        dim_in=8, dim_out=8, max_seq_len=32, attn_layers=Encoder(**SIZES, layer_dropout=0.1)
    )
    mask = torch.arange(16)[None] < torch.tensor([[16], [11]])
    return Subject(model, (torch.randn(2, 16, 8),), {"mask": mask})


def _encoder_and_decoder() -> Subject:
    sides = {"num_tokens": VOCABULARY, "depth": 4, "heads": 4, "max_seq_len": 32}
    options = {f"{side}_{key}": value for side in ("enc", "dec") for key, value in sides.items()}
    tokens = torch.randint(0, VOCABULARY, (2, 2, 16))
    return Subject(XTransformer(dim=64, **options), tuple(tokens))


MODELS: dict[str, Builder] = {
    "decoder": _decoder(),
    "decoder (post-norm)": _decoder(pre_norm=False),
    "decoder (sandwich, RMS)": _decoder(sandwich_norm=True, use_rmsnorm=True),
    "decoder (rotary, SwiGLU)": _decoder(rotary_pos_emb=True, ff_swish=True, ff_glu=True),
    "decoder (ALiBi, squared ReLU)": _decoder(alibi_pos_bias=True, ff_relu_squared=True),
    "decoder (scaled residual)": _decoder(scale_residual=True, attn_gate_values=True),
    "encoder of images": _encoder_of_images,
    "encoder of vectors": _encoder_of_vectors,
    "encoder and decoder": _encoder_and_decoder,
}
