"""Contrastive pairs of image and text encoders from OpenCLIP."""

from __future__ import annotations

from typing import Any

import torch
from open_clip import CLIP, CoCa
from torch import nn

from tests.corpus.subject import Builder, Subject

TEXT: dict[str, Any] = {
    "context_length": 16, "vocab_size": 99, "width": 64, "heads": 4, "layers": 4,
}  # fmt: skip
VISION: dict[str, Any] = {"layers": 4, "width": 64, "head_width": 16, "patch_size": 8}


def _draw_pairs() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(2, 3, 32, 32), torch.randint(1, 99, (2, 16))


def _clip() -> Subject:
    model = CLIP(embed_dim=32, vision_cfg={**VISION, "image_size": 32}, text_cfg=TEXT)
    return Subject(model, _draw_pairs())


def _clip_with_resnet() -> Subject:
    vision = {"layers": (1, 1, 1, 1), "width": 16, "image_size": 32}
    return Subject(CLIP(embed_dim=32, vision_cfg=vision, text_cfg=TEXT), _draw_pairs())


def _coca() -> Subject:
    pool = {"attentional_pool": True, "attn_pooler_heads": 4, "output_tokens": True}
    vision = {**VISION, **pool, "image_size": 32}
    text = {**TEXT, "embed_cls": True, "output_tokens": True}
    model = CoCa(64, multimodal_cfg={**TEXT, "dim_head": 16}, text_cfg=text, vision_cfg=vision)
    # The library leaves this weight as torch.empty made it, which is what VP901 is for.
    nn.init.normal_(model.text_decoder.text_projection, std=64**-0.5)
    return Subject(model, _draw_pairs())


MODELS: dict[str, Builder] = {
    "CLIP (ViT)": _clip,
    "CLIP (ResNet)": _clip_with_resnet,
    "CoCa": _coca,
}
