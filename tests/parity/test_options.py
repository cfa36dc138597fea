"""Every option of a `config.json` that transformers reads is used here, refused, or known to be harmless."""

import functools
import inspect
import re
from typing import Any

import pytest

from prefix_jax.errors import UserError
from prefix_jax.models import FAMILIES, from_hf
from tests.models import torch_models as tm
from tests.parity import cases

transformers = tm.transformers

# Options that change nothing here, each with the reason.
HARMLESS = {
    # What a file says of itself, and of tasks other than writing.
    "_name_or_path": "where the file is from",
    "architectures": "the class of a network; the family is in model_type",
    "classifier_dropout": "of a network that classifies",
    "dtype": "of the stored numbers, which say it themselves",
    "id2label": "of a network that classifies",
    "image_token_id": "of a multimodal network around this one",
    "is_decoder": "transformers' network sets it itself",
    "is_encoder_decoder": "the family says it",
    "label2id": "of a network that classifies",
    "mm_tokens_per_image": "of a multimodal network around this one",
    "num_labels": "of a network that classifies",
    "problem_type": "of a network that classifies",
    "summary_activation": "of a network that classifies",
    "summary_first_dropout": "of a network that classifies",
    "summary_last_dropout": "of a network that classifies",
    "summary_proj_to_labels": "of a network that classifies",
    "summary_type": "of a network that classifies",
    "summary_use_proj": "of a network that classifies",
    "text_config": "of a multimodal network around this one",
    "transformers_version": "which version wrote the file",
    "vision_config": "of a multimodal network around this one",
    # Training of the base model; here it is frozen and without dropout.
    "activation_dropout": "dropout",
    "attention_dropout": "dropout",
    "attn_config.attn_pdrop": "dropout",
    "attn_pdrop": "dropout",
    "decoder_layerdrop": "dropout",
    "dropout": "dropout",
    "dropout_rate": "dropout",
    "emb_pdrop": "dropout",
    "embd_pdrop": "dropout",
    "embed_dropout": "dropout",
    "embedding_dropout": "dropout",
    "encoder_layerdrop": "dropout",
    "hidden_dropout": "dropout",
    "layerdrop": "dropout",
    "resid_dropout": "dropout",
    "resid_pdrop": "dropout",
    "residual_dropout": "dropout",
    "router_jitter_noise": "noise in training",
    "init_device": "initial weights, which are read instead",
    "init_std": "initial weights, which are read instead",
    "initializer_factor": "initial weights, which are read instead",
    "initializer_range": "initial weights, which are read instead",
    "router_aux_loss_coef": "of a loss for routers, which are frozen",
    # How the same is computed, or what is returned with it.
    "attention_softmax_in_fp32": "precision: attention weights are computed in float32 here",
    "attn_config.attn_impl": "which kernel",
    "chunk_size_feed_forward": "memory",
    "gradient_checkpointing": "memory",
    "output_attentions": "what is returned beside logits",
    "output_hidden_states": "what is returned beside logits",
    "output_router_logits": "what is returned beside logits",
    "pretraining_tp": "order of sums",
    "reorder_and_upcast_attn": "precision: attention weights are computed in float32 here",
    "return_dict": "the form of what is returned",
    "scale_attention_softmax_in_fp32": "precision: attention weights are computed in float32 here",
    "slow_but_exact": "order of sums",
    "use_cache": "decoding here has caches of its own",
    # Not of the network.
    "encoder_no_repeat_ngram_size": "how texts are searched, which decoding's own options say",
    "forced_eos_token_id": "decoding reads it with the generation_config.json",
    # What transformers' network does not read, or not with this family.
    "attention_chunk_size": "of layers of a kind that is refused",
    "attention_layers": "transformers makes it of attention_types",
    "embedding_fraction": "transformers does not read it",
    "is_gated_act": "transformers makes it of feed_forward_proj",
    "learned_pos_emb": "transformers does not read it",
    "n_ctx": "transformers reads n_positions",
}
# The same of one kind of model.
HARMLESS_OF = {
    ("gemma", "hidden_act"): "released files say gelu and mean its approximation",
    ("gpt_bigcode", "num_key_value_heads"): "transformers makes it of multi_query",
    ("mt5", "bos_token_id"): "T5 has no such token",
    ("qwen2_moe", "intermediate_size"): "of layers without experts, which are refused",
    ("qwen3_moe", "intermediate_size"): "of layers without experts, which are refused",
}

