"""StarCoder2 (Lozhkov et al. 2024): layer norms, an MLP without gates, biases, and a sliding window."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from prefix_jax.models.families.family import GGUF_TENSORS, Gguf, gguf_layer_norms
from prefix_jax.models.families.gpt2 import gelu
from prefix_jax.models.families.hf_config import refuse
from prefix_jax.models.families.rotary_decoder import LayerNormDecoder, RotaryConfig, Tensors, family, fields, sizes


@dataclass(frozen=True, kw_only=True)
class Starcoder2Config(RotaryConfig):
    family: ClassVar[str] = "starcoder2"
    tensors: ClassVar[Tensors] = Tensors(mlp={"up": "mlp.c_fc", "down": "mlp.c_proj"}, norm_bias=True)


class Starcoder2(LayerNormDecoder):
    model_config: Starcoder2Config
    activation = staticmethod(gelu)


def read(c: dict[str, Any]) -> Starcoder2Config:
    refuse(c, "hidden_act", ("gelu_pytorch_tanh", "gelu_new"))
    bias, ids = bool(c.get("use_bias", True)), dict(bos_token_id=50256, eos_token_id=50256)
    shape = fields(
        c, "norm_epsilon", norm_epsilon=1e-5, num_key_value_heads=2, max_position_embeddings=4096,
        tie_word_embeddings=True, **ids,
    )  # fmt: skip
    window = c.get("sliding_window")
    return Starcoder2Config(**shape, qkv_bias=bias, out_bias=bias, mlp_bias=bias, sliding_window=window)


def _gguf_options(get: Callable[..., Any]) -> dict[str, Any]:
    window = get("attention.sliding_window")
    norms = gguf_layer_norms(get, "norm_epsilon")
    return {"hidden_act": "gelu_pytorch_tanh", "use_bias": False, "sliding_window": window, **norms}


_GGUF = {**GGUF_TENSORS, "ffn_up": "mlp.c_fc", "ffn_down": "mlp.c_proj"}
FAMILY = family(
    "StarCoder2",
    Starcoder2Config,
    Starcoder2,
    read,
    known={
        "starcoder2-3b": sizes(
            "starcoder2", 30, 3072, 24, 2, 12288, 49152, max_position_embeddings=16384, sliding_window=4096
        ),
        "starcoder2-7b": sizes(
            "starcoder2", 32, 4608, 36, 4, 18432, 49152, max_position_embeddings=16384, sliding_window=4096
        ),
    },
    gguf={"starcoder2": Gguf("starcoder2", _GGUF, _gguf_options)},
)
