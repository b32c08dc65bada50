"""Image classifiers from timm, at small resolutions."""

from __future__ import annotations

import timm
import torch

from tests.corpus.subject import Builder, Subject


def _create(name: str, size: int = 64, **options: object) -> Builder:
    def subject() -> Subject:
        model = timm.create_model(name, pretrained=False, num_classes=10, **options)
        return Subject(model, (torch.randn(4, 3, size, size),))

    return subject


MODELS: dict[str, Builder] = {
    "resnet18": _create("resnet18"),
    "nf_regnet_b0": _create("nf_regnet_b0"),
    "nf_resnet26": _create("nf_resnet26"),
    "regnetx_002": _create("regnetx_002"),
    "efficientnet_b0": _create("efficientnet_b0", drop_path_rate=0.2),
    "mobilenetv3_small": _create("mobilenetv3_small_050"),
    "ghostnet": _create("ghostnet_050"),
    "convnext_atto": _create("convnext_atto"),
    "cait_xxs24": _create("cait_xxs24_224", img_size=64, embed_dim=96, depth=8),
    "swin_tiny": _create(
        "swin_tiny_patch4_window7_224",
        img_size=64,
        window_size=4,
        embed_dim=48,
        depths=(2, 2, 4, 2),
    ),
    "vit_tiny": _create("vit_tiny_patch16_224", img_size=64),
    "beit_base": _create("beit_base_patch16_224", img_size=64, embed_dim=96, depth=6, num_heads=4),
    "mixer_s32": _create("mixer_s32_224", img_size=96, size=96),
    "gmlp_ti16": _create("gmlp_ti16_224", img_size=64),
    "resmlp_12": _create("resmlp_12_224", img_size=64),
    "poolformer_s12": _create("poolformer_s12"),
    "xcit_nano_12": _create("xcit_nano_12_p16_224", img_size=64),
    "levit_128s": _create("levit_128s", img_size=96, size=96),
    "coat_tiny": _create("coat_tiny", img_size=64, serial_depths=(1, 1, 1, 1), parallel_depth=2),
    "crossvit_tiny": _create("crossvit_tiny_240", img_size=240, size=240),
    "mobilevit_xxs": _create("mobilevit_xxs"),
    "skresnet18": _create("skresnet18"),
}
