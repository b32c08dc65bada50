"""Denoisers and autoencoders from diffusers."""

from __future__ import annotations

import torch
from diffusers import (
    AutoencoderKL,
    DiTTransformer2DModel,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
    UNet1DModel,
    UNet2DConditionModel,
    UNet2DModel,
    VQModel,
)

from tests.corpus.subject import Builder, Subject

STEPS = torch.tensor([10, 500])


def _unet() -> Subject:
    model = UNet2DModel(
        sample_size=16,
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=8,
    )
    return Subject(model, (torch.randn(2, 3, 16, 16), STEPS))


def _unet_with_text() -> Subject:
    model = UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=32,
        attention_head_dim=8,
        norm_num_groups=8,
    )
    return Subject(model, (torch.randn(2, 4, 16, 16), STEPS, torch.randn(2, 7, 32)))


def _unet_of_sequences() -> Subject:
    model = UNet1DModel(
        sample_size=64,
        in_channels=2,
        out_channels=2,
        extra_in_channels=32,
        block_out_channels=(16, 32),
        down_block_types=("DownBlock1DNoSkip", "DownBlock1D"),
        up_block_types=("UpBlock1D", "UpBlock1DNoSkip"),
        mid_block_type="UNetMidBlock1D",
    )
    return Subject(model, (torch.randn(2, 2, 64), STEPS))


def _autoencoder() -> Subject:
    model = AutoencoderKL(
        block_out_channels=(32, 64),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=8,
    )
    return Subject(model, (torch.randn(2, 3, 32, 32),))


def _quantizer() -> Subject:
    model = VQModel(
        block_out_channels=(32, 64),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=8,
        num_vq_embeddings=32,
    )
    return Subject(model, (torch.randn(2, 3, 32, 32),))


def _dit() -> Subject:
    model = DiTTransformer2DModel(
        num_attention_heads=4, attention_head_dim=16, num_layers=4, sample_size=8, norm_num_groups=8
    )
    labels = {"timestep": STEPS, "class_labels": torch.tensor([1, 2])}
    return Subject(model, (torch.randn(2, 4, 8, 8),), labels)


def _sd3() -> Subject:
    model = SD3Transformer2DModel(
        sample_size=8,
        num_layers=4,
        attention_head_dim=16,
        num_attention_heads=4,
        joint_attention_dim=32,
        caption_projection_dim=64,
        pooled_projection_dim=32,
        in_channels=4,
        out_channels=4,
    )
    inputs = torch.randn(2, 4, 8, 8), torch.randn(2, 7, 32), torch.randn(2, 32), STEPS
    return Subject(model, inputs)


def _flux() -> Subject:
    model = FluxTransformer2DModel(
        in_channels=4,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=4,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        axes_dims_rope=(4, 4, 8),
    )
    kwargs = {
        "hidden_states": torch.randn(2, 16, 4),
        "encoder_hidden_states": torch.randn(2, 7, 32),
        "pooled_projections": torch.randn(2, 32),
        "timestep": torch.tensor([0.1, 0.5]),
        "img_ids": torch.zeros(16, 3),
        "txt_ids": torch.zeros(7, 3),
    }
    return Subject(model, kwargs=kwargs)


MODELS: dict[str, Builder] = {
    "UNet2D": _unet,
    "UNet2D (text)": _unet_with_text,
    "UNet1D": _unet_of_sequences,
    "AutoencoderKL": _autoencoder,
    "VQModel": _quantizer,
    "DiT": _dit,
    "SD3": _sd3,
    "Flux": _flux,
}
