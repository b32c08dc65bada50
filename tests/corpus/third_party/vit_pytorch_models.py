"""Vision transformers from vit-pytorch."""

from __future__ import annotations

from typing import Any

import torch
from vit_pytorch import MAE, SimpleViT, ViT
from vit_pytorch.cait import CaiT
from vit_pytorch.cct import CCT
from vit_pytorch.cvt import CvT
from vit_pytorch.deepvit import DeepViT
from vit_pytorch.mobile_vit import MobileViT
from vit_pytorch.nest import NesT
from vit_pytorch.pit import PiT
from vit_pytorch.twins_svt import TwinsSVT
from vit_pytorch.vivit import ViViT
from vit_pytorch.xcit import XCiT

from tests.corpus.subject import Builder, Subject

SIZES: dict[str, Any] = {
    "image_size": 32,
    "patch_size": 8,
    "num_classes": 10,
    "dim": 64,
    "depth": 6,
    "heads": 4,
    "mlp_dim": 128,
}


def _plain(kind: type, size: int = 32, **options: Any) -> Builder:
    return lambda: Subject(kind(**{**SIZES, **options}), (torch.randn(4, 3, size, size),))


def _of(kind: type, size: int = 64, **options: Any) -> Builder:
    return lambda: Subject(kind(**options), (torch.randn(2, 3, size, size),))


def _masked() -> Subject:
    model = MAE(encoder=ViT(**SIZES, pool="mean"), decoder_dim=32, decoder_depth=2, decoder_heads=4)
    return Subject(model, (torch.randn(4, 3, 32, 32),))


def _video() -> Subject:
    model = ViViT(
        image_size=32, frames=4, image_patch_size=8, frame_patch_size=2, num_classes=10, dim=64,
        spatial_depth=2, temporal_depth=2, heads=4, mlp_dim=128,
    )  # fmt: skip
    return Subject(model, (torch.randn(2, 3, 4, 32, 32),))


MODELS: dict[str, Builder] = {
    "ViT": _plain(ViT, dropout=0.1, emb_dropout=0.1),
    "SimpleViT": _plain(SimpleViT),
    "DeepViT": _plain(DeepViT, depth=8),
    "CaiT": _plain(CaiT, cls_depth=2, layer_dropout=0.1),
    "XCiT": _plain(XCiT, cls_depth=2),
    "PiT": _plain(PiT, depth=(2, 2)),
    "MAE": _masked,
    "ViViT": _video,
    "CCT": _of(CCT, 32, img_size=32, embedding_dim=64, num_layers=4, num_heads=4, num_classes=10),
    "CvT": _of(CvT, num_classes=10, s1_emb_dim=16, s2_emb_dim=32, s3_emb_dim=48, s3_depth=4),
    "MobileViT": _of(
        MobileViT,
        image_size=(64, 64),
        dims=[24, 32, 48],
        channels=[8, 16, 24, 24, 32, 32, 48, 48, 64, 64, 96],
        num_classes=10,
    ),
    "NesT": _of(
        NesT,
        32,
        image_size=32,
        patch_size=4,
        dim=32,
        heads=2,
        num_hierarchies=3,
        block_repeats=(1, 1, 2),
        num_classes=10,
    ),
    "TwinsSVT": _of(
        TwinsSVT,
        num_classes=10,
        s1_emb_dim=16,
        s1_local_patch_size=4,
        s1_global_k=4,
        s2_emb_dim=32,
        s2_local_patch_size=4,
        s2_global_k=4,
        s3_emb_dim=48,
        s3_local_patch_size=2,
        s3_global_k=2,
        s3_depth=2,
        s4_emb_dim=64,
        s4_local_patch_size=2,
        s4_global_k=2,
    ),
}
