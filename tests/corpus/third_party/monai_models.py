"""Volumetric networks for medical images from MONAI."""

from __future__ import annotations

import torch
from monai.networks import nets
from torch import nn

from tests.corpus.subject import Builder, Subject


def _volume(model: nn.Module, size: int = 32, batch: int = 2) -> Subject:
    return Subject(model, (torch.randn(batch, 1, size, size, size),))


def _unet() -> Subject:
    return _volume(
        nets.UNet(3, 1, 2, channels=(8, 16, 32), strides=(2, 2), num_res_units=2, dropout=0.1)
    )


def _dynunet() -> Subject:
    return _volume(
        nets.DynUNet(
            3, 1, 2, kernel_size=[3, 3, 3], strides=[1, 2, 2], upsample_kernel_size=[2, 2],
            filters=[8, 16, 32], deep_supervision=True, deep_supr_num=1,
        )
    )  # fmt: skip


MODELS: dict[str, Builder] = {
    "UNet": _unet,
    "DynUNet": _dynunet,
    "SegResNet": lambda: _volume(nets.SegResNet(init_filters=8, in_channels=1)),
    "VNet": lambda: _volume(nets.VNet()),
    "DenseNet": lambda: _volume(nets.DenseNet(3, 1, 2, block_config=(2, 4, 4))),
    "UNETR": lambda: _volume(
        nets.UNETR(1, 2, (32, 32, 32), feature_size=8, hidden_size=48, mlp_dim=96, num_heads=4)
    ),
    "SwinUNETR": lambda: _volume(nets.SwinUNETR(1, 2, feature_size=12), size=64, batch=1),
}
