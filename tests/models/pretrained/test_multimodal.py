"""Multimodal checkpoints: their language model has transformers' logits of text alone, and what is left out is said."""

import json
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from prefix_jax.errors import UserError
from prefix_jax.models import build
from prefix_jax.models.pretrained import load, multimodal
from tests.models import torch_models as tm
from tests.models.torch_models import torch, transformers

TEXT = dict(
    vocab_size=61, hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, head_dim=8, max_position_embeddings=64,
)  # fmt: skip
MROPE: dict[str, Any] = {
    **TEXT,
    "rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 50.0},
}
MROPE6 = {**MROPE, "head_dim": 6, "rope_parameters": {**MROPE["rope_parameters"], "mrope_section": [1, 1, 1]}}
CLIP = dict(
    hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=8, patch_size=4
)
QWEN = dict(depth=1, num_heads=2, patch_size=4)
QWEN3 = dict(hidden_size=16, out_hidden_size=24, intermediate_size=16, **QWEN)
# By the name of transformers' classes: text, vision, more.
MODELS: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "Gemma3": (TEXT, CLIP, dict(mm_tokens_per_image=4, boi_token_index=58, eoi_token_index=59)),
    "Llava": (TEXT | {"model_type": "llama"}, CLIP | {"model_type": "clip_vision_model"}, {}),
    "Mistral3": (TEXT | {"model_type": "mistral"}, CLIP | {"model_type": "pixtral", "head_dim": 8}, {}),
    "Qwen2VL": (MROPE6, dict(embed_dim=16, hidden_size=24, **QWEN), {}),
    "Qwen2_5_VL": (MROPE6, QWEN3, dict(tie_word_embeddings=True)),
    "Qwen3VL": (MROPE, QWEN3 | {"deepstack_visual_indexes": [0]}, {}),
}
TOKENS = np.arange(3, 15)[None]


def saved(name: str, folder):
    text, vision, more = MODELS[name]
    make = getattr(transformers, f"{name}Config")
    image = "image_token_id" if name.startswith("Qwen") else "image_token_index"
    config = make(text_config=text, vision_config=vision, **{image: 60}, **more)
    network = tm._random(getattr(transformers, f"{name}ForConditionalGeneration")(config))
    network.save_pretrained(folder)
    return network


@pytest.mark.parametrize("name", MODELS)
def test_the_language_model_of_a_multimodal_model_parity(name, tmp_path, capsys):
    network = saved(name, tmp_path)
    opened = load(str(tmp_path))
    said = [line for line in capsys.readouterr().err.splitlines() if "is left out" in line]
    assert len(said) == 1 and ("vision_tower" in said[0] or "visual" in said[0])
    with torch.no_grad():
        expected = network(input_ids=torch.tensor(TOKENS)).logits.numpy()
    model = build(opened.model_config)
    found = tm.jit(lambda params: model.apply({"params": params}, jnp.asarray(TOKENS)))(opened.params)
    np.testing.assert_allclose(found, expected, atol=2e-5, rtol=2e-5)


def test_older_files_have_the_options_of_the_language_model_at_the_top(tmp_path):
    saved("Qwen2VL", tmp_path)
    expected = load(str(tmp_path))
    file = tmp_path / "config.json"
    config = json.loads(file.read_text())
    text = {**config["text_config"], "rope_scaling": {"type": "mrope", "mrope_section": [1, 1, 2]}, "rope_theta": 50.0}
    del text["rope_parameters"], config["text_config"]
    file.write_text(json.dumps({**text, **config}))
    assert load(str(tmp_path)).model_config == expected.model_config
    assert load(str(tmp_path)).identity["weights"] == expected.identity["weights"]


@pytest.mark.parametrize("name", sorted(multimodal._DEFAULTS))
def test_options_that_a_file_leaves_out_are_those_of_transformers(name):
    theirs = transformers.AutoConfig.for_model(name).to_dict()
    assert {option: theirs[option] for option in multimodal._DEFAULTS[name]} == multimodal._DEFAULTS[name]


def test_a_multimodal_model_of_another_kind_is_refused_by_name():
    with pytest.raises(UserError, match=r'multimodal model of model_type "mllama" .* gemma3, llava'):
        multimodal.language_part({"model_type": "mllama", "text_config": {}}, {})
