"""Models of transformers, against real constructions; skipped where that library is missing.

It is not among the test dependencies: the corpus environment of the Makefile has it.
"""

from __future__ import annotations

import pytest
import torch

from tests.initializers.capture.oracle import find_misfits
from varprobe import initialize
from varprobe.initializers.capture import capture_construction, capture_draw

transformers = pytest.importorskip(
    "transformers", reason="transformers is in the corpus environment only"
)


def build_gpt2():
    config = transformers.GPT2Config(
        n_embd=64, n_layer=3, n_head=4, vocab_size=300, n_positions=64,
        bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    return transformers.GPT2LMHeadModel(config)


def build_llama():
    config = transformers.LlamaConfig(
        hidden_size=64, intermediate_size=128, num_hidden_layers=3, num_attention_heads=8,
        num_key_value_heads=2, vocab_size=300, pad_token_id=0, tie_word_embeddings=True,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config)


def build_bert():
    config = transformers.BertConfig(
        hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128,
        vocab_size=300,
    )  # fmt: skip
    return transformers.BertForMaskedLM(config)


BUILDERS = [build_gpt2, build_llama, build_bert]


@pytest.mark.parametrize("on_meta", [False, True])
@pytest.mark.parametrize("build", BUILDERS)
def test_every_parameter_has_the_law_of_real_constructions(build, on_meta) -> None:
    def construct():
        with torch.device("meta" if on_meta else "cpu"):
            return build()

    captured = capture_construction(construct)
    assert not captured.reasons
    assert all(parameter.is_meta for parameter in captured.model.parameters())
    assert find_misfits(captured.laws, build, builds=12) == []


@pytest.mark.parametrize("build", BUILDERS)
def test_a_model_that_was_built_on_meta_is_drawn_by_its_own_scheme(build) -> None:
    with torch.device("meta"):
        model = build()
    captured = capture_draw(model, lambda twin: initialize(twin, "default"))
    assert find_misfits(captured.laws, build, builds=12) == []


def test_the_residual_projections_of_gpt2_are_scaled_by_depth() -> None:
    laws = capture_construction(build_gpt2).laws
    for name, law in laws.items():
        if name.endswith("c_proj.weight"):
            assert law.variance == pytest.approx(0.02**2 / (2 * 3))
