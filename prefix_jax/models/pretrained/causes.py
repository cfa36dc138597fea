"""Diagnosis of unreadable checkpoints from tensor names, files and first bytes, with a sentence that gives the cause
and the fix.

Wrappers around a model are removed instead (`unwrapped`), and tensors of other heads are skipped (`other_heads`); each
is reported in one line.
"""

import re
import sys
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from prefix_jax.disk import from_json
from prefix_jax.errors import UserError

T = TypeVar("T")

_ORIGINAL = "use the original weights, with --config.model.quantisation=int8 where memory is short"

# `quant_method` of config.json, as its tools are called.
_METHODS = {
    "gptq": "GPTQ", "awq": "AWQ", "fp8": "FP8", "fbgemm_fp8": "FBGEMM, to FP8", "hqq": "HQQ", "mxfp4": "MXFP4",
    "bitsandbytes": "bitsandbytes", "compressed-tensors": "compressed-tensors", "auto-round": "AutoRound",
    "quanto": "quanto", "torchao": "torchao", "aqlm": "AQLM", "vptq": "VPTQ", "eetq": "EETQ", "bitnet": "BitNet",
    "spqr": "SpQR", "higgs": "HIGGS", "quark": "Quark", "modelopt": "ModelOpt",
}  # fmt: skip
# In names of quantised models.
_QUANTISED = re.compile(r"gptq|awq|bnb|[48]-?bit|int[48]|w\da\d|fp[48]|nf4|mxfp|gguf|quant", re.IGNORECASE)

# Patterns of tensor names; the first match of a name decides. "{name}" is that name.
_NAMES = (
    (
        r"\.lora_[AB]\b|\.lora_(embedding|magnitude)_|\.base_layer\.|\.modules_to_save\.|\.(ia3_l|hada_w|oft_)"
        r"|(^|\.)base_model\.|(^|\.)prompt_encoder\.",
        "it holds a model inside PEFT's adapters (\"{name}\"); merge the adapter first with PEFT's merge_and_unload() "
        "and save the result, or convert the adapter alone with python -m prefix_jax.convert",
    ),
    (
        r"\.(absmax|nested_absmax|quant_map|nested_quant_map|quant_state\.\S+|SCB|CB|weight_format)$",
        f'it is quantised by bitsandbytes ("{{name}}"); {_ORIGINAL}',
    ),
    (r"\.g_idx$", f'it is quantised by GPTQ ("{{name}}"); {_ORIGINAL}'),
    (r"\.(qweight|qzeros|scales)$", f'it is quantised by GPTQ or AWQ ("{{name}}"); {_ORIGINAL}'),
    (r"\.weight_scale(_inv)?$", f'it is quantised, to FP8 or integers ("{{name}}"); {_ORIGINAL}'),
    (
        r"\.weight_(packed|shape|zero_point|g_idx)$|\.(input|output|k|v)_(global_)?scale$",
        f'it is quantised by compressed-tensors ("{{name}}"); {_ORIGINAL}',
    ),
    (r"\.(W_q|W_nbits)$", f'it is quantised by HQQ ("{{name}}"); {_ORIGINAL}'),
    (r"\.weight\._(data|scale|shift)$", f'it is quantised by quanto ("{{name}}"); {_ORIGINAL}'),
    # Experts in blocks of 4-bit floats are read.
    (
        r"(?<!\.experts)\.(codebooks|codes|\w+_blocks|\w+_scales|qscales?)$",
        f'it is quantised ("{{name}}"); {_ORIGINAL}',
    ),
    (
        r"(^|\.)_?flat_param(_\d+)?$",
        'its weights are flat shards of FSDP ("{name}"); save it with StateDictType.FULL_STATE_DICT',
    ),
    (
        r"(^|\.)exp_avg(_sq)?(\.|$)|(^|\.)optim(izer)?(_state\w*|_states)?\.|(^|\.)(param_groups|master_weights?)\b"
        r"|(^|\.)fp32_groups",
        "it is a training framework's checkpoint with an optimizer's state (\"{name}\"); export the model alone, with "
        "save_pretrained()",
    ),
    (
        r"(^|\.)tok_embeddings\.weight$|\.attention\.w[qkvo]\.weight$",
        "it has the names of Meta's or Mistral's own release (\"{name}\"); convert it with transformers' "
        "convert_llama_weights_to_hf.py, or download the form for transformers",
    ),
    (
        # GPT-NeoX ("gpt_neox.layers.0."), BLOOM and Falcon ("transformer.h.0.") have such names in transformers too.
        r"^(?!([\w.]+\.)?(gpt_neox\.layers|h)\.\d|layers\.\d)"
        r".*\.(query_key_value|linear_qkv|dense_4h_to_h|dense_h_to_4h|linear_fc[12])\.|(^|\.)embedding\.word_embeddings\.",
        'it has the names of Megatron or NeMo ("{name}"); export it in Hugging Face\'s form first',
    ),
    (
        r"\.parametrizations\.|\.weight_(orig|mask|g|v)$",
        'its weights are stored as pruning or a parametrization leaves them ("{name}"); make them permanent with '
        "torch.nn.utils' prune.remove or parametrize.remove_parametrizations, and save it again",
    ),
)
_CAUSES = tuple((re.compile(pattern), sentence) for pattern, sentence in _NAMES)

