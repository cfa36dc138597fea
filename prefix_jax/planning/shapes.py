"""Shapes of well-known models by name, for planning without their files: what stands in their `config.json`."""

from typing import Any

from prefix_jax.errors import UserError, did_you_mean
from prefix_jax.models.pretrained import open_checkpoint
from prefix_jax.models.specs import Spec, from_hf


def _gpt2(layers: int, width: int, heads: int, vocabulary: int = 50257, window: int = 1024) -> dict[str, Any]:
    sizes = dict(n_layer=layers, n_embd=width, n_head=heads, vocab_size=vocabulary, n_positions=window)
    return {"model_type": "gpt2", **sizes}


def _t5(layers: int, width: int, heads: int, head: int, inner: int, gated: bool = False) -> dict[str, Any]:
    sizes = dict(num_layers=layers, d_model=width, num_heads=heads, d_kv=head, d_ff=inner, vocab_size=32128)
    form = dict(feed_forward_proj="gated-gelu" if gated else "relu", tie_word_embeddings=not gated)
    return {"model_type": "t5", **sizes, **form, "decoder_start_token_id": 0}


def _bart(layers: int, width: int, heads: int, inner: int) -> dict[str, Any]:
    depths = dict(encoder_layers=layers, decoder_layers=layers, d_model=width, vocab_size=50265)
    sides = {f"{side}_attention_heads": heads for side in ("encoder", "decoder")}
    inners = {f"{side}_ffn_dim": inner for side in ("encoder", "decoder")}
    return {"model_type": "bart", **depths, **sides, **inners, "max_position_embeddings": 1024}


def _llama(
    layers: int, width: int, heads: int, kv_heads: int, inner: int, vocabulary: int = 32000, window: int = 4096
) -> dict[str, Any]:
    sizes = dict(num_hidden_layers=layers, hidden_size=width, num_attention_heads=heads, intermediate_size=inner)
    more = dict(num_key_value_heads=kv_heads, vocab_size=vocabulary, max_position_embeddings=window)
    return {"model_type": "llama", **sizes, **more}


# From the models' papers and their published config.json; GPT-J's layers are GPT-2's here, of its size.
KNOWN = {
    "gpt2": _gpt2(12, 768, 12),
    "gpt2-medium": _gpt2(24, 1024, 16),
    "gpt2-large": _gpt2(36, 1280, 20),
    "gpt2-xl": _gpt2(48, 1600, 25),
    "gpt-j-6b-size": _gpt2(28, 4096, 16, vocabulary=50400, window=2048),
    "t5-small": _t5(6, 512, 8, 64, 2048),
    "t5-base": _t5(12, 768, 12, 64, 3072),
    "t5-large": _t5(24, 1024, 16, 64, 4096),
    "t5-3b": _t5(24, 1024, 32, 128, 16384),
    "t5-11b": _t5(24, 1024, 128, 128, 65536),
    "flan-t5-xl": _t5(24, 2048, 32, 64, 5120, gated=True),
    "flan-t5-xxl": _t5(24, 4096, 64, 64, 10240, gated=True),
    "flan-t5-small": dict(
        model_type="t5",
        num_layers=8,
        d_model=512,
        num_heads=6,
        d_kv=64,
        d_ff=1024,
        vocab_size=32128,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
        decoder_start_token_id=0,
    ),
    "bart-base": _bart(6, 768, 12, 3072),
    "bart-large": _bart(12, 1024, 16, 4096),
    "smollm2-135m": {
        **_llama(30, 576, 9, 3, 1536, vocabulary=49152, window=8192),
        "tie_word_embeddings": True,
        "rope_theta": 100000.0,
    },
    "llama-2-7b": _llama(32, 4096, 32, 32, 11008),
    "llama-2-13b": _llama(40, 5120, 40, 40, 13824),
    "llama-2-70b": _llama(80, 8192, 64, 8, 28672),
    "llama-3-8b": _llama(32, 4096, 32, 8, 14336, vocabulary=128256, window=8192),
}


def spec_of(source: str) -> Spec:
    """Returns the shapes of a model by one of the names here, or by what `model.source` takes.

    Raises:
      UserError: there is no such model.
    """
    if source in KNOWN:
        return from_hf(KNOWN[source])
    try:
        return from_hf(open_checkpoint(source).config)
    except UserError as error:
        hint = did_you_mean(source, tuple(KNOWN))
        raise UserError(f"{error}{hint if 'did you mean' in hint else ''}") from error
