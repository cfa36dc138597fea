"""What a checkpoint's settings and files say beyond the usual: taken as transformers takes it, or refused."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from prefix_jax.decoding import GenerationConfig, decode_all
from prefix_jax.errors import UserError
from prefix_jax.models import build, from_hf, pretrained

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
safetensors = pytest.importorskip("safetensors.torch")

VOCAB, LENGTH = 150, 9
IDS = dict(pad_token_id=0, eos_token_id=1, bos_token_id=2)
LLAMA = dict(
    vocab_size=VOCAB, hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=64, tie_word_embeddings=False, **IDS,
)  # fmt: skip
T5 = dict(
    vocab_size=VOCAB, d_model=16, d_kv=8, d_ff=20, num_layers=2, num_heads=2, pad_token_id=0, eos_token_id=1,
    decoder_start_token_id=0,
)  # fmt: skip
BART = dict(
    vocab_size=VOCAB, d_model=16, encoder_layers=2, decoder_layers=2, encoder_attention_heads=2,
    decoder_attention_heads=2, encoder_ffn_dim=20, decoder_ffn_dim=24, max_position_embeddings=40,
    decoder_start_token_id=1, **IDS,
)  # fmt: skip


def saved(folder: Path, family: str, config: dict, settings: dict | None = None, weights: Callable | None = None):
    """Writes a random model, changes its `config.json` and its tensors, and returns what transformers opens."""
    torch.manual_seed(0)
    auto = transformers.AutoModelForSeq2SeqLM if "d_model" in config else transformers.AutoModelForCausalLM
    model = auto.from_config(transformers.AutoConfig.for_model(family, **config))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.4)
    model.save_pretrained(folder)
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **(settings or {})}))
    if weights is not None:
        tensors = safetensors.load_file(folder / "model.safetensors")
        weights(tensors)
        safetensors.save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return auto.from_pretrained(folder, attn_implementation="eager").eval()


def ours(folder: Path):
    loaded = pretrained.load(str(folder))
    return build(loaded.model_config), {"params": loaded.params}


def another_head(tensors: dict) -> None:
    """Differs from the embedding behind its first rows only."""
    name = next(name for name in tensors if name.endswith(("embed_tokens.weight", "shared.weight")))
    tensors["lm_head.weight"] = tensors[name].clone()
    tensors["lm_head.weight"][VOCAB // 2 :] += 1.0


LINEAR = {"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0}
WINDOW = dict(use_sliding_window=True, sliding_window=4)
TAKEN = {
    "mt5_never_scales": ("mt5", T5, None, None),
    "t5_head_of_its_own": ("t5", {**T5, "feed_forward_proj": "gated-gelu"}, None, another_head),
    "llama_head_of_its_own": ("llama", {**LLAMA, "tie_word_embeddings": True}, None, another_head),
    "scaling_beside_parameters": ("llama", LLAMA, {"rope_scaling": LINEAR}, None),
    "theta_beside_parameters": ("llama", LLAMA, {"rope_theta": 500.0}, None),
    "layer_types_all_sliding": (
        "qwen2", LLAMA,
        dict(WINDOW, max_window_layers=28, layer_types=["sliding_attention"] * 2), None,
    ),
    "layer_types_all_full": (
        "qwen2", LLAMA,
        dict(WINDOW, max_window_layers=0, layer_types=["full_attention"] * 2), None,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", TAKEN)
def test_settings_parity(case, tmp_path):
    family, config, settings, weights = TAKEN[case]
    network = saved(tmp_path, family, config, settings, weights)
    model, variables = ours(tmp_path)
    tokens = np.random.default_rng(1).integers(3, VOCAB, (2, LENGTH))
    if model.model_config.is_encoder_decoder:
        with torch.no_grad():
            expected = network(input_ids=torch.tensor(tokens), decoder_input_ids=torch.tensor(tokens)).logits
        found = model.apply(variables, tokens, encoder_tokens=tokens)
    else:
        with torch.no_grad():
            expected = network(input_ids=torch.tensor(tokens)).logits
        found = model.apply(variables, tokens)
    np.testing.assert_allclose(found, expected.numpy(), atol=2e-5 * float(expected.abs().max()))


def another_encoder(tensors: dict) -> None:
    tensors["encoder.embed_tokens.weight"] = tensors["shared.weight"] + 1.0


REFUSED = {
    "bart_untied": ("bart", {**BART, "tie_word_embeddings": False}, None, None, "embed_tokens.weight"),
    "t5_encoder": ("t5", T5, None, another_encoder, "encoder.embed_tokens.weight"),
    "activation": ("t5", {**T5, "feed_forward_proj": "gated-gelu"}, {"dense_act_fn": "silu"}, None, "dense_act_fn"),
}  # fmt: skip


def test_an_unknown_rotary_scaling_is_refused():
    config = {"model_type": "qwen2", **LLAMA, "rope_scaling": {**LINEAR, "rope_type": "ntk"}}
    with pytest.raises(UserError, match='rotary scaling "ntk" is not supported'):
        from_hf(config)


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_here_is_refused(case, tmp_path):
    family, config, settings, weights, words = REFUSED[case]
    saved(tmp_path, family, config, settings, weights)
    with pytest.raises(UserError, match=words):
        pretrained.load(str(tmp_path))


def test_a_directory_without_a_tokenizer_is_refused(tmp_path):
    """transformers would invent one that knows no words."""
    saved(tmp_path, "bart", BART)
    with pytest.raises(UserError, match="has no tokenizer; copy its tokenizer.json there"):
        pretrained.open_checkpoint(str(tmp_path)).tokenizer.read()


@pytest.mark.parametrize("strategy", [dict(strategy="greedy"), dict(strategy="beam", beams=3)], ids=["greedy", "beam"])
def test_every_end_token_ends_a_text_parity(strategy, tmp_path):
    """Of `generation_config.json`, whose list goes before the `config.json`'s one."""
    network = saved(tmp_path, "llama", LLAMA)
    prompt, count = [5, 9, 20, 33], 14
    inputs = dict(input_ids=torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt), dtype=torch.long))
    limits = dict(max_new_tokens=count, do_sample=False, num_beams=strategy.get("beams", 1))
    network.generation_config.eos_token_id = None
    for end in network.generate(**inputs, **limits)[0, len(prompt) + 2 :].tolist():
        network.generation_config.eos_token_id = [VOCAB - 1, end]
        expected = network.generate(**inputs, **limits)[0, len(prompt) :].tolist()
        if expected[-1] == end and len(expected) < count:
            break
    else:
        pytest.fail("no text of this network ends early")
    (tmp_path / "generation_config.json").write_text(json.dumps({**IDS, "eos_token_id": [VOCAB - 1, end]}))
    model, variables = ours(tmp_path)
    assert model.model_config.eos_ids == (VOCAB - 1, end)
    (found,) = decode_all(model, variables, None, [prompt], GenerationConfig(max_length=count, **strategy), 1)
    assert found == expected[:-1]
