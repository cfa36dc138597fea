"""The readers of files against the libraries that own the formats."""

import ml_dtypes
import numpy as np
import pytest

from prefix_jax.errors import UserError
from prefix_jax.models import from_hf, pretrained
from prefix_jax.models.leaves import from_array
from prefix_jax.models.model_config import LayerKind, Rotary
from prefix_jax.models.pretrained import gguf_file, loading, onnx_file, safetensors_file


def test_safetensors_both_ways(tmp_path):
    """safetensors' files are read here, ours are read there, and ours lie on 64-byte boundaries."""
    library = pytest.importorskip("safetensors.numpy")
    rng = np.random.default_rng(0)
    arrays = {
        "a": rng.normal(size=(3, 5)).astype(np.float32),
        "b": rng.normal(size=(16, 4)).astype(np.float32),
        "c": rng.integers(0, 9, (7,)).astype(np.int8),
        "d": rng.normal(size=(2, 2)).astype(np.float16),
        "e": np.array(3, np.float32),
        "f": np.zeros((0, 3), np.float32),
    }
    library.save_file(arrays, tmp_path / "theirs", metadata={"x": "y"})
    safetensors_file.write(tmp_path / "ours", {n: from_array(a) for n, a in arrays.items()}, {"x": "y"})
    back = library.load_file(tmp_path / "ours")
    for path in ("theirs", "ours"):
        table, metadata = safetensors_file.read(tmp_path / path)
        assert metadata == {"x": "y"}
        assert set(table) == set(arrays) == set(back)
        for name, array in arrays.items():
            for found in (table[name].all(), back[name]):
                assert found.dtype == array.dtype
                np.testing.assert_array_equal(found, array)
    table, _ = safetensors_file.read(tmp_path / "ours")
    assert table["b"].all().ctypes.data % 64 == 0
    half = {"h": from_array(arrays["b"].astype(ml_dtypes.bfloat16))}
    safetensors_file.write(tmp_path / "half", half, {})
    np.testing.assert_array_equal(safetensors_file.read(tmp_path / "half")[0]["h"].all(), half["h"].all())


@pytest.mark.parametrize("per_channel", [False, True])
def test_onnx_integer_product(per_channel):
    """A `MatMulInteger` names its parameter, per tensor and per channel; a `Gather` keeps the name it had."""
    onnx = pytest.importorskip("onnx")
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    q = rng.integers(-128, 128, (4, 6)).astype(np.int8)
    rows = rng.integers(0, 256, (5, 4)).astype(np.uint8)
    size = (6,) if per_channel else ()
    scale, zero = rng.random(size or 1).astype(np.float32), rng.integers(-5, 5, size or 1).astype(np.int8)
    scale, zero = scale.reshape(size), zero.reshape(size)
    arrays = {
        "onnx::MatMul_7_quantized": q,
        "onnx::MatMul_7_scale": scale,
        "onnx::MatMul_7_zero_point": zero,
        "m.tokens.weight_quantized": rows,
        "m.tokens.weight_scale": np.float32(0.25),
        "m.tokens.weight_zero_point": np.uint8(128),
        "m.norm.weight": np.ones(4, np.float32),
    }
    nodes = [
        helper.make_node("MatMulInteger", ["x", "onnx::MatMul_7_quantized"], ["y"], name="/m/block.0/q/MatMul_quant"),
        helper.make_node("Gather", ["m.tokens.weight_quantized", "i"], ["x"], name="/m/tokens/Gather"),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("i", TensorProto.INT64, [1])],
        [helper.make_tensor_value_info("y", TensorProto.INT32, [1, 6])],
        [numpy_helper.from_array(np.asarray(a), n) for n, a in arrays.items()],
    )
    table = onnx_file.read(helper.make_model(graph).SerializeToString(), "x.onnx")
    assert set(table) == {"m.block.0.q.weight", "m.tokens.weight", "m.norm.weight"}
    want = (q.astype(np.float32) - zero.astype(np.float32)) * scale
    np.testing.assert_array_equal(table["m.block.0.q.weight"].all(), want.T)
    np.testing.assert_array_equal(table["m.block.0.q.weight"].read((slice(1, 3), slice(0, 2))), want.T[1:3, :2])
    np.testing.assert_array_equal(table["m.tokens.weight"].all(), (rows.astype(np.float32) - 128) * np.float32(0.25))
    assert onnx.__version__


