"""Type checks of a `config.json`: options before they are read, and the sizes of a model after."""

import re
import typing
from collections.abc import Callable, Mapping
from typing import Any

from prefix_jax.errors import UserError
from prefix_jax.models.model_config import ModelConfig


def _is_whole(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**31


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 2**63  # which nan and infinities are not


def _is_ids(value: Any) -> bool:
    return all(type(id) is int for id in (value if isinstance(value, list) else [value]))


def _is_words(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(word, list) and word and _is_ids(word) for word in value)


# Options by name, the words of the error message, and the check. An option that is null counts as absent.
_OPTIONS: tuple[tuple[str, str, Callable[[Any], bool]], ...] = (
    (
        r"vocab_size|hidden_size|intermediate_size|ffn_dim|head_dim|rotary_dim|max_position_embeddings|max_seq_len"
        r"|n_(layer|layers|embd|embed|head|heads|positions|inner)|d_(model|kv|ff)|word_embed_proj_dim"
        r"|num_(hidden_|decoder_|encoder_)?layers|num_(attention_|key_value_|kv_)?heads|window_size|ffn_hidden_size"
        r"|(encoder|decoder)_(layers|attention_heads|ffn_dim)|relative_attention_(num_buckets|max_distance)"
        r"|num_(local_)?experts(_per_tok)?|(moe_|shared_expert_)?intermediate_size|sliding_window|max_window_layers",
        "a whole number of at least 0",
        _is_whole,
    ),
    (r"rope_theta|\w*_(eps|epsilon)|partial_rotary_factor|rotary_pct|\w+_(multiplier|scaling|softcapping)", "a number",
     lambda value: _is_number(value) or isinstance(value, dict)),
    (r"(eos|bos|pad|decoder_start|forced_[be]os)_token_id", "a token id, or a list of them", _is_ids),
    (r"suppress_tokens", "a list of token ids", lambda value: isinstance(value, list) and _is_ids(value)),
    (r"bad_words_ids", "a list of lists of token ids", _is_words),
    (r"tie_word_embeddings|scale_embedding|use_sliding_window|attention_bias|mlp_bias|use_qk_norm"
     r"|alibi|multi_query|parallel_attn|new_decoder_architecture|enable_bias|do_layer_norm_before|_remove_final_layer_norm",
     "true or false", lambda value: isinstance(value, bool)),
    (r"model_type|hidden_act|hidden_activation|activation(_function)?|feed_forward_proj|dense_act_fn", "a string",
     lambda value: isinstance(value, str)),
    (r"rope_parameters|quantization_config|attn_config", "an object", lambda value: isinstance(value, dict)),
    (r"layer_types|attention_types", "a list", lambda value: isinstance(value, list)),
)  # fmt: skip
_COMPILED = tuple((re.compile(pattern), words, check) for pattern, words, check in _OPTIONS)
_SIZES = ("vocab_size", "layers", "d_model", "heads", "kv_heads", "head_dim", "d_ff")


def check_options(config: Mapping[str, Any], where: str) -> None:
    """Raises UserError if a known option of the `config.json` that `where` names has the wrong type."""
    for name, value in config.items():
        for pattern, words, check in _COMPILED:
            if value is not None and pattern.fullmatch(name) and not check(value):
                raise UserError(f"{where} has {name}={value!r}; it must be {words}: download it again")


def check_fields(model_config: ModelConfig, where: str) -> None:
    """Raises UserError if a size is not positive, or a field of the description has another type than declared."""
    for name in _SIZES:
        if not _is_whole(value := getattr(model_config, name)) or value < 1:
            raise UserError(f"{where} gives the model {name}={value!r}; it must be at least 1: download it again")
    if model_config.heads % model_config.kv_heads:
        raise UserError(
            f"{where} gives the model {model_config.heads} attention heads and {model_config.kv_heads} "
            "key-value heads, which do not divide them: download it again"
        )
    for name, declared in typing.get_type_hints(type(model_config)).items():
        if typing.get_origin(declared) is not typing.ClassVar and not _is_a(getattr(model_config, name), declared):
            value = getattr(model_config, name)
            raise UserError(f"{where} gives the model {name}={value!r}, which is of the wrong type: download it again")


def _is_a(value: Any, declared: Any) -> bool:
    if alternatives := typing.get_args(declared) if typing.get_origin(declared) is not tuple else ():
        return any(_is_a(value, part) for part in alternatives)
    if declared is float:
        return _is_number(value)
    kind = tuple if typing.get_origin(declared) is tuple else declared
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
