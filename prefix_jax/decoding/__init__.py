"""Greedy decoding, sampling and beam search: compiled, cached, equal to `transformers` token for token."""

from prefix_jax.decoding.cached import Inputs
from prefix_jax.decoding.generate import Generated, NotFinite, decode_all, generate, make_inputs
from prefix_jax.decoding.options import Options

__all__ = ["Generated", "Inputs", "NotFinite", "Options", "decode_all", "generate", "make_inputs"]
