"""LoRA and prompts in PEFT's form: PEFT's own models give our logits, either way."""

import copy
import functools
import json

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from prefix_jax import inference
from prefix_jax.convert import convert
from prefix_jax.errors import UserError
from prefix_jax.tuning import TunedState, store
from prefix_jax.tuning.formats import peft_lora
from tests import tiny
from tests.models import torch_models as tm
from tests.models.torch_models import torch
from tests.parity import adapters
from tests.parity.cases import named, params
from tests.tuning.test_files import GPT2, IDENTITY, LLAMA, T5, make

lib = pytest.importorskip("peft")

CASES = named("lora")
ALL_OF_PEFT = {
    "gpt_neox": ["query_key_value", "attention.dense", "dense_h_to_4h", "dense_4h_to_h"],
    "gpt2": ["c_attn", "attn.c_proj", "c_fc", "mlp.c_proj"],
    "codegen": ["qkv_proj", "out_proj", "fc_in", "fc_out"],
    "phi3": ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"],
    "glm4": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_up_proj", "down_proj"],
    "t5": ["q", "k", "v", "o", "wi", "wo"],
    "t5_gated": ["q", "k", "v", "o", "wi_0", "wi_1", "wo"],
    "bart": ["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"],
}
LLAMAS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@functools.cache
def pair_of(name: str) -> tm.Pair:
    case = CASES[name]
    return case.pair(**case.lora)


def config_of(pair, folder) -> str:
    folder.mkdir(exist_ok=True)
    pair.torch.config.save_pretrained(folder)
    return str(folder)


def saved(folder, pair, collections) -> str:
    store.save(
        folder / "tuned",
        TunedState(None, collections),
        {"name": "a/model"},
        pair.model_config,
        {"method": "lora", "step": 1},
    )
    return str(folder)


@pytest.mark.parametrize(
    ("name", "targets"),
    [
        *params(CASES, "all"),
        ("gpt2", "query,value"), ("gpt2", "value"), ("qwen2", "query,value"), ("mistral_window", "key,down"),
        ("qwen3", "query,out"), ("gpt_neox", "query,value"), ("codegen", "key"), ("phi3", "value,gate"),
        ("t5", "query,value"),
    ],
)  # fmt: skip
def test_lora_export_parity(name, targets, tmp_path):
    pair = pair_of(name)
    expected, found = adapters.with_lora(pair, tmp_path, targets)
    assert np.abs(expected - adapters.theirs(pair, pair.torch)).max() > 1e-2
    np.testing.assert_allclose(found, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", params(CASES))
def test_lora_goes_to_peft_and_back_bit_for_bit(name, tmp_path):
    pair = pair_of(name)
    tree = adapters.random_lora(pair, "all")
    convert(saved(tmp_path, pair, {"lora": tree}), "peft", str(tmp_path / "peft"))
    convert(str(tmp_path / "peft"), "prefix_jax", str(tmp_path / "again"), model=config_of(pair, tmp_path / "base"))
    kept, _ = store.load(tmp_path / "again", pair.model_config)
    jax.tree.map(np.testing.assert_array_equal, kept.collections["lora"], tree)


OPTIONS = {
    "plain": dict(r=4, lora_alpha=12),
    "rslora": dict(r=4, lora_alpha=3, use_rslora=True),
    "some layers": dict(r=4, layers_to_transform=[1]),
    "patterns": dict(r=4, lora_alpha=6, patterns=True),
}


@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("gpt2", "patterns"),
        ("llama_head_dim", "rslora"),
        ("qwen2", "plain"),
        ("gpt_neox", "plain"),
        ("codegen", "plain"),
        ("phi3", "plain"),
        ("glm4", "plain"),
        ("t5", "some layers"),
        ("bart", "patterns"),
    ],
)
def test_lora_import_parity(name, option, tmp_path):
    pair = pair_of(name)
    options = dict(OPTIONS[option])
    modules = ALL_OF_PEFT.get(name, LLAMAS)
    if options.pop("patterns", False):
        options |= dict(rank_pattern={modules[0]: 2}, alpha_pattern={modules[-1]: 5, modules[0]: 1})
    config = lib.LoraConfig(
        target_modules=modules, fan_in_fan_out=name == "gpt2", init_lora_weights=False,
        task_type="SEQ_2_SEQ_LM" if pair.model_config.is_encoder_decoder else "CAUSAL_LM", **options,
    )  # fmt: skip
    torch.manual_seed(0)
    model = lib.get_peft_model(copy.deepcopy(pair.torch), config)
    model.save_pretrained(tmp_path / "peft")
    convert(str(tmp_path / "peft"), "prefix_jax", str(tmp_path / "ours"), model=config_of(pair, tmp_path / "base"))
    kept, meta = store.load(tmp_path / "ours", pair.model_config, {"name": "x", "spec": "1", "weights": "2"})
    assert meta["config"]["method"] == "lora"
    found = adapters.ours(pair, kept.collections)
    assert np.abs(found - adapters.theirs(pair, pair.torch)).max() > 1e-2
    np.testing.assert_allclose(found, adapters.theirs(pair, model), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("gpt2", "P_TUNING"), ("llama_head_dim", "PROMPT_TUNING"), ("t5", "PROMPT_TUNING"), ("bart", "P_TUNING"),
        ("m2m_100", "P_TUNING"), ("granite", "PROMPT_TUNING"),
    ],
)  # fmt: skip
def test_prompt_import_parity(name, kind, tmp_path):
    pair = pair_of(name)
    task = dict(task_type="SEQ_2_SEQ_LM" if pair.model_config.is_encoder_decoder else "CAUSAL_LM", num_virtual_tokens=4)
    if kind == "P_TUNING":
        config = lib.PromptEncoderConfig(**task, encoder_hidden_size=8, encoder_reparameterization_type="MLP")
    else:
        config = lib.PromptTuningConfig(**task)
    torch.manual_seed(0)
    model = lib.get_peft_model(copy.deepcopy(pair.torch), config)
    model.save_pretrained(tmp_path / "peft")
    convert(str(tmp_path / "peft"), "prefix_jax", str(tmp_path / "ours"), model=config_of(pair, tmp_path / "base"))
    kept, _ = store.load(tmp_path / "ours", pair.model_config)
    assert kept.reserved == 4
    np.testing.assert_allclose(
        adapters.ours(pair, kept.collections, 4), adapters.theirs(pair, model, 4), atol=1e-4, rtol=1e-4
    )


