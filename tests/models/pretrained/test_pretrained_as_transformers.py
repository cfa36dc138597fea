"""What transformers opens we open, with its logits; what we cannot open is refused with its cause."""

import functools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from prefix_jax.errors import UserError
from prefix_jax.models import build
from prefix_jax.models.pretrained import Pretrained, load
from tests.models import torch_models as tm

torch = pytest.importorskip("torch")
hf = pytest.importorskip("transformers")

_DECODER = dict(vocab_size=67, hidden_size=24, intermediate_size=40, num_hidden_layers=2, max_position_embeddings=64)
_HEADS = dict(num_attention_heads=4, num_key_value_heads=2, pad_token_id=0)
_T5 = dict(vocab_size=67, d_model=24, d_kv=8, d_ff=32, num_layers=2, num_heads=3, pad_token_id=0)
_BART = dict(vocab_size=67, d_model=24, encoder_layers=2, decoder_layers=2, max_position_embeddings=64)
_BART |= {
    f"{side}_{name}": n for side in ("encoder", "decoder") for name, n in (("attention_heads", 4), ("ffn_dim", 32))
}
CONFIGS: dict[str, dict[str, Any]] = {
    "GPT2": dict(vocab_size=67, n_layer=2, n_embd=24, n_head=4, n_positions=64, pad_token_id=0),
    "Llama": {**_DECODER, **_HEADS, "tie_word_embeddings": True},
    "Mistral": {**_DECODER, **_HEADS, "tie_word_embeddings": True},
    "Qwen2": {**_DECODER, **_HEADS, "tie_word_embeddings": True},
    "T5": {**_T5, "decoder_start_token_id": 0},
    "Bart": _BART,
}
IDS = np.arange(5, 17)


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Callable[[str, Path], str]:
    """Copies the family's saved model to a folder."""
    folders: dict[str, Path] = {}

    def copy(family: str, folder: Path) -> str:
        if family not in folders:
            folders[family] = tmp_path_factory.mktemp(family)
            whole(family).save_pretrained(folders[family])
        shutil.copytree(folders[family], folder, dirs_exist_ok=True)
        return identity(folders[family])

    return copy


@functools.cache
def identity(folder: Path) -> str:
    return load(str(folder)).identity["weights"]


@functools.cache
def _random(family: str, options: str) -> Any:
    return _made(family, **json.loads(options))


def whole(family: str, **options: Any) -> Any:
    """transformers' model that gives words, with random weights; not to be written to."""
    return _random(family, json.dumps(options))


def _made(family: str, **options: Any) -> Any:
    torch.manual_seed(0)
    config = getattr(hf, f"{family}Config")(**{**CONFIGS[family], **options})
    model = getattr(hf, _class(family))(config).eval()
    with torch.no_grad():
        for value in model.parameters():
            value.copy_(torch.randn(value.shape) * 0.1)
    return model


def _class(family: str) -> str:
    return {"GPT2": "GPT2LMHeadModel"}.get(
        family, f"{family}For{'ConditionalGeneration' if family in ('T5', 'Bart') else 'CausalLM'}"
    )


def rewrite(folder: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Writes the folder's tensors anew."""
    from safetensors.torch import load_file, save_file

    file = folder / "model.safetensors"
    save_file(change(load_file(file)), file, {"format": "pt"})


def edit(folder: Path, **options: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **options}))


def theirs(folder: Path, family: str) -> np.ndarray:
    model = getattr(hf, _class(family)).from_pretrained(folder, dtype=torch.float32).eval()
    return torch_logits(model)


def torch_logits(model: Any) -> np.ndarray:
    ids = torch.tensor(IDS)[None]
    more = {"decoder_input_ids": ids[:, :7]} if model.config.is_encoder_decoder else {}
    with torch.no_grad():
        return model(input_ids=ids, **more).logits[0].numpy()


def ours(opened: Pretrained, **variables: Any) -> np.ndarray:
    """Our logits, with collections beside the weights."""
    all_of = {"params": opened.params, **variables}
    return np.asarray(_logits(opened.model_config)(all_of))


@functools.cache
def _logits(model_config: Any) -> Callable[[Any], Any]:
    return tm.jit(functools.partial(_apply, build(model_config)))


def _apply(model: Any, all_of: Any) -> Any:
    ids = jnp.asarray(IDS)[None]
    if not model.model_config.is_encoder_decoder:
        return model.apply(all_of, ids)[0]
    memory = model.apply(all_of, ids, jnp.ones(ids.shape, jnp.int32), method="encode")
    cross = model.apply(all_of, memory, method="cross_key_values")
    mask, target = jnp.ones(ids.shape, bool), ids[:, :7]
    hidden, _ = model.apply(all_of, target, jnp.arange(7), cross, mask, method="decode")
    return model.apply(all_of, hidden, method="logits")[0]