# Modules that wrap others without changing what they compute, and their origin.
_WRAPPERS = {
    "_orig_mod": "torch.compile",
    "module": "DataParallel",
    "_fsdp_wrapped_module": "FSDP",
    "_fpw_module": "FSDP",
    "_checkpoint_wrapped_module": "activation checkpointing",
    "_forward_module": "Lightning or DeepSpeed",
}
# Modules beside a language model whose output is not text.
_HEADS = re.compile(r"((?!lm_head\b)\w+_head|\w*heads|head|score|classifier|qa_outputs|summary|pooler|cls|mtp)\..+")

# Files and folders that contain no readable weights, and how to fix that.
_FILES = (
    ("adapter_config.json", "it holds a PEFT adapter, not a model; name the base model there, and convert the adapter "
     "with python -m prefix_jax.convert, or merge it with PEFT's merge_and_unload()"),
    ("*.distcp", "it holds a distributed checkpoint of torch; export the model with save_pretrained()"),
    ("zero_to_fp32.py", "it is a checkpoint of DeepSpeed; run its zero_to_fp32.py, and name the folder of the result"),
    ("pytorch_model_fsdp*", "it holds shards of FSDP; merge them with: accelerate merge-weights"),
    ("mp_rank_*", "it holds shards of Megatron or DeepSpeed; export the model in Hugging Face's form"),
    ("consolidated*", "it has the form of Meta's or Mistral's own release; download the form for transformers"),
    ("checkpoint-*/config.json", "it holds checkpoints of transformers' Trainer; name one of its folders checkpoint-N"),
    ("*.ckpt", "it holds a checkpoint of Lightning or TensorFlow; export the model with save_pretrained()"),
    ("*.onnx", "it holds an ONNX graph; download the model's safetensors form"),
    ("tf_model.h5", "its weights are TensorFlow's; save them as safetensors with transformers 4"),
    ("flax_model.msgpack", "its weights are Flax's; save them as safetensors with transformers 4"),
    ("model.*.safetensors", "its weights have a variant's name; rename the file to model.safetensors"),
    ("optimizer.*", "it holds an optimizer's state without the model; copy the model's weights there"),
)  # fmt: skip

_BYTES = (
    (b"version https://git-lfs", "a Git LFS pointer, not the file; run: git lfs pull"),
    (b"<!doctype", "a web page, not the file (a log-in or error page); download it again"),
    (b"<html", "a web page, not the file (a log-in or error page); download it again"),
    (b"<?xml", "an XML message, not the file (a server's error); download it again"),
    (b"entry not found", "a server's error message, not the file; download it again"),
    (b"invalid username or password", "a server's error message, not the file; log in and download it again"),
    (b"gguf", "a GGUF file under another name; download the model's safetensors form"),
    (b"\x89hdf", "an HDF5 file of TensorFlow under another name; download the model's safetensors form"),
    (b"\x1f\x8b", "compressed by gzip; unpack it first"),
    (b"\x28\xb5\x2f\xfd", "compressed by zstd; unpack it first"),
)


def refuse_names(names: Iterable[str], where: str) -> None:
    """Raises UserError if tensor names show that a checkpoint is wrapped, quantised or not a model."""
    for pattern, sentence in _CAUSES:
        if found := next((name for name in names if pattern.search(name)), None):
            raise UserError(f"{where} cannot be read as it is: {sentence.format(name=found)}")