ACTIVATIONS = ["relu", "gelu", "gelu_new", "silu", "tanh"]
# The names of one function.
EQUAL = ({"gelu_new", "gelu_pytorch_tanh"}, {"silu", "swish"})
# Values other than the default, for options whose default does not give one.
VALUES: dict[str, Any] = {
    **dict.fromkeys(("activation_function", "activation", "hidden_act", "hidden_activation"), ACTIVATIONS),
    "attention_chunk_size": [4],
    "attention_types": [[[["global"], 3]]],
    "attn_config.attn_type": ["multiquery_attention"],
    "attn_config.clip_qkv": [0.5],
    "attn_config.softmax_scale": [0.3],
    "attn_logit_softcapping": [None, 7.0],
    "bos_token_id": [3],
    "decoder_start_token_id": [3],
    "decoder_vocab_size": [33],
    "dense_act_fn": ACTIVATIONS,
    "eos_token_id": [3, [3, 4]],
    "feed_forward_proj": ["relu", "gated-gelu", "gated-silu", "gated-relu", "gelu"],
    "ffn_hidden_size": [50],
    "final_logit_softcapping": [None, 7.0],
    "forced_eos_token_id": [3],
    "head_dim": [12],
    "hidden_dropout": [0.1],
    "is_causal": [False],
    "layer_types": lambda base: [
        [f"{kind}_attention"] * base["num_hidden_layers"] for kind in ("full", "sliding", "chunked")
    ],
    "mlp_only_layers": [[1]],
    "n_inner": [50],
    "no_rope_layers": [[1, 0, 0]],
    "num_decoder_layers": [1],
    "num_key_value_heads": [1],
    "num_kv_heads": [1],
    "num_ln_in_parallel_attn": [1, 2, 3],
    "original_max_position_embeddings": [16],
    "logit_scale": [0.7],
    "max_window_layers": [0, 2],
    "norm_type": ["rmsnorm"],
    "pad_token_id": [3],
    "partial_rotary_factor": [0.75],
    "rope_parameters": [
        {"rope_type": "linear", "factor": 3.0, "rope_theta": 77.0}, {"rope_type": "default", "rope_theta": 77.0},
        {"rope_type": "proportional", "rope_theta": 77.0},
    ],
    "rotary_dim": [2],
    "sliding_window": [5, 6],
    "intermediate_size": [50],
    "use_bidirectional_attention": [True],
}  # fmt: skip
# What an option needs beside it to matter: transformers makes `layer_types` and others of it, unless a file has them.
BESIDE: dict[str, dict[str, Any]] = {
    "no_rope_layer_interval": {"no_rope_layers": None},
    "max_window_layers": {"layer_types": None, "use_sliding_window": True, "sliding_window": 4},
    "_sliding_window_pattern": {"layer_types": None},
    "partial_rotary_factor": {"rope_parameters": None},
    "use_sliding_window": {"layer_types": None, "max_window_layers": 1, "sliding_window": 4},
}
# What transformers' parts for all models read, although few configurations declare it.
COMMON = ("attention_chunk_size", "is_causal")
READ = re.compile(r'config\.(\w+)|getattr\((?:self\.)?config, ?"(\w+)"')
KINDS = {kind: name for name, family in FAMILIES.items() for kind in family.readers}


def config_class(kind: str) -> Any:
    return transformers.CONFIG_MAPPING[kind]


@functools.cache
def options_of(kind: str) -> dict[str, Any]:
    """The options that the configuration declares, with their values, and those that the network reads, with None."""
    config = config_class(kind)
    tables = (transformers.MODEL_FOR_CAUSAL_LM_MAPPING, transformers.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING)
    network = next(table[config] for table in tables if config in table)
    source = inspect.getsource(inspect.getmodule(network))
    read = {name for pair in READ.findall(source) for name in pair if name} | set(COMMON)
    known = {name for name in read if not callable(getattr(config, name, None)) and not name.startswith("_")}
    return flat({**dict.fromkeys(sorted(known - set(config.attribute_map))), **config().to_dict()})


