"""Greedy decoding, sampling and beam search: compiled, cached, equal to `transformers` token for token."""

from prefix_jax.decoding.cached import Inputs
from prefix_jax.decoding.generate import Generated, decode_all, generate, make_inputs
from prefix_jax.decoding.options import Options

__all__ = ["Generated", "Inputs", "Options", "decode_all", "generate", "make_inputs"]
