"""The table of cases: small models of every family, of odd shapes, by name. Every comparison takes its models here."""

import functools
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import pytest

from prefix_jax.models import FAMILIES
from tests.models import torch_models as tm

PAD, END = 0, 1


@dataclass(frozen=True)
class Case:
    """A small model.

    Attributes:
      kind: transformers' name of the architecture, without the endings of classes.
      options: those of its configuration.
      decoding: what is changed where written tokens are compared; None: they are compared for another case.
      peft: what is changed for a prefix in PEFT; None: it is compared for another case, or PEFT has no such prefix.
      lora: what is changed for PEFT's LoRA; None: it is compared for another case.
    """

    kind: str
    options: dict[str, Any] = field(default_factory=dict)
    decoding: dict[str, Any] | None = None
    peft: dict[str, Any] | None = None
    lora: dict[str, Any] | None = None

    def pair(self, **changes: Any) -> tm.Pair:
        return tm.pair(self.kind, **{**self.options, **changes})

    def decoding_pair(self) -> tm.Pair:
        assert self.decoding is not None
        start = {} if self.encoder_decoder else dict(bos_token_id=2)
        return self.pair(**{**start, "pad_token_id": PAD, "eos_token_id": END, **self.decoding})

    @property
    def family(self) -> str:
        return _families()[tm.config_class(self.kind).model_type]

    @property
    def encoder_decoder(self) -> bool:
        return self.kind in ("T5", "UMT5", *tm.BART_LIKE.values())


@functools.cache
def _families() -> dict[str, str]:
    return {kind: name for name, family in FAMILIES.items() for kind in family.readers}


def of_family(family: str) -> dict[str, Case]:
    """The cases of a family; a family of the package without one makes the test that asks fail."""
    found = {name: case for name, case in CASES.items() if case.family == family}
    if not found:
        raise AssertionError(f"the family {family} has no case in tests/parity/cases.py")
    return found


def first(family: str, comparison: str) -> Case:
    """The family's first case with a comparison: "decoding", "peft" or "lora"."""
    for case in of_family(family).values():
        if getattr(case, comparison) is not None:
            return case
    raise AssertionError(f"no case of the family {family} in tests/parity/cases.py has {comparison}")


def named(comparison: str) -> dict[str, Case]:
    """The cases with a comparison."""
    return {name: case for name, case in CASES.items() if getattr(case, comparison) is not None}


# Families built of the parts of others. Their decoding, LoRA, prompts, infixes and integers are nightly tests.
ALIKE = (
    "gemma", "phi", "olmo2", "granite", "starcoder2", "stablelm", "glm4", "nemotron", "mixtral", "qwen3_moe", "mbart",
    "pegasus", "blenderbot", "blenderbot-small",
)  # fmt: skip


def params(names: Iterable[str], *values: Any) -> list[Any]:
    """Parameters of a test: a case's name, nightly for the families in `ALIKE`, and the values."""
    nightly = {name: pytest.mark.nightly for name in names if CASES[name].family in ALIKE}
    return [pytest.param(name, *values, marks=nightly.get(name, ())) for name in names]


LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
    "rope_theta": 50.0,
}
LINEAR = {"rope_type": "linear", "factor": 3.0, "rope_theta": 500.0}
YARN = {
    "rope_type": "yarn", "factor": 4.0, "beta_fast": 2.0, "original_max_position_embeddings": 16, "rope_theta": 30.0,
}  # fmt: skip
LONGROPE = {
    "rope_type": "longrope", "short_factor": [1.0, 1.5, 2.5], "long_factor": [2.0, 3.0, 4.0], "rope_theta": 50.0,
    "original_max_position_embeddings": 32, "partial_rotary_factor": 0.5,
}  # fmt: skip
PARTIAL = {"rope_parameters": {"rope_theta": 50.0, "rope_type": "default", "partial_rotary_factor": 0.7}}
SHAPE = dict(
    vocab_size=61, hidden_size=24, intermediate_size=40, num_hidden_layers=3, max_position_embeddings=64,
    num_attention_heads=4, num_key_value_heads=2,
)  # fmt: skip
KINDS = ["sliding_attention", "full_attention"] * 2 + ["sliding_attention"]
NEAR = {"layer_types": KINDS[:3], "sliding_window": 4}
# A window that no row fills: PEFT counts the prefix into it.
WIDE = {"sliding_window": 32}
# With one matrix for embedding and output, some networks write the same token for ever.
UNTIED = {"tie_word_embeddings": False}


def like(kind: str, options: dict[str, Any] | None = None, **comparisons: Any) -> Case:
    """A case with Llama's names of sizes."""
    return Case(kind, {**SHAPE, **(options or {})}, **comparisons)