def flat(options: dict[str, Any]) -> dict[str, Any]:
    inner = {f"attn_config.{name}": value for name, value in (options.get("attn_config") or {}).items()}
    both = {**options, **inner}
    return {name: value for name, value in both.items() if name.split(".")[-1] not in ("model_type", "attn_config")}


@functools.cache
def bases(kind: str) -> list[dict[str, Any]]:
    """Configurations of the cases of this kind, or of its family, and the default one."""
    found = cases.of_family(KINDS[kind]).values()
    own = [case for case in found if tm.config_class(case.kind).model_type == kind] or list(found)
    return [config_class(kind)(**options).to_dict() for options in ({}, *(case.options for case in own))]


def ignored(kind: str, option: str) -> list[Any]:
    """The values of an option that change nothing in any of the configurations."""
    values: dict[int, Any] = {}
    seen: set[int] = set()
    for base in bases(kind):
        for place, value in enumerate(others(base, option)):
            if not same(value, flat(base).get(option)):
                values[place] = value
                seen |= {place} if noticed(base, option, value) else set()
    return [value for place, value in values.items() if place not in seen]


def others(base: dict[str, Any], option: str) -> list[Any]:
    if option in VALUES:
        return VALUES[option](base) if callable(VALUES[option]) else VALUES[option]
    value = flat(base).get(option)
    if isinstance(value, bool):
        return [False, True]
    if isinstance(value, int):
        return [value + 1, 2 * value or 1]
    return [1.5 * value + 0.1] if isinstance(value, float) else ["?"]


def same(value: Any, other: Any) -> bool:
    return value == other or any({str(value), str(other)} <= names for names in EQUAL)


def noticed(base: dict[str, Any], option: str, value: Any) -> bool:
    """Whether the value changes what is read here, or is refused."""
    plain = {**base, **BESIDE.get(option, {})}
    outer, _, inner = option.rpartition(".")
    changed = {**plain, outer: {**plain[outer], inner: value}} if outer else {**plain, option: value}
    try:
        return from_hf(changed) != from_hf(plain)
    except UserError:
        return True


def harmless(kind: str, option: str) -> bool:
    return option.split(".")[-1] in HARMLESS or option in HARMLESS or (kind, option) in HARMLESS_OF


def unknown(kind: str) -> dict[str, list[Any]]:
    found = {option: ignored(kind, option) for option in options_of(kind) if not harmless(kind, option)}
    return {option: values for option, values in found.items() if values}


@pytest.mark.parametrize("kind", KINDS)
def test_every_option_is_used_refused_or_harmless(kind):
    assert not unknown(kind)


@pytest.mark.parametrize("kind", KINDS)
def test_options_without_a_default_have_values_of_their_own(kind):
    """Else their type would be all that is refused."""
    plain = {
        o for o in options_of(kind) if not harmless(kind, o) and any("?" in others(base, o) for base in bases(kind))
    }
    assert not plain


def test_harmless_options_are_ignored_by_some_family():
    """A reason that no longer applies is taken off the table."""
    left = {
        option for option in HARMLESS if not any(o == option and ignored(k, o) for k in KINDS for o in options_of(k))
    }
    assert not left
    assert all(ignored(*pair) for pair in HARMLESS_OF)


def test_an_option_that_nothing_reads_is_found(monkeypatch):
    monkeypatch.delitem(HARMLESS, "use_cache")
    assert "use_cache" in unknown("llama")


@pytest.mark.parametrize(
    ("option", "value"), [("is_causal", False), ("layer_types", ["full_attention", "chunked_attention"])]
)
def test_attention_of_other_kinds_is_refused_in_every_family(option, value):
    """transformers computes it for any of them."""
    for kind in KINDS:
        with pytest.raises(UserError, match=option):
            from_hf({**bases(kind)[0], option: value})