def assert_as_transformers(folder: Path, family: str) -> None:
    np.testing.assert_allclose(ours(load(str(folder))), theirs(folder, family), atol=1e-4, rtol=0)


@pytest.mark.parametrize("family", CONFIGS)
def test_a_model_saved_without_its_head_opens_as_in_transformers(family, tmp_path, capfd):
    model = whole(family)
    base = getattr(hf, f"{family}Model")(model.config)
    base.load_state_dict({n: v for n, v in model.base_model.state_dict().items()} if family != "T5" else
                         {n: v for n, v in model.state_dict().items() if n != "lm_head.weight"})  # fmt: skip
    base.save_pretrained(tmp_path)
    assert_as_transformers(tmp_path, family)
    assert "checkpoint" not in capfd.readouterr().err


OTHER_HEADS = {
    "GPT2": ["GPT2ForSequenceClassification", "GPT2DoubleHeadsModel", "GPT2ForTokenClassification",
             "GPT2ForQuestionAnswering"],
    "Llama": ["LlamaForSequenceClassification", "LlamaForQuestionAnswering", "LlamaForTokenClassification"],
    "Mistral": ["MistralForSequenceClassification", "MistralForQuestionAnswering"],
    "Qwen2": ["Qwen2ForSequenceClassification", "Qwen2ForTokenClassification"],
    "T5": ["T5ForSequenceClassification", "T5ForQuestionAnswering"],
    "Bart": ["BartForSequenceClassification", "BartForQuestionAnswering"],
}  # fmt: skip


@pytest.mark.parametrize(("family", "kind"), [(f, kind) for f, kinds in OTHER_HEADS.items() for kind in kinds])
def test_a_model_saved_with_another_head_opens_and_says_so(family, kind, tmp_path, capfd):
    model = getattr(hf, kind)(getattr(hf, f"{family}Config")(**CONFIGS[family], num_labels=3)).eval()
    model.save_pretrained(tmp_path)
    opened = load(str(tmp_path))
    said = [line for line in capfd.readouterr().err.splitlines() if "another head" in line]
    assert len(said) == 1
    base = getattr(hf, _class(family))(model.config).eval()
    inner = model.transformer if hasattr(model, "transformer") else model.model if hasattr(model, "model") else model
    target = base if family == "T5" else base.base_model
    missing, _ = target.load_state_dict(inner.state_dict(), strict=False)
    assert not [name for name in missing if "lm_head" not in name]
    base.tie_weights()
    np.testing.assert_allclose(ours(opened), torch_logits(base), atol=1e-4, rtol=0)


EXTRA = (
    "score.weight",
    "v_head.summary.weight",
    "qa_outputs.bias",
    "classification_head.dense.weight",
    "reward_head.w",
)


@pytest.mark.parametrize(("family", "extra"), zip(CONFIGS, (*EXTRA, "classifier.weight"), strict=True))
def test_a_head_beside_the_weights_is_left_out(family, extra, saved, tmp_path, capfd):
    expected = saved(family, tmp_path)
    rewrite(tmp_path, lambda t: {**t, extra: torch.ones(3, 24)})
    assert load(str(tmp_path)).identity["weights"] == expected
    assert f'"{extra}"' in capfd.readouterr().err


BUFFERS = {
    "GPT2": ["transformer.h.0.attn.bias", "transformer.h.1.attn.masked_bias"],
    "Llama": ["model.layers.0.self_attn.rotary_emb.inv_freq", "model.rotary_emb.inv_freq", "model.position_ids",
              "model.layers.0.self_attn.rotary_emb.cos_cached"],
    "T5": ["decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"],
    "Bart": ["model.encoder.version", "model.decoder.version"],
}  # fmt: skip


@pytest.mark.parametrize("family", BUFFERS)
def test_buffers_of_older_versions_say_nothing(family, saved, tmp_path, capfd):
    expected = saved(family, tmp_path)
    rewrite(tmp_path, lambda t: t | {name: torch.ones(1, 1, 4, 4, dtype=torch.uint8) for name in BUFFERS[family]})
    assert load(str(tmp_path)).identity["weights"] == expected
    assert "checkpoint" not in capfd.readouterr().err


