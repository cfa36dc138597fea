"""GGUF files of the families, written with gguf-py's own table of names and by llama.cpp's conventions
(convert_hf_to_gguf.py), give transformers' logits.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from prefix_jax.errors import UserError
from prefix_jax.models import build
from prefix_jax.models.pretrained import load
from tests.models import torch_models as tm
from tests.models.torch_models import torch
from tests.parity.cases import CASES

gguf = pytest.importorskip("gguf")
TOKENS = np.arange(3, 15)[None]
PERMUTED, OFFSET = ("llama", "granite", "smollm3"), ("gemma", "gemma2", "gemma3", "nemotron")
# Cases of tests/parity/cases.py, and llama.cpp's names of their architectures.
ARCHITECTURES = {
    "llama": "llama",
    "llama3_rope_one_kv_head": "llama",
    "gemma": "gemma",
    "gemma2": "gemma2",
    "starcoder2": "starcoder2",
    "stablelm": "stablelm",
    "stablelm_parallel": "stablelm",
    "nemotron": "nemotron",
    "olmo2": "olmo2",
    "granite": "granite",
    "glm4": "glm4",
    "cohere": "command-r",
    "phi3": "phi3",
    "smollm3": "smollm3",
}


def write(path, network: Any, architecture: str, **more: Any) -> None:
    """Writes a network of transformers as llama.cpp's converter does."""
    config, writer = network.config, gguf.GGUFWriter(path, architecture)
    heads, keys = config.num_attention_heads, config.num_key_value_heads
    layers, width = config.num_hidden_layers, config.hidden_size
    head = getattr(config, "head_dim", None) or width // heads
    writer.add_block_count(layers)
    writer.add_embedding_length(width)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(heads)
    writer.add_head_count_kv(keys)
    writer.add_key_length(head)
    writer.add_context_length(config.max_position_embeddings)
    rope = config.rope_parameters
    writer.add_rope_freq_base(rope["rope_theta"])
    writer.add_rope_dimension_count(int(head * rope.get("partial_rotary_factor", 1.0)))
    epsilons = {
        name: getattr(config, name, None) for name in ("rms_norm_eps", "layer_norm_eps", "norm_epsilon", "norm_eps")
    }
    for name, value in epsilons.items():
        if value is not None:
            (writer.add_layer_norm_rms_eps if name == "rms_norm_eps" else writer.add_layer_norm_eps)(value)
    for add, value in more.items():
        getattr(writer, f"add_{add}")(value)
    kind = next(kind for kind, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture)
    names = gguf.get_tensor_name_map(kind, layers)
    for name, value in network.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        array, counts = value.numpy(), {"q_proj": heads, "k_proj": keys}
        if architecture in OFFSET and name.endswith("norm.weight"):
            array = array + 1
        if architecture in PERMUTED and (n := counts.get(name.split(".")[-2])):
            array = array.reshape(n, 2, head // 2, *array.shape[1:]).swapaxes(1, 2).reshape(array.shape)
        theirs = names.get_name(name, try_suffixes=(".weight", ".bias"))
        assert theirs is not None, name
        writer.add_tensor(theirs, np.ascontiguousarray(array))
    _write_factors(writer, network, rope)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _write_factors(writer: Any, network: Any, rope: dict[str, Any]) -> None:
    if rope["rope_type"] == "llama3":
        plain = 1 / rope["rope_theta"] ** (np.arange(0, network.config.head_dim, 2) / network.config.head_dim)
        scaled = network.model.rotary_emb.inv_freq.numpy()
        writer.add_tensor("rope_freqs.weight", (plain / scaled).astype(np.float32))
    if rope["rope_type"] == "longrope":
        for name in ("long", "short"):
            writer.add_tensor(f"rope_factors_{name}.weight", np.array(rope[f"{name}_factor"], np.float32))
        original = rope["original_max_position_embeddings"]
        scale = network.config.max_position_embeddings / original
        writer.add_rope_scaling_orig_ctx_len(original)
        writer.add_rope_scaling_attn_factors(float(np.sqrt(1 + np.log(scale) / np.log(original))))


def more(network: Any, architecture: str) -> dict[str, Any]:
    """What the converter writes for this architecture alone."""
    c = network.config
    return {
        "gemma2": lambda: {
            "sliding_window": c.sliding_window,
            "attn_logit_softcapping": c.attn_logit_softcapping,
            "final_logit_softcapping": c.final_logit_softcapping,
        },
        "starcoder2": lambda: {"sliding_window": c.sliding_window},
        "phi3": lambda: {"sliding_window": c.sliding_window},
        "stablelm": lambda: {"parallel_residual": c.use_parallel_residual},
        "granite": lambda: {
            "attention_scale": c.attention_multiplier,
            "embedding_scale": c.embedding_multiplier,
            "residual_scale": c.residual_multiplier,
            "logit_scale": c.logits_scaling,
        },
        "command-r": lambda: {"logit_scale": c.logit_scale},
    }.get(architecture, dict)()


@pytest.mark.parametrize("case", ARCHITECTURES)
def test_a_gguf_of_every_family_parity(case, tmp_path):
    network, architecture = CASES[case].pair().torch, ARCHITECTURES[case]
    if case == "gemma2":
        network.config.query_pre_attn_scalar = network.config.head_dim  # the file does not store it
        for layer in network.model.layers:
            layer.self_attn.scaling = network.config.head_dim**-0.5
    if case == "smollm3":
        # llama.cpp has every fourth layer without positions.
        network.config.no_rope_layers = [1, 1, 1]
        for layer in network.model.layers:
            layer.self_attn.use_rope = 1
    write(tmp_path / "m.gguf", network, architecture, **more(network, architecture))
    opened = load(str(tmp_path / "m.gguf"))
    with torch.no_grad():
        expected = network(torch.tensor(TOKENS)).logits.numpy()
    model = build(opened.model_config)
    found = tm.jit(lambda params: model.apply({"params": params}, jnp.asarray(TOKENS)))(opened.params)
    np.testing.assert_allclose(found, expected, atol=5e-5, rtol=5e-5)


def write_gpt2(writer: Any, config: Any) -> None:
    writer.add_embedding_length(config.n_embd)
    writer.add_feed_forward_length(config.n_inner or 4 * config.n_embd)
    writer.add_head_count(config.n_head)
    writer.add_context_length(config.n_positions)
    writer.add_layer_norm_eps(config.layer_norm_epsilon)


def write_gpt_neox(writer: Any, config: Any) -> None:
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_context_length(config.max_position_embeddings)
    share, heads = config.rope_parameters["partial_rotary_factor"], config.num_attention_heads
    writer.add_rope_dimension_count(int(share * (config.hidden_size // heads)))
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_parallel_residual(config.use_parallel_residual)
    writer.add_layer_norm_eps(config.layer_norm_eps)


def converted(name: str, array: np.ndarray, heads: int) -> np.ndarray:
    """What llama.cpp's converter makes of GPT-2's Conv1D, and of GPT-NeoX's fused projections."""
    if name.endswith((".c_attn.weight", ".c_proj.weight", ".c_fc.weight")):
        return array.T
    if ".query_key_value." in name:
        by_head = array.reshape(heads, 3, -1, *array.shape[1:])
        return np.concatenate([by_head[:, part].reshape(-1, *array.shape[1:]) for part in range(3)])
    return array


def write_t5(writer: Any, config: Any) -> None:
    writer.add_embedding_length(config.d_model)
    writer.add_feed_forward_length(config.d_ff)
    writer.add_decoder_block_count(config.num_decoder_layers)
    writer.add_head_count(config.num_heads)
    writer.add_key_length(config.d_kv)
    writer.add_value_length(config.d_kv)
    writer.add_context_length(512)
    writer.add_layer_norm_eps(config.layer_norm_epsilon)
    writer.add_layer_norm_rms_eps(config.layer_norm_epsilon)
    writer.add_relative_attn_buckets_count(config.relative_attention_num_buckets)
    writer.add_decoder_start_token_id(config.decoder_start_token_id)


FURTHEST = {"relative_attention_max_distance": 128, "decoder_start_token_id": 0}  # the file does not store the first


@pytest.mark.parametrize(
    ("case", "changes", "architecture", "describe"),
    [
        ("gpt2", {}, "gpt2", write_gpt2),
        ("gpt2_untied_inner", {}, "gpt2", write_gpt2),
        ("gpt_neox", {}, "gptneox", write_gpt_neox),
        ("gpt_neox_serial", {"attention_bias": True, "hidden_act": "gelu"}, "gptneox", write_gpt_neox),
        *((case, FURTHEST, "t5", write_t5) for case in ("t5", "t5_gated", "umt5")),
    ],
)
def test_a_gguf_of_the_older_families_parity(case, changes, architecture, describe, tmp_path):
    network = CASES[case].pair(**changes).torch
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", architecture)
    writer.add_block_count(network.config.num_hidden_layers)
    describe(writer, network.config)
    kind = next(kind for kind, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture)
    names = gguf.get_tensor_name_map(kind, network.config.num_hidden_layers)
    for name, value in network.state_dict().items():
        tied = name == "lm_head.weight" and network.config.tie_word_embeddings
        if tied or (name.endswith("embed_tokens.weight") and architecture == "t5"):
            continue
        theirs = names.get_name(name, try_suffixes=(".weight", ".bias"))
        assert theirs is not None, name
        array = converted(name, value.numpy(), network.config.num_attention_heads)
        writer.add_tensor(theirs, np.ascontiguousarray(array))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    opened = load(str(tmp_path / "m.gguf"))
    ids, model = torch.tensor(TOKENS), build(opened.model_config)
    encoder = model.model_config.is_encoder_decoder
    ours, theirs = ({"encoder_tokens": TOKENS}, {"decoder_input_ids": ids}) if encoder else ({}, {})
    with torch.no_grad():
        expected = network(ids, **theirs).logits.numpy()
    found = tm.jit(lambda params: model.apply({"params": params}, jnp.asarray(TOKENS), **ours))(opened.params)
    np.testing.assert_allclose(found, expected, atol=5e-5, rtol=5e-5)


def test_factors_beside_another_scaling_are_refused(tmp_path):
    network = CASES["llama3_rope_one_kv_head"].pair().torch
    scaling = {"rope_scaling_type": gguf.RopeScalingType.LINEAR, "rope_scaling_factor": 2.0}
    write(tmp_path / "m.gguf", network, "llama", **scaling)
    with pytest.raises(UserError, match="both factors and another scaling"):
        load(str(tmp_path / "m.gguf"))