def compared(kind: str, options: dict[str, Any] | None = None, **comparisons: Any) -> Case:
    """The same, with every comparison."""
    return like(kind, options, **{"decoding": UNTIED, "peft": {}, "lora": {}, **comparisons})


CASES = {
    "gpt2": Case("GPT2", decoding={}, peft={}, lora=dict(n_layer=2)),
    "gpt2_untied_inner": Case("GPT2", dict(tie_word_embeddings=False, n_inner=28)),
    "llama": like("Llama", dict(tie_word_embeddings=True), decoding=UNTIED, peft={}),
    "llama_head_dim": like(
        "Llama", dict(head_dim=10, num_attention_heads=6, num_key_value_heads=3, rms_norm_eps=1e-5), peft={},
        lora=dict(num_key_value_heads=2, num_hidden_layers=2),
    ),
    "llama3_rope_one_kv_head": like(
        "Llama", dict(head_dim=16, num_key_value_heads=1, rope_parameters=LLAMA3), peft={}
    ),
    "llama_biases_yarn": like(
        "Llama", dict(attention_bias=True, mlp_bias=True, rope_parameters=YARN), peft={}
    ),
    "qwen2": like("Qwen2", dict(tie_word_embeddings=True, rope_parameters=LINEAR), lora=dict(num_hidden_layers=2)),
    "qwen2_window": like("Qwen2", dict(use_sliding_window=True, sliding_window=3, max_window_layers=0)),
    "qwen2_windows_in_some_layers": like(
        "Qwen2", dict(use_sliding_window=True, sliding_window=3, max_window_layers=1)
    ),
    "mistral_window": like(
        "Mistral", dict(sliding_window=4, head_dim=6, num_key_value_heads=4), decoding=dict(sliding_window=5),
        lora=dict(num_hidden_layers=2, sliding_window=None),
    ),
    "qwen3": compared("Qwen3", dict(head_dim=10, tie_word_embeddings=True), decoding={}),
    "qwen3_windows_in_some_layers": like(
        "Qwen3", dict(head_dim=6, use_sliding_window=True, sliding_window=4, max_window_layers=2)
    ),
}  # fmt: skip
GPTJ = dict(vocab_size=61, n_layer=3, n_embd=24, n_head=2, n_positions=40, rotary_dim=4)
# The last period is cut.
GEMMA3 = {
    "num_hidden_layers": 5, "layer_types": KINDS, "head_dim": 6, "sliding_window": 4, "query_pre_attn_scalar": 7,
    "rope_parameters": {
        "full_attention": {"rope_type": "linear", "factor": 2.0, "rope_theta": 300.0},
        "sliding_attention": {"rope_type": "default", "rope_theta": 20.0},
    },
}  # fmt: skip
CASES |= {
    "gptj": Case("GPTJ", GPTJ, decoding={}, peft={}, lora={}),
    "gptj_whole_heads": Case("GPTJ", {**GPTJ, "rotary_dim": 24, "n_head": 1, "n_inner": 30}),
    # Of some rows, the sliding layers no longer see the prompt at the end.
    "gemma3": compared("Gemma3", GEMMA3, decoding={**UNTIED, "sliding_window": 5}, peft=WIDE),
    "gemma3_whole_periods": like("Gemma3", {**GEMMA3, "num_hidden_layers": 4, "layer_types": KINDS[:4]}),
    "gemma": compared("Gemma", dict(head_dim=10, num_key_value_heads=1)),
    "gemma2": compared(
        "Gemma2",
        dict(**NEAR, head_dim=6, query_pre_attn_scalar=7, attn_logit_softcapping=2.0, final_logit_softcapping=3.0),
        decoding={**UNTIED, "sliding_window": 5, "attn_logit_softcapping": 5.0, "final_logit_softcapping": 30.0},
        peft=WIDE,
    ),
    "smollm3": compared(
        "SmolLM3", dict(no_rope_layer_interval=2, pad_token_id=0, attention_bias=True, mlp_bias=True)
    ),
    "smollm3_windows": like(
        "SmolLM3", dict(no_rope_layer_interval=2, pad_token_id=0, use_sliding_window=True, sliding_window=4)
    ),
    "phi3": compared(
        "Phi3",
        dict(num_attention_heads=2, num_key_value_heads=1, pad_token_id=0, original_max_position_embeddings=32,
             rope_parameters=LONGROPE, sliding_window=5),
        peft=WIDE,
    ),
    "phi": compared("Phi", PARTIAL),
    "phi_qk_norm": like("Phi", dict(qk_layernorm=True, **PARTIAL), peft={}),
    "olmo2": compared("Olmo2", dict(pad_token_id=0)),
    "olmo2_multi_head": like("Olmo2", dict(pad_token_id=0, num_key_value_heads=4), peft={}),
    "granite": compared("Granite", dict(
        embedding_multiplier=3.0, logits_scaling=2.0, residual_multiplier=0.4, attention_multiplier=0.3,
        attention_bias=True,
    )),
    "starcoder2": compared("Starcoder2", dict(sliding_window=5), peft=WIDE),
    "stablelm": compared("StableLm", dict(num_attention_heads=3, num_key_value_heads=1, use_qkv_bias=True)),
    "stablelm_parallel": like(
        "StableLm", dict(num_attention_heads=3, num_key_value_heads=3, use_parallel_residual=True), peft={}
    ),
    "stablelm_qk_norm": like(
        "StableLm", dict(num_attention_heads=3, num_key_value_heads=1, qk_layernorm=True), peft={}
    ),
    "cohere": compared("Cohere", dict(logit_scale=0.4), decoding={**UNTIED, "logit_scale": 1.0}),
    "cohere_qk_norm": like("Cohere", dict(use_qk_norm=True), peft={}),
    "glm4": compared("Glm4", dict(head_dim=8, pad_token_id=0, eos_token_id=1)),
    "nemotron": compared("Nemotron", dict(head_dim=8, mlp_bias=True)),
    "mixtral": compared("Mixtral", dict(num_local_experts=5, num_experts_per_tok=2)),
    "qwen2_moe": compared("Qwen2Moe", dict(
        num_experts=5, num_experts_per_tok=3, moe_intermediate_size=9, shared_expert_intermediate_size=11,
    )),
    "qwen2_moe_windows": like("Qwen2Moe", dict(
        num_experts=5, num_experts_per_tok=3, moe_intermediate_size=9, shared_expert_intermediate_size=11,
        use_sliding_window=True, sliding_window=4, max_window_layers=2, qkv_bias=False,
    )),
    "qwen3_moe": compared("Qwen3Moe", dict(
        num_experts=6, num_experts_per_tok=2, moe_intermediate_size=7, norm_topk_prob=True, head_dim=10,
    )),
    "qwen3_moe_window": like("Qwen3Moe", dict(
        num_experts=6, num_experts_per_tok=2, moe_intermediate_size=7, use_sliding_window=True, sliding_window=4,
        attention_bias=True,
    )),
    "gpt_oss": compared("GptOss", dict(
        num_local_experts=5, num_experts_per_tok=2, head_dim=6, sliding_window=4, rope_parameters=YARN,
        swiglu_limit=0.5,
    ), decoding={**UNTIED, "sliding_window": 5, "swiglu_limit": 7.0}, peft=WIDE),
}  # fmt: skip
# Its dropout of attention is a number, not a module that tests set to 0.
BIGCODE = dict(vocab_size=61, n_layer=3, n_embd=30, n_head=5, n_positions=40, attn_pdrop=0.0)
NEOX = dict(
    vocab_size=61, hidden_size=30, intermediate_size=41, num_hidden_layers=3, num_attention_heads=3,
    max_position_embeddings=40,
    rope_parameters={"rope_theta": 90.0, "partial_rotary_factor": 0.4, "rope_type": "default"},
)  # fmt: skip
NEO = dict(
    vocab_size=61, num_layers=3, hidden_size=30, num_heads=5, max_position_embeddings=40, window_size=4,
    attention_types=[[["local", "global"], 1], [["local"], 1]],
)  # fmt: skip
OPT = dict(
    vocab_size=61, hidden_size=30, num_hidden_layers=3, num_attention_heads=5, ffn_dim=41, max_position_embeddings=40,
    word_embed_proj_dim=30, dropout=0.0,
)  # fmt: skip
CODEGEN = dict(vocab_size=61, n_layer=3, n_embd=48, n_head=8, n_positions=40, rotary_dim=4)
CASES |= {
    "gpt_bigcode": Case("GPTBigCode", BIGCODE, decoding={}, peft={}, lora={}),
    "gpt_bigcode_multi_head": Case(
        "GPTBigCode",
        dict(**BIGCODE, multi_query=False, n_inner=41, scale_attn_weights=False, activation_function="gelu"),
    ),
    "gpt_neox": Case("GPTNeoX", NEOX, decoding={}, peft={}, lora={}),
    "gpt_neox_serial": Case(
        "GPTNeoX", dict(**NEOX, use_parallel_residual=False, attention_bias=False, hidden_act="gelu_new")
    ),
    "gpt_neo": Case("GPTNeo", NEO, decoding=dict(window_size=5), peft=dict(window_size=32), lora={}),
    "gpt_neo_inner": Case(
        "GPTNeo", {**NEO, "attention_types": [[["global"], 3]], "intermediate_size": 41, "activation_function": "relu"}
    ),
    "opt": Case("OPT", OPT, peft={}, lora={}),
    "opt_norms_after_narrow": Case(
        "OPT", {**OPT, "word_embed_proj_dim": 18, "do_layer_norm_before": False}, decoding={}, peft={},
        lora=dict(do_layer_norm_before=True),
    ),
    "opt_no_biases_no_final_norm": Case("OPT", dict(
        **OPT, enable_bias=False, _remove_final_layer_norm=True, activation_function="gelu", tie_word_embeddings=False,
    )),
    "codegen": Case("CodeGen", CODEGEN, decoding={}, peft={}, lora={}),
}  # fmt: skip
# As many heads as are no power of two.
BLOOM = dict(vocab_size=61, n_layer=3, hidden_size=30, n_head=5, pad_token_id=0)
MPT = dict(vocab_size=61, n_layers=3, d_model=30, n_heads=5, max_seq_len=40)
FALCON = dict(
    vocab_size=61, num_hidden_layers=3, hidden_size=48, num_attention_heads=6, max_position_embeddings=40,
    rope_parameters={"rope_theta": 90.0, "rope_type": "default"},
)  # fmt: skip
NEW_FALCON = dict(**FALCON, new_decoder_architecture=True)
# transformers' eager attention adds the biases of ALiBi twice.
RW = dict(alibi=True, bias=True, multi_query=False, parallel_attn=False, attn_implementation="sdpa")
CASES |= {
    "bloom": Case("Bloom", BLOOM, decoding={}, peft={}, lora={}),
    "bloom_even_heads": Case("Bloom", {**BLOOM, "n_head": 2, "tie_word_embeddings": False}),
    "mpt": Case("Mpt", MPT, decoding={}, peft={}, lora={}),
    "mpt_clip_scale": Case("Mpt", {**MPT, "n_heads": 2, "attn_config": dict(clip_qkv=0.7, softmax_scale=0.4)}),
    "falcon_7b": Case("Falcon", FALCON, peft={}),
    "falcon_40b": Case("Falcon", dict(**NEW_FALCON, num_kv_heads=2), decoding={}, peft={}, lora={}),
    "falcon_11b": Case("Falcon", dict(
        **NEW_FALCON, num_kv_heads=3, num_ln_in_parallel_attn=1, ffn_hidden_size=41, activation="relu",
        tie_word_embeddings=False,
    )),
    # Some slopes of 12 heads are no powers of two, and rounded; PEFT's mask holds floats, with which transformers does
    # not round them.
    "falcon_rw": Case(
        "Falcon", {**FALCON, "num_attention_heads": 12, **RW}, decoding=dict(num_attention_heads=6),
        peft=dict(num_attention_heads=6),
    ),
    "falcon_one_key_head_alibi": Case("Falcon", {**FALCON, **RW, "multi_query": True}),
}  # fmt: skip
GATED = dict(feed_forward_proj="gated-gelu")
START = dict(decoder_start_token_id=2, forced_eos_token_id=None, encoder_no_repeat_ngram_size=0)
CASES |= {
    "t5": Case("T5", decoding=dict(decoder_start_token_id=PAD), lora=dict(num_layers=2)),
    "t5_gated": Case(
        "T5", dict(**GATED, **UNTIED, d_kv=5), decoding=dict(decoder_start_token_id=PAD),
        lora=dict(num_layers=2, tie_word_embeddings=True),
    ),
    "umt5": Case("UMT5", dict(**GATED, d_kv=5), decoding=dict(decoder_start_token_id=PAD), lora=dict(num_layers=2)),
    "bart": Case("Bart", decoding=START, lora={}),
    "bart_scaled_relu": Case(
        "Bart", dict(scale_embedding=True, activation_function="relu", decoder_ffn_dim=20), lora={}
    ),
    "mbart": Case("MBart", dict(scale_embedding=True), decoding={**START, "scale_embedding": False}, lora={}),
    "pegasus": Case(
        "Pegasus", dict(activation_function="relu", scale_embedding=True),
        decoding={**START, "decoder_start_token_id": PAD, "activation_function": "gelu", "scale_embedding": False},
        lora=dict(scale_embedding=False),
    ),
    "marian": Case(
        "Marian", dict(activation_function="swish", pad_token_id=60, decoder_start_token_id=60),
        decoding={**START, **UNTIED, "decoder_start_token_id": PAD}, lora={},
    ),
    "m2m_100": Case("M2M100", dict(decoder_ffn_dim=20), decoding={**START, **UNTIED}, lora={}),
    "m2m_100_odd": Case("M2M100", dict(d_model=15, encoder_attention_heads=3, decoder_attention_heads=3)),
    "blenderbot": Case("Blenderbot", dict(scale_embedding=True), decoding={**START, "scale_embedding": False}, lora={}),
    "blenderbot_small": Case("BlenderbotSmall", decoding={**START, **UNTIED}, lora={}),
}  # fmt: skip