def test_onnx_damaged():
    from prefix_jax.errors import UserError

    with pytest.raises(UserError, match=r"x\.onnx is not an ONNX model"):
        onnx_file.read(b"\xff\xff not a graph", "x.onnx")


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3", "gemma3"])
def test_parity_small_gguf(architecture, tmp_path):
    """A GGUF written by gguf-py, Q8_0 and F16 in it, as transformers' own loader reads it, bit for bit."""
    gguf = pytest.importorskip("gguf")
    pytest.importorskip("torch")
    import transformers

    path = _small_gguf(gguf, architecture, tmp_path)
    config, table = gguf_file.read(path)
    model = transformers.AutoModelForCausalLM.from_pretrained(str(tmp_path), gguf_file=path.name)
    state = model.state_dict()
    assert set(table) | {"lm_head.weight"} == set(state)
    for name, leaf in table.items():
        np.testing.assert_array_equal(leaf.all(), state[name].float().numpy(), err_msg=name)
        index = tuple(slice(n // 4, n // 2) for n in leaf.shape)
        np.testing.assert_array_equal(leaf.read(index), leaf.all()[index], err_msg=name)
    theirs = model.config
    for key in ("hidden_size", "num_key_value_heads", "vocab_size", "intermediate_size", "tie_word_embeddings"):
        assert config[key] == getattr(theirs, key), key
    assert config["rms_norm_eps"] == pytest.approx(theirs.rms_norm_eps)
    rope = theirs.rope_parameters
    assert config["rope_theta"] == rope.get("full_attention", rope)["rope_theta"]


@pytest.mark.parametrize("name", ["file", "folder", "parts"])
def test_a_gguf_file_is_a_model(name, tmp_path):
    """A file, the folder that holds it, and the parts of a split model, with the tokenizer inside."""
    gguf = pytest.importorskip("gguf")
    path = _small_gguf(gguf, "llama", tmp_path, 7 if name == "parts" else 0)
    opened = pretrained.load(str(tmp_path if name == "folder" else path))
    _, table = gguf_file.read(path)
    tree = loading.flatten(opened.params)
    np.testing.assert_array_equal(tree["embedding/tokens"], table["model.embed_tokens.weight"].all())
    np.testing.assert_array_equal(tree["layers/mlp/up/kernel"][1], table["model.layers.1.mlp.up_proj.weight"].all().T)
    assert opened.tokenizer.convert_tokens_to_ids("t3") == 3
    assert opened.tokenizer_key


def test_the_words_of_a_gguf_file_with_a_damaged_vocabulary(tmp_path):
    gguf = pytest.importorskip("gguf")
    path = _small_gguf(gguf, "llama", tmp_path)
    path.write_bytes(path.read_bytes().replace(b"\x03\0\0\0\0\0\0\0t 0", b"\x03\0\0\0\0\0\0\0t x"))
    opened = pretrained.load(str(path))
    with pytest.raises(UserError, match=r"small.gguf cannot be read .*tokenizer.json"):
        _ = opened.tokenizer


def test_a_gguf_part_that_is_missing_is_named(tmp_path):
    gguf = pytest.importorskip("gguf")
    path = _small_gguf(gguf, "llama", tmp_path, 7)
    missing = sorted(tmp_path.glob("*.gguf"))[1]
    missing.unlink()
    with pytest.raises(UserError, match=missing.name):
        pretrained.load(str(path))


def test_several_gguf_files_in_a_folder_are_named(tmp_path):
    for name in ("a-Q4_0.gguf", "a-Q8_0.gguf"):
        (tmp_path / name).write_bytes(b"GGUF")
    with pytest.raises(UserError, match=r"2 GGUF files \(a-Q4_0.gguf, a-Q8_0.gguf\); name one"):
        pretrained.load(str(tmp_path))


def test_rotary_frequencies_of_a_gguf_are_divided_by_its_factors(tmp_path):
    """llama.cpp stores Llama 3's scaling as a tensor, which says nothing where all factors are 1."""
    gguf = pytest.importorskip("gguf")
    plain = _small_gguf(gguf, "llama", tmp_path, factors=(1.0,) * 8)
    assert from_hf(gguf_file.read(plain)[0]).layer_pattern == (LayerKind(None, Rotary(5e4)),) * 2
    factors = (1.0,) * 4 + (8.0,) * 4
    scaled = _small_gguf(gguf, "llama", tmp_path, factors=factors)
    rotary = Rotary(5e4, ("longrope", 1.0, *factors))
    assert from_hf(gguf_file.read(scaled)[0]).layer_pattern == (LayerKind(None, rotary),) * 2


def test_word_rules_of_gguf_files_are_those_of_transformers():
    import inspect

    from transformers.convert_slow_tokenizer import TikTokenConverter
    from transformers.models.qwen2 import tokenization_qwen2

    from prefix_jax.models.pretrained import tokenizers

    pattern = inspect.signature(TikTokenConverter).parameters["pattern"].default
    assert tokenizers._WORD_RULES["llama-bpe"] == (pattern,)
    assert tokenizers._WORD_RULES["qwen2"] == (tokenization_qwen2.PRETOKENIZE_REGEX,)


def _small_gguf(gguf, architecture, directory, tensors_a_file=0, factors=()):
    rng = np.random.default_rng(0)
    path = directory / "small.gguf"
    writer = gguf.GGUFWriter(path, architecture, split_max_tensors=tensors_a_file)
    e, f, heads, keys, vocab = 64, 96, 4, 2, 70
    writer.add_name("small")
    for add, value in (
        (writer.add_block_count, 2),
        (writer.add_embedding_length, e),
        (writer.add_feed_forward_length, f),
        (writer.add_head_count, heads),
        (writer.add_head_count_kv, keys),
        (writer.add_context_length, 128),
        (writer.add_layer_norm_rms_eps, 1e-5),
        (writer.add_rope_freq_base, 5e4),
        (writer.add_vocab_size, vocab),
        (writer.add_tokenizer_model, "gpt2"),
        (writer.add_token_list, [*(f"t{i}" for i in range(vocab - 2)), "t", "0"]),
        (writer.add_token_types, [1] * vocab),
        (writer.add_token_merges, ["t 0"]),
        (writer.add_bos_token_id, 1),
        (writer.add_eos_token_id, 2),
    ):
        add(value)
    head, more = e // heads, {}
    if architecture in ("qwen3", "gemma3"):
        head = 128 if architecture == "qwen3" else head  # transformers takes Qwen3's for granted
        writer.add_key_length(head)
        more = {"attn_q_norm": (head,), "attn_k_norm": (head,)}
    if architecture == "gemma3":
        writer.add_sliding_window(32)
        more |= {"post_attention_norm": (e,), "post_ffw_norm": (e,)}
    shapes = {"token_embd": (vocab, e), "output_norm": (e,)}
    for i in range(2):
        q, kv = head * heads, head * keys
        for name, shape in {
            "attn_norm": (e,), "ffn_norm": (e,), "attn_q": (q, e), "attn_k": (kv, e), "attn_v": (kv, e),
            "attn_output": (e, q), "ffn_gate": (f, e), "ffn_up": (f, e), "ffn_down": (e, f), **more,
        }.items():  # fmt: skip
            shapes[f"blk.{i}.{name}"] = shape
    kinds = gguf.GGMLQuantizationType
    for name, shape in shapes.items():
        data = rng.normal(size=shape).astype(np.float32)
        if len(shape) == 1:
            writer.add_tensor(f"{name}.weight", data)
        else:
            kind = kinds.Q8_0 if "attn" in name else kinds.F16
            writer.add_tensor(f"{name}.weight", gguf.quants.quantize(data, kind), raw_dtype=kind)
        if architecture == "qwen2" and name[-2:] in ("_q", "_k", "_v"):
            writer.add_tensor(f"{name}.bias", rng.normal(size=shape[:1]).astype(np.float32))
    if factors:
        writer.add_tensor("rope_freqs.weight", np.array(factors, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return next(iter(sorted(directory.glob("small*.gguf"))))