@pytest.mark.parametrize("family", CONFIGS)
def test_a_tied_matrix_may_have_either_name(family, saved, tmp_path):
    expected = saved(family, tmp_path)
    name = {"GPT2": "transformer.wte", "T5": "shared", "Bart": "model.shared"}.get(family, "model.embed_tokens")
    rewrite(tmp_path, lambda t: {("lm_head.weight" if n == f"{name}.weight" else n): v for n, v in t.items()})
    assert load(str(tmp_path)).identity["weights"] == expected


@pytest.mark.parametrize(
    ("dtype", "form"),
    [("float16", "sharded"), ("bfloat16", "safetensors"), ("float64", "bin"), ("mixed", "bin"), ("mixed", "sharded")]
    + [(f"float8_{kind}", form) for kind in ("e4m3fn", "e5m2") for form in ("bin", "safetensors")],
)
def test_types_of_numbers_parity(dtype, form, tmp_path):
    from safetensors.torch import save_file

    model = _made("Llama")
    state = model.state_dict()
    del state["lm_head.weight"]
    for number, name in enumerate(state):
        kind = ("float16", "bfloat16", "float32")[number % 3] if dtype == "mixed" else dtype
        state[name] = state[name].to(getattr(torch, kind))
    model.config.save_pretrained(tmp_path)
    if form == "bin":
        state["lm_head.weight"] = state["model.embed_tokens.weight"]  # one storage under two names
        torch.save(state, tmp_path / "pytorch_model.bin")
    elif form == "sharded":
        names = list(state)
        parts = {f"model-0000{i + 1}-of-00002.safetensors": names[i::2] for i in range(2)}
        for file, part in parts.items():
            save_file({name: state[name] for name in part}, tmp_path / file)
        places = {"weight_map": {name: file for file, part in parts.items() for name in part}}
        (tmp_path / "model.safetensors.index.json").write_text(json.dumps(places))
    else:
        save_file(state, tmp_path / "model.safetensors")
    edit(tmp_path, torch_dtype="float16")
    model.load_state_dict({n: v.float() for n, v in state.items()}, strict=False)
    np.testing.assert_allclose(ours(load(str(tmp_path))), torch_logits(model), atol=1e-4, rtol=0)


def test_safetensors_go_before_other_forms(tmp_path):
    whole("GPT2").save_pretrained(tmp_path)
    torch.save({"transformer.wte.weight": torch.zeros(3)}, tmp_path / "pytorch_model.bin")
    (tmp_path / "tf_model.h5").write_bytes(b"x")
    assert_as_transformers(tmp_path, "GPT2")


WRAPPERS = {
    "compiled": lambda name: f"_orig_mod.{name}",
    "parallel": lambda name: f"module.{name}",
    "compiled in parallel": lambda name: f"module._orig_mod.{name}",
    "fsdp": lambda name: f"_fsdp_wrapped_module.{name}",
    "checkpointed layers": lambda name: name.replace(".0.", ".0._checkpoint_wrapped_module."),
    "compiled layers": lambda name: name.replace(".1.", ".1._orig_mod."),
    "held by a module": lambda name: f"model.{name}",
    "held by two": lambda name: f"module.net.model.{name}",
    "of trl": lambda name: f"pretrained_model.{name}",
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("family", CONFIGS)
def test_what_only_wraps_a_model_is_taken_off_and_said(family, wrapper, saved, tmp_path, capfd):
    expected = saved(family, tmp_path)
    rewrite(tmp_path, lambda t: {WRAPPERS[wrapper](name): value for name, value in t.items()})
    capfd.readouterr()
    assert load(str(tmp_path)).identity["weights"] == expected
    assert len(capfd.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "model", "module"])
def test_a_training_loops_file_is_read_for_its_model(key, tmp_path, capfd):
    model = whole("GPT2")
    model.save_pretrained(tmp_path)
    expected = load(str(tmp_path)).identity["weights"]
    (tmp_path / "model.safetensors").unlink()
    state = {f"model.{name}": value for name, value in model.state_dict().items()}
    torch.save({"epoch": 3, key: state, "optimizer": {"state": {}}}, tmp_path / "pytorch_model.bin")
    assert load(str(tmp_path)).identity["weights"] == expected
    assert f'its "{key}" is read' in capfd.readouterr().err


def refusal(folder: Path) -> str:
    with pytest.raises(UserError) as caught:
        load(str(folder))
    message = str(caught.value)
    assert "\n" not in message and "is it whole" not in message
    return message