def refuse_quantised(config: Mapping[str, Any], where: str, read: Collection[str] = ()) -> None:
    """Raises UserError if a `config.json` declares quantised weights of another form than those in `read`."""
    section = config.get("quantization_config") or config.get("compression_config")
    if section and not (isinstance(section, Mapping) and section.get("quant_method") in read):
        found = section.get("quant_method") if isinstance(section, Mapping) else None
        name = _METHODS.get(str(found).lower(), found) or "bitsandbytes or another tool"
        raise UserError(
            f"{where} cannot be read as it is: its config.json says that it is quantised by {name} "
            f"(quantization_config); {_original(config)}"
        )


def _original(config: Mapping[str, Any]) -> str:
    """Returns the fix for quantised weights, with the model that they are of where the configuration names it."""
    named = (config.get(option) for option in ("base_model", "base_model_name_or_path", "_name_or_path"))
    source = next((name for name in named if isinstance(name, str) and name and not _QUANTISED.search(name)), "")
    return _ORIGINAL.replace("weights", f'weights of "{source}"', 1) if source else _ORIGINAL


def of_folder(path: Path) -> str:
    """Returns what a folder without readable weights contains instead, as the end of a sentence; "" if unknown."""
    found = next((f": {sentence}" for pattern, sentence in _FILES if any(path.glob(pattern))), "")
    base = _base_of_adapter(path / "adapter_config.json")
    return found.replace("name the base model there", f'name its base model "{base}"') if base else found


def _base_of_adapter(file: Path) -> str:
    try:
        base = from_json(file.read_bytes()).get("base_model_name_or_path")
    except (OSError, ValueError, AttributeError):
        return ""
    return base if isinstance(base, str) else ""


def refuse_other_bytes(path: Path) -> None:
    """Raises UserError if a file's first bytes contradict its suffix."""
    with open(path, "rb") as file:
        start = file.read(512)
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    for sign, what in _BYTES:
        if text.startswith(sign):
            raise UserError(f"{path} is {what}")
    if start.startswith(b"PK\x03\x04") and path.suffix == ".safetensors":
        raise UserError(f"{path} is a file of torch.save under another name; rename it to pytorch_model.bin")
    if path.suffix == ".bin" and len(start) > 9 and start[8:9] == b"{" and int.from_bytes(start[:8], "little") < 2**30:
        raise UserError(f"{path} is a safetensors file under another name; rename it to model.safetensors")
    if start and not any(start) and path.suffix in (".safetensors", ".bin"):
        raise UserError(f"{path} begins with zeros: its download was cut short; download it again")


def unwrapped(table: Mapping[str, T], anchor: str, base: str) -> dict[str, T]:
    """Strips wrapper prefixes from a checkpoint's tensor names and reports them on stderr.

    Args:
      table: tensors by name.
      anchor: name, in the base model, of a tensor that every model of the family has.
      base: prefix of the base model's names in a model with a head.

    Raises:
      UserError: two tensors get the same name, or the checkpoint holds several copies of the model.
    """
    found = {name: ".".join(part for part in name.split(".") if part not in _WRAPPERS) for name in table}
    parts = {part for name in table for part in name.split(".") if part in _WRAPPERS}
    said = [f'"{part}." ({_WRAPPERS[part]})' for part in sorted(parts)]
    outer = _outer(found.values(), anchor, base)
    if outer:
        found = {name: short.removeprefix(outer) for name, short in found.items()}
        said.append(f'"{outer}"')
    for name, count in Counter(found.values()).items():
        if count > 1:
            both = " and ".join(f'"{old}"' for old, new in found.items() if new == name)
            raise UserError(f"the checkpoint has one tensor under several names ({both}); save the model alone")
    if said:
        print(
            f"The checkpoint's tensors are named as those of a wrapped model; read without {' and '.join(said)}.",
            file=sys.stderr,
        )
    return {short: table[name] for name, short in found.items()}


def _outer(names: Iterable[str], anchor: str, base: str) -> str:
    """Returns the prefix before a model's own tensor names: that of the module containing it."""
    before = {name.removesuffix(anchor) for name in names if name == anchor or name.endswith(f".{anchor}")}
    if not before or before & {"", base}:
        return ""
    if len(before) > 1:
        raise UserError(
            f"the checkpoint holds the model several times ({', '.join(sorted(before))}); save one of them alone"
        )
    (found,) = before
    return found.removesuffix(base) if base and found.endswith(f".{base}") else found


def other_heads(names: Iterable[str]) -> list[str]:
    """Returns the tensors of heads for other tasks (classification, rewards, spans), which a language model ignores."""
    return [name for name in names if _HEADS.fullmatch(name)]
