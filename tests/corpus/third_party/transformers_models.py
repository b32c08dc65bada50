"""Language, vision, speech and state space models from Hugging Face transformers, from configs."""

from __future__ import annotations

from typing import Any

import torch
import transformers as hf
from torch import nn

from tests.corpus.subject import Builder, Subject

VOCABULARY = 99
WIDTH = 64
LAYERS = 6
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "intermediate_size": 4 * WIDTH,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
"""What most configs call their sizes."""


def _draw_tokens(length: int = 16) -> torch.Tensor:
    return torch.randint(3, VOCABULARY, (2, length))


def _read(model: nn.Module, length: int = 16, **more: Any) -> Subject:
    """Return a language model with a padded batch."""
    mask = torch.ones(2, length, dtype=torch.long)
    mask[1, -3:] = 0
    tokens = {"input_ids": _draw_tokens(length), "attention_mask": mask}
    return Subject(model, kwargs={**tokens, **more})


def _language(model: str, config: str, **options: Any) -> Builder:
    """Build a language model whose config has the usual names of sizes."""
    return lambda: _read(getattr(hf, model)(getattr(hf, config)(**{**SIZES, **options})))


def _gpt2() -> Subject:
    config = hf.GPT2Config(
        vocab_size=VOCABULARY,
        n_embd=WIDTH,
        n_layer=LAYERS,
        n_head=4,
        bos_token_id=1,
        eos_token_id=2,
    )
    return _read(hf.GPT2LMHeadModel(config), use_cache=False)


def _gpt2_checkpointed() -> Subject:
    subject = _gpt2()
    subject.model.gradient_checkpointing_enable({"use_reentrant": False})
    return subject


def _mamba() -> Subject:
    config = hf.MambaConfig(
        vocab_size=VOCABULARY, hidden_size=WIDTH, num_hidden_layers=4, state_size=4
    )
    return Subject(hf.MambaForCausalLM(config), kwargs={"input_ids": _draw_tokens()})


def _rwkv() -> Subject:
    config = hf.RwkvConfig(vocab_size=VOCABULARY, hidden_size=WIDTH, num_hidden_layers=4)
    return Subject(hf.RwkvForCausalLM(config), kwargs={"input_ids": _draw_tokens()})


def _t5() -> Subject:
    config = hf.T5Config(
        vocab_size=VOCABULARY,
        d_model=WIDTH,
        d_kv=16,
        d_ff=256,
        num_layers=4,
        num_heads=4,
        decoder_start_token_id=0,
    )
    return _read(hf.T5ForConditionalGeneration(config), labels=_draw_tokens(8), use_cache=False)


def _bart() -> Subject:
    sizes = {
        f"{part}_{what}": 4
        for part in ("encoder", "decoder")
        for what in ("layers", "attention_heads")
    }
    config = hf.BartConfig(
        vocab_size=VOCABULARY, d_model=WIDTH, encoder_ffn_dim=256, decoder_ffn_dim=256, **sizes
    )
    return _read(hf.BartForConditionalGeneration(config), use_cache=False)


def _xlnet() -> Subject:
    config = hf.XLNetConfig(vocab_size=VOCABULARY, d_model=WIDTH, n_layer=4, n_head=4, d_inner=256)
    return _read(hf.XLNetLMHeadModel(config))


def _funnel() -> Subject:
    config = hf.FunnelConfig(
        vocab_size=VOCABULARY, d_model=WIDTH, n_head=4, d_head=16, d_inner=256, block_sizes=[2, 2]
    )
    return _read(hf.FunnelModel(config))


def _longformer() -> Subject:
    config = hf.LongformerConfig(**{**SIZES, "num_hidden_layers": 4}, attention_window=8)
    return _read(hf.LongformerForMaskedLM(config))


def _clip() -> Subject:
    text = {**SIZES, "projection_dim": 32}
    vision = {**SIZES, "projection_dim": 32, "image_size": 32, "patch_size": 8}
    config = hf.CLIPConfig(text_config=text, vision_config=vision, projection_dim=32)
    return _read(hf.CLIPModel(config), pixel_values=torch.randn(2, 3, 32, 32), return_loss=True)


def _whisper() -> Subject:
    config = hf.WhisperConfig(
        vocab_size=VOCABULARY,
        d_model=WIDTH,
        encoder_layers=4,
        decoder_layers=4,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=256,
        decoder_ffn_dim=256,
        max_source_positions=32,
        num_mel_bins=16,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=3,
    )
    kwargs = {
        "input_features": torch.randn(2, 16, 64),
        "labels": _draw_tokens(8),
        "use_cache": False,
    }
    return Subject(hf.WhisperForConditionalGeneration(config), kwargs=kwargs)


