"""Encoder and decoder pairs from segmentation-models-pytorch."""

from __future__ import annotations

import segmentation_models_pytorch as smp
import torch

from tests.corpus.subject import Builder, Subject


def _segment(kind: str, encoder: str = "resnet18", size: int = 64, **options: object) -> Builder:
    def subject() -> Subject:
        model = getattr(smp, kind)(encoder, encoder_weights=None, classes=5, **options)
        return Subject(model, (torch.randn(4, 3, size, size),))

    return subject


MODELS: dict[str, Builder] = {
    "Unet": _segment("Unet", decoder_attention_type="scse"),
    "Unet (EfficientNet)": _segment("Unet", "efficientnet-b0"),
    "Unet++": _segment("UnetPlusPlus"),
    "FPN": _segment("FPN"),
    "PAN": _segment("PAN", size=128),
    "MAnet": _segment("MAnet"),
    "Linknet": _segment("Linknet"),
    "PSPNet": _segment("PSPNet"),
    "DeepLabV3+": _segment("DeepLabV3Plus"),
    "UPerNet": _segment("UPerNet"),
    "SegFormer (MiT)": _segment("Segformer", "mit_b0"),
}
