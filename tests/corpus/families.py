"""Language models of transformers on the meta device, where no numbers can be drawn instead.

    make corpus LIBRARIES=transformers          # once, for the environment
    .venv-corpus/bin/python -m tests.corpus.families

Each family is built small, without memory, and predicted for short and long sequences. What has a
number has it from a rule. Printed are the rows without one and the operations that have no rule.
"""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Callable
from typing import Any

import torch
from rich.console import Console
from torch import nn

import varprobe as vp
from tests.corpus.third_party import torchvision_schemas

FAMILIES = (
    "Llama Mistral Qwen2 Qwen3 Gemma Gemma2 Gemma3 Olmo Olmo2 Olmo3 Phi Phi3 GPT2 GPTNeoX GPTJ "
    "Falcon OPT Bloom StableLm Starcoder2 Cohere Cohere2 Granite Glm Glm4 SmolLM3 Nemotron Mixtral "
    "Qwen3Moe Mamba Bert Roberta ModernBert DistilBert Electra"
)

NAMES = {
    "Gemma3": ("Gemma3TextConfig", "Gemma3ForCausalLM"),
    "GPT2": ("GPT2Config", "GPT2LMHeadModel"),
    **{
        name: (f"{name}Config", f"{name}ForMaskedLM")
        for name in ("Bert", "Roberta", "ModernBert", "DistilBert", "Electra")
    },
}

SIZES: dict[str, Any] = {
    "num_hidden_layers": 2,
    "n_layer": 2,
    "n_layers": 2,
    "hidden_size": 256,
    "n_embd": 256,
    "dim": 256,
    "word_embed_proj_dim": 256,
    "embedding_size": 256,
    "intermediate_size": 512,
    "hidden_dim": 512,
    "ffn_dim": 512,
    "num_attention_heads": 4,
    "n_head": 4,
    "n_heads": 4,
    "num_key_value_heads": 2,
    "rotary_dim": 32,
    "vocab_size": 1000,
    "pad_token_id": 5,
    "bos_token_id": 1,
    "eos_token_id": 2,
}

SITES = (128, 400)
"""On either side of 256, above which sites are grouped."""


def choose(name: str) -> Callable[[], nn.Module]:
    """Return what builds a small model of a family."""
    import transformers

    of_config, of_model = NAMES.get(name, (f"{name}Config", f"{name}ForCausalLM"))
    config_class = getattr(transformers, of_config)
    known = config_class()
    sizes = {key: value for key, value in SIZES.items() if hasattr(known, key)}
    if hasattr(known, "head_dim") and name not in {"GPTNeoX", "Falcon", "OPT", "Bloom"}:
        sizes["head_dim"] = 64
    config = config_class(**sizes)
    return lambda: getattr(transformers, of_model)(config)


def examine(name: str, sites: int) -> str:
    """Return what a prediction lacks, "" for nothing."""
    try:
        prediction = vp.predict(
            choose(name), torch.empty(2, sites, dtype=torch.long, device="meta"), draws=0
        )
    except Exception as error:  # Whatever a library raises is a line of the report.
        return f"{type(error).__name__}: {str(error).splitlines()[0][:100]}"
    missing = [row for row in prediction if row.status in {"unknown", "tainted"}]
    if not missing:
        return ""
    return f"{len(missing)} of {len(prediction)} rows, {', '.join(prediction.unsupported)}"


def main(names: list[str]) -> None:
    """Print a line for each family."""
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    torchvision_schemas.define_missing()
    console = Console(width=160)
    whole, chosen = 0, names or FAMILIES.split()
    for name in chosen:
        found = {sites: examine(name, sites) for sites in SITES}
        whole += not any(found.values())
        lacking = "; ".join(f"{sites} tokens: {text}" for sites, text in found.items() if text)
        console.print(f"{name:12} {lacking or 'whole'}", markup=False)
    console.print(f"{whole} of {len(chosen)} families without an unknown row")


if __name__ == "__main__":
    main(sys.argv[1:])