def _speech(model: str, config: str) -> Builder:
    def subject() -> Subject:
        chosen = getattr(hf, config)(
            **{**SIZES, "num_hidden_layers": 4},
            conv_dim=(32, 32, 32),
            conv_kernel=(10, 3, 3),
            conv_stride=(5, 2, 2),
            num_conv_pos_embeddings=16,
            num_conv_pos_embedding_groups=4,
            mask_time_prob=0.2,
            mask_time_length=2,
        )
        return Subject(getattr(hf, model)(chosen), (torch.randn(2, 2000),))

    return subject


def _encodec() -> Subject:
    config = hf.EncodecConfig(
        num_filters=8, hidden_size=32, codebook_size=64, codebook_dim=32, upsampling_ratios=[4, 2]
    )
    return Subject(hf.EncodecModel(config), (torch.randn(2, 1, 960),))


def _vision(model: str, config: str, **options: Any) -> Builder:
    """Build a vision transformer whose config has the usual names of sizes."""

    def subject() -> Subject:
        sizes = {key: SIZES[key] for key in SIZES if key.startswith(("num_", "hidden_", "inter"))}
        chosen = getattr(hf, config)(**{**sizes, "image_size": 32, "patch_size": 8, **options})
        return Subject(getattr(hf, model)(chosen), (torch.randn(4, 3, 32, 32),))

    return subject


def _segformer() -> Subject:
    config = hf.SegformerConfig(
        hidden_sizes=[16, 32, 48, 64], num_attention_heads=[1, 2, 4, 8], decoder_hidden_size=32
    )
    model = hf.SegformerForSemanticSegmentation(config)
    return Subject(model, (torch.randn(2, 3, 64, 64),))


def _convnextv2() -> Subject:
    config = hf.ConvNextV2Config(hidden_sizes=[16, 32, 48, 64], depths=[2, 2, 4, 2])
    return Subject(hf.ConvNextV2ForImageClassification(config), (torch.randn(4, 3, 64, 64),))


def _perceiver() -> Subject:
    config = hf.PerceiverConfig(
        vocab_size=VOCABULARY, num_latents=8, d_latents=WIDTH, d_model=WIDTH,
        num_self_attends_per_block=4, num_self_attention_heads=4, num_cross_attention_heads=4,
        max_position_embeddings=32,
    )  # fmt: skip
    return _read(hf.PerceiverForMaskedLM(config))


MODELS: dict[str, Builder] = {
    "GPT-2": _gpt2,
    "GPT-2 (checkpointed)": _gpt2_checkpointed,
    "Llama": _language("LlamaForCausalLM", "LlamaConfig", num_key_value_heads=2, use_cache=False),
    "Mixtral": _language(
        "MixtralForCausalLM",
        "MixtralConfig",
        num_key_value_heads=2,
        num_local_experts=4,
        use_cache=False,
        output_router_logits=True,
    ),
    "Gemma-2": _language(
        "Gemma2ForCausalLM", "Gemma2Config", head_dim=16, num_key_value_heads=2, use_cache=False
    ),
    "Qwen2": _language("Qwen2ForCausalLM", "Qwen2Config", num_key_value_heads=2, use_cache=False),
    "GPT-NeoX": _language("GPTNeoXForCausalLM", "GPTNeoXConfig", use_cache=False),
    "OPT": _language("OPTForCausalLM", "OPTConfig", ffn_dim=256, word_embed_proj_dim=WIDTH),
    "Mamba": _mamba,
    "RWKV": _rwkv,
    "BERT": _language("BertForMaskedLM", "BertConfig"),
    "ALBERT": _language("AlbertForMaskedLM", "AlbertConfig", embedding_size=32),
    "DeBERTa-v2": _language(
        "DebertaV2ForMaskedLM", "DebertaV2Config", relative_attention=True, pos_att_type=["c2p"]
    ),
    "Longformer": _longformer,
    "Funnel": _funnel,
    "XLNet": _xlnet,
    "Perceiver": _perceiver,
    "T5": _t5,
    "BART": _bart,
    "CLIP": _clip,
    "Whisper": _whisper,
    "Wav2Vec2": _speech("Wav2Vec2Model", "Wav2Vec2Config"),
    "HuBERT": _speech("HubertModel", "HubertConfig"),
    "EnCodec": _encodec,
    "ViT": _vision("ViTForImageClassification", "ViTConfig"),
    "DINOv2": _vision("Dinov2Model", "Dinov2Config"),
    "BEiT": _vision("BeitModel", "BeitConfig"),
    "SegFormer": _segformer,
    "ConvNeXt-V2": _convnextv2,
}