@pytest.mark.parametrize("name", params(CASES))
def test_prompt_export_parity(name, tmp_path):
    expected, found = adapters.with_prompt(pair_of(name), tmp_path)
    np.testing.assert_allclose(found, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["pegasus", "marian", "blenderbot_small"])
def test_a_prompt_whose_text_peft_embeds_otherwise_is_refused(name, tmp_path):
    """Their encoders scale the embeddings of tokens, and not those that PEFT gives them in place of tokens."""
    pair = CASES[name].pair(scale_embedding=True)
    with pytest.raises(UserError, match="scale_embedding"):
        adapters.with_prompt(pair, tmp_path)
    pair.torch.requires_grad_(True)
    task = dict(task_type="SEQ_2_SEQ_LM", num_virtual_tokens=4)
    lib.get_peft_model(pair.torch, lib.PromptTuningConfig(**task)).save_pretrained(tmp_path / "theirs")
    with pytest.raises(UserError, match="scale_embedding"):
        base = config_of(pair, tmp_path / "base")
        convert(str(tmp_path / "theirs"), "prefix_jax", str(tmp_path / "ours"), model=base)


def adapter(folder, change=None, tensors=None, model_config=GPT2):
    """A LoRA of PEFT's form on the query and value of `model_config`, with some of its configuration changed."""
    shapes = {"query": (4, 1, 3), "value": (4, 1, 3)}
    tree = {"layers": {"attention": {"qkv": {
        part: {"a": np.ones((3, 12, 2), np.float32), "b": np.ones((3, 2, *outputs), np.float32)}
        for part, outputs in shapes.items()
    }}}}  # fmt: skip
    folder.mkdir()
    for name, content in peft_lora.encode(tree, model_config, {"name": "gpt2"}).items():
        (folder / name).write_bytes(content)
    file = folder / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **(change or {})}))
    weights = folder / "adapter_model.safetensors"
    save_file({**load_file(weights), **(tensors or {})}, weights)
    return str(folder)


