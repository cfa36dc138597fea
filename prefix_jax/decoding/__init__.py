"""Greedy decoding, sampling and beam search: compiled, with a KV cache, and token-identical to `transformers`."""

from prefix_jax.decoding.generate import Generated, NotFinite, decode_all, generate, make_inputs
from prefix_jax.decoding.generation_config import GenerationConfig, OfModel, of_model
from prefix_jax.decoding.kv_cache import Inputs

__all__ = [
    "Generated",
    "GenerationConfig",
    "Inputs",
    "NotFinite",
    "OfModel",
    "decode_all",
    "generate",
    "make_inputs",
    "of_model",
]