def _suffixed(*suffixes: str) -> Callable[[dict], dict]:
    """Replaces every matrix of a layer by tensors of its name with the suffixes."""

    def change(table: dict) -> dict:
        found = dict(table)
        for name in table:
            if name.endswith(".weight") and (".0." in name or ".1." in name):
                del found[name]
                found |= {f"{name.removesuffix('.weight')}.{s}": torch.ones(4, dtype=torch.uint8) for s in suffixes}
        return found

    return change


NAMED = {
    "peft": (lambda t: {f"base_model.model.{n}": v for n, v in t.items()}, "PEFT", "merge_and_unload"),
    "lora": (_suffixed("base_layer.weight", "lora_A.default.weight"), "PEFT", "merge_and_unload"),
    "bitsandbytes 4": (_suffixed("weight", "weight.absmax", "weight.quant_map"), "bitsandbytes", "quantisation=int8"),
    "bitsandbytes 8": (_suffixed("weight", "SCB"), "bitsandbytes", "quantisation=int8"),
    "gptq": (_suffixed("qweight", "qzeros", "scales", "g_idx"), "GPTQ", "quantisation=int8"),
    "awq": (_suffixed("qweight", "qzeros", "scales"), "AWQ", "quantisation=int8"),
    "fp8": (_suffixed("weight", "weight_scale_inv"), "FP8", "quantisation=int8"),
    "compressed": (_suffixed("weight_packed", "weight_shape"), "compressed-tensors", "quantisation=int8"),
    "hqq": (_suffixed("W_q", "meta"), "HQQ", "quantisation=int8"),
    "quanto": (_suffixed("weight._data", "weight._scale"), "quanto", "quantisation=int8"),
    "integers": (_suffixed("weight"), "integers", "quantisation=int8"),
    "flat shards": (lambda t: {"_fsdp_wrapped_module._flat_param": torch.ones(9)}, "FSDP", "FULL_STATE_DICT"),
    "optimizer": (lambda t: t | {"optimizer.state.0.exp_avg": torch.ones(3)}, "optimizer", "save_pretrained"),
    "pruned": (_suffixed("weight_orig", "weight_mask"), "pruning", "prune.remove"),
    "twice": (lambda t: {f"{p}{n}": v.clone() for p in ("a.", "ema.") for n, v in t.items()}, "several times", "alone"),
    "unknown": (lambda t: {"some.thing.weight": torch.ones(3)}, "names", "save_pretrained"),
}  # fmt: skip


@pytest.mark.parametrize("case", NAMED)
@pytest.mark.parametrize("family", CONFIGS)
def test_the_right_cause_is_named(family, case, saved, tmp_path):
    change, cause, fix = NAMED[case]
    saved(family, tmp_path)
    rewrite(tmp_path, change)
    message = refusal(tmp_path)
    assert cause in message and fix in message


@pytest.mark.parametrize(
    ("section", "name"),
    [
        ({"quant_method": "gptq", "bits": 4}, "GPTQ"),
        ({"quant_method": "awq"}, "AWQ"),
        ({"load_in_4bit": True}, "bitsan"),
        ({"quant_method": "mxfp4"}, "MXFP4"),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, "bitsandbytes"),
        ({"quant_method": "compressed-tensors", "format": "pack-quantized"}, "compressed-tensors"),
    ],
)
@pytest.mark.parametrize("source", ["lab/model", "lab/model-4bit"])
def test_a_configuration_that_says_quantised_is_refused(section, name, source, tmp_path):
    """The model that it was made from is named, unless that is a quantised one itself."""
    whole("GPT2").save_pretrained(tmp_path)
    edit(tmp_path, quantization_config=section, _name_or_path=source)
    message = refusal(tmp_path)
    assert name in message and ('weights of "lab/model"' in message) == (source == "lab/model")