BASE = dict(model_type="gpt2", vocab_size=50, n_layer=3, n_embd=12, n_head=4, n_positions=32, n_inner=16)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"use_dora": True}, "DoRA"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"bias": "all"}, "biases"),
        ({"lora_bias": True}, "lora_bias"),
        ({"layer_replication": [[0, 2]]}, "layer_replication"),
        ({"trainable_token_indices": [1]}, "trainable_token_indices"),
        ({"target_parameters": ["x"]}, "target_parameters"),
        ({"init_lora_weights": "pissa"}, "path_initial_model_for_weight_conversion"),
        ({"r": 5}, "r=5"),
        ({"peft_type": "IA3"}, "IA3"),
        ({"peft_type": "LOHA"}, "LOHA"),
    ],
)
def test_what_lora_here_cannot_express_is_refused_by_name(change, words, tmp_path):
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "config.json").write_text(json.dumps(BASE))
    folder = adapter(tmp_path / "peft", change)
    with pytest.raises(UserError, match=words):
        convert(folder, "prefix_jax", str(tmp_path / "out"), model=str(tmp_path / "base"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("base_model.model.transformer.wte.lora_embedding_A", "would be lost"),
        ("base_model.model.transformer.h.0.attn.c_attn.lora_magnitude_vector.weight", "DoRA"),
        ("base_model.model.lm_head.weight", "would be lost"),
        ("base_model.model.transformer.h.0.attn.c_fc.lora_A.weight", "no two matrices"),
    ],
)
def test_tensors_that_would_be_lost_are_named(name, words, tmp_path):
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "config.json").write_text(json.dumps(BASE))
    folder = adapter(tmp_path / "peft", tensors={name: np.ones((2, 12), np.float32)})
    with pytest.raises(UserError, match=words):
        convert(folder, "prefix_jax", str(tmp_path / "out"), model=str(tmp_path / "base"))


def test_an_adapter_of_another_model_is_refused(tmp_path):
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "config.json").write_text(json.dumps(BASE | {"n_embd": 24}))
    with pytest.raises(UserError, match="--model"):
        convert(adapter(tmp_path / "peft"), "prefix_jax", str(tmp_path / "out"), model=str(tmp_path / "base"))


def test_several_things_tuned_together_have_no_format_in_common(tmp_path):
    tree = {"layers": {"attention": {"out": {"a": np.ones((3, 12, 2)), "b": np.ones((3, 2, 12))}}}}
    store.save(tmp_path / "tuned", TunedState(make(GPT2), {"lora": tree}), IDENTITY, GPT2, {"step": 1})
    with pytest.raises(UserError, match="prefix and lora"):
        convert(str(tmp_path), "peft", str(tmp_path / "out"))


@pytest.mark.parametrize(("collection", "words"), [("adapter", "bottleneck"), ("tuned", "fine-tuned")])
def test_what_has_no_other_format_is_named(collection, words, tmp_path):
    store.save(tmp_path / "tuned", TunedState(None, {collection: {"x": np.ones(3)}}), IDENTITY, T5, {"step": 1})
    with pytest.raises(UserError, match=words):
        convert(str(tmp_path), "peft", str(tmp_path / "out"))


@pytest.mark.parametrize("target", ["adapters", "original"])
def test_formats_of_prefixes_hold_no_lora(target, tmp_path):
    tree = {"layers": {"attention": {"out": {"a": np.ones((3, 12, 2)), "b": np.ones((3, 2, 12))}}}}
    store.save(tmp_path / "tuned", TunedState(None, {"lora": tree}), IDENTITY, LLAMA, {"step": 1})
    with pytest.raises(UserError, match="use --to peft"):
        convert(str(tmp_path), target, str(tmp_path / "out"))


def test_text_comes_of_an_adapter_that_peft_wrote(tiny_models, tmp_path):
    import transformers

    source = tiny_models["gpt2"]
    base = transformers.AutoModelForCausalLM.from_pretrained(source)
    config = lib.LoraConfig(
        target_modules=["c_attn"], fan_in_fan_out=True, init_lora_weights=False, task_type="CAUSAL_LM"
    )
    lib.get_peft_model(base, config).save_pretrained(tmp_path / "peft")
    convert(str(tmp_path / "peft"), "prefix_jax", str(tmp_path / "ours"))
    overrides = {"decoding.strategy": "greedy", "decoding.max_length": 4}
    tuned = inference.open_tuned(tmp_path / "ours", overrides)
    merged = inference.with_merged_lora(tuned)
    sources = [tiny.rows(1)[0]["source"]]
    texts = [inference.write_texts(t.session, t.kept, sources, progress=False) for t in (tuned, merged)]
    assert texts[0] == texts[1]
    with pytest.raises(UserError, match="n_heads|heads|d_model|family"):
        inference.open_tuned(tmp_path / "ours", {"model.source": str(tiny_models["llama"])})