@pytest.mark.parametrize("block", [[16, 8], [128, 128], None])
def test_8_bit_floats_with_scales_parity(block, tmp_path):
    """Each block of a matrix, the last one smaller, times its scale; transformers' `_dequantize_fp8_weight`."""
    from transformers.integrations.finegrained_fp8 import _dequantize_fp8_weight

    model, states = whole("Llama"), {}
    model.save_pretrained(tmp_path)
    generator, expected = torch.Generator().manual_seed(0), _made("Llama")

    def change(table: dict) -> dict:
        for name, value in list(table.items()):
            if "_proj" not in name:
                continue
            small = (value * 100).to(torch.float8_e4m3fn)
            sizes = block or value.shape
            grid = [-(-n // step) for n, step in zip(value.shape, sizes, strict=True)]
            scale = torch.rand(grid, generator=generator) / 50
            table |= {name: small, f"{name}_scale_inv": scale if block else scale.reshape(())}
            whole_blocks = torch.nn.functional.pad(
                small.float(), (0, grid[1] * sizes[1] - value.shape[1], 0, grid[0] * sizes[0] - value.shape[0])
            )
            found = _dequantize_fp8_weight(whole_blocks, scale, list(sizes), torch.float32)
            states[name] = found[: value.shape[0], : value.shape[1]]
        return table

    rewrite(tmp_path, change)
    edit(tmp_path, quantization_config={"quant_method": "fp8", "weight_block_size": block})
    expected.load_state_dict(states, strict=False)
    np.testing.assert_allclose(ours(load(str(tmp_path))), torch_logits(expected), atol=1e-4, rtol=0)


def test_scales_of_8_bit_floats_that_do_not_fit_are_refused(tmp_path):
    whole("Llama").save_pretrained(tmp_path)
    name = "model.layers.0.mlp.up_proj.weight"
    rewrite(tmp_path, lambda t: t | {name: t[name].to(torch.float8_e4m3fn), f"{name}_scale_inv": torch.ones(2, 3)})
    edit(tmp_path, quantization_config={"quant_method": "fp8", "weight_block_size": [16, 8]})
    assert "are (2, 3), and its blocks (3, 3)" in refusal(tmp_path)


@pytest.mark.parametrize("family", ["Llama", "Mistral", "Qwen2"])
def test_a_head_of_its_own_that_was_not_saved_is_named(family, tmp_path):
    whole(family, tie_word_embeddings=False).base_model.save_pretrained(tmp_path)
    assert "without its head" in refusal(tmp_path)


def test_one_half_of_an_encoder_decoder_is_named(tmp_path):
    hf.T5EncoderModel(whole("T5").config).save_pretrained(tmp_path)
    assert "encoder alone" in refusal(tmp_path)


def test_transposed_matrices_are_named(tmp_path):
    whole("GPT2").save_pretrained(tmp_path)
    rewrite(tmp_path, lambda t: {n: v.T.contiguous() if "c_attn.weight" in n else v for n, v in t.items()})
    assert "transpose" in refusal(tmp_path)


FILES = {
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "git lfs pull"),
    "page": (b"\n<!DOCTYPE html><html>log in</html>", "web page"),
    "error": (b"Entry not found", "error message"),
    "zeros": (bytes(2000), "zeros"),
    "gzip": (b"\x1f\x8b\x08" + bytes(30), "gzip"),
    "gguf": (b"GGUF" + bytes(30), "GGUF"),
}


@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin", "config.json"])
@pytest.mark.parametrize("case", FILES)
def test_a_file_that_is_something_else_is_named(case, file, saved, tmp_path):
    if (case, file) == ("zeros", "config.json"):
        return
    content, words = FILES[case]
    saved("GPT2", tmp_path)
    if file != "config.json":
        (tmp_path / "model.safetensors").unlink()
    (tmp_path / file).write_bytes(content)
    message = refusal(tmp_path)
    assert words in message and file in message


def test_forms_under_each_others_names_are_named(tmp_path):
    model = whole("GPT2")
    model.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    assert "rename it to model.safetensors" in refusal(tmp_path)
    torch.save(model.state_dict(), tmp_path / "model.safetensors")
    assert "rename it to pytorch_model.bin" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("adapter_config.json", "merge_and_unload"),
        ("checkpoint-5/config.json", "checkpoint-N"),
        ("zero_to_fp32.py", "DeepSpeed"),
        ("tf_model.h5", "TensorFlow"),
        ("x.gguf", "GGUF"),
        ("model.fp16.safetensors", "variant"),
    ],
)
def test_a_folder_of_something_else_is_named(file, words, tmp_path):
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text("{}")
    assert words in refusal(tmp_path)


def test_the_base_of_an_adapter_is_named(tmp_path):
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA", "base_model_name_or_path": "lab/model"}')
    assert 'its base model "lab/model"' in refusal(tmp_path)


def test_an_adapter_beside_a_model_is_said_not_to_be_applied(tmp_path, capfd):
    whole("GPT2").save_pretrained(tmp_path)
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    load(str(tmp_path))
    assert "not applied" in capfd.readouterr().err


def test_tensors_that_nobody_knows_stay_refused(tmp_path):
    whole("Llama").save_pretrained(tmp_path)
    rewrite(tmp_path, lambda t: {**t, "model.layers.0.self_attn.q_norm.weight": torch.ones(6)})
    assert "q_norm" in refusal(tmp_path)
