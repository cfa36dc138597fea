"""PEFT's LORA adapters (huggingface/peft, as of 0.21) as our collection of low-rank updates, and back.

PEFT has `lora_A.weight` `[rank, inputs]` and `lora_B.weight` `[outputs, rank]` for each module of each layer, scaled by
alpha / rank; we have `a` `[layers, inputs, rank]` and `b` `[layers, rank, *outputs]` for each projection, the scale in
`b`. What is written has alpha = rank, so that its numbers are ours. GPT-2's query, key and value are one module of
PEFT's: three updates of rank r are one of rank 3 r with blocks in B, unless they share their A.
"""

import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save as safetensors_bytes

from prefix_jax.errors import UserError
from prefix_jax.models import families
from prefix_jax.models.families.family import Module
from prefix_jax.models.model_config import ModelConfig
from prefix_jax.models.pretrained.aliases import hub_id
from prefix_jax.tuning.formats import layout
from prefix_jax.tuning.formats.peft import CONFIG, VERSION, WEIGHTS, read_config

_ROOT = "base_model.model."
_TENSOR = re.compile(r"(?:base_model\.model\.)?(.+)\.lora_([AB])(?:\.[^.]+)?\.weight")
# Options that change what an adapter computes and have no place here, and the values that do not.
_REFUSED = {
    "use_dora": "DoRA (use_dora)",
    "modules_to_save": "modules that are trained whole (modules_to_save)",
    "lora_bias": "biases (lora_bias)",
    "layer_replication": "replicated layers (layer_replication)",
    "trainable_token_indices": "trained tokens (trainable_token_indices)",
    "target_parameters": "updates of bare parameters (target_parameters)",
    "alora_invocation_tokens": "activated LoRA (alora_invocation_tokens)",
    "use_qalora": "QA-LoRA (use_qalora)",
    "use_bdlora": "BD-LoRA (use_bdlora)",
    "arrow_config": "Arrow (arrow_config)",
    "kasa_config": "KaSA (kasa_config)",
    "velora_config": "VeLoRA (velora_config)",
    "monteclora_config": "MonteCLoRA (monteclora_config)",
}
_PLAIN_STARTS = (True, False, "gaussian", "eva", "orthogonal", None)
_HEADS = ("lm_head", "embed_tokens", "wte", "wpe", "shared")

Pair = dict[str, np.ndarray]
Tree = dict[str, Any]


def read(folder: Path, model_config: ModelConfig) -> Tree:
    """Returns the collection of an adapter folder.

    Raises:
      UserError: it holds what LoRA here cannot express, it is damaged, or it is of another model.
    """
    config = read_config(folder)
    _check_config(folder, config)
    known: dict[str, tuple[list[Module], int]] = {}
    for one in families.of(model_config).modules(model_config):
        for layer in range(one.layers):
            known.setdefault(_bare(one.name.format(layer), model_config), ([], layer))[0].append(one)
    found: dict[Module, dict[int, Pair]] = {}
    for module, (a, b) in _pairs(folder).items():
        if _bare(module, model_config) not in known:
            raise UserError(f'{folder} has an update of "{module}", which cannot carry one here{_why(module)}')
        projections, layer = known[_bare(module, model_config)]
        wide = sum(math.prod(one.outputs) for one in projections)
        if a.shape[1:] != (projections[0].inputs,) or b.shape != (wide, a.shape[0]):
            raise UserError(
                f'{folder} has matrices {a.shape} and {b.shape} for "{module}", but this model has '
                f"{projections[0].inputs} inputs and {wide} outputs there; name the model it was made for with --model"
            )
        scaled = b.astype(np.float32) * np.float32(_scale(folder, config, module, a.shape[0]))
        for one, part in zip(projections, _unfused(projections, scaled), strict=True):
            found.setdefault(one, {})[layer] = {"a": a.T.astype(np.float32), "b": part.T.reshape(-1, *one.outputs)}
    if not found:
        raise UserError(f"{folder} holds no matrices of LoRA; copy the folder again")
    return _tree({one: _stacked(one, layers) for one, layers in found.items()})


def encode(tree: Mapping[str, Any], model_config: ModelConfig, identity: Mapping[str, Any]) -> dict[str, bytes]:
    """Returns the files that `PeftModel.from_pretrained` loads, with alpha = rank."""
    modules: dict[str, list[tuple[Module, Pair]]] = {}
    wholes: dict[str, list[Module]] = {}
    for one in families.of(model_config).modules(model_config):
        wholes.setdefault(one.name, []).append(one)
        node: Any = tree
        for name in (*one.stack, *one.path):
            node = node.get(name, {})
        if "a" in node:
            modules.setdefault(one.name, []).append((one, {k: np.asarray(v, np.float32) for k, v in node.items()}))
    tensors: dict[str, np.ndarray] = {}
    ranks: dict[str, int] = {}
    for module, pairs in modules.items():
        a, b = _fused(pairs, wholes[module])
        ranks[module] = a.shape[1]
        for layer in range(len(a)):
            name = _ROOT + module.format(layer)
            tensors[f"{name}.lora_A.weight"] = np.ascontiguousarray(a[layer])
            tensors[f"{name}.lora_B.weight"] = np.ascontiguousarray(b[layer])
    config = _config(ranks, model_config, identity)
    return {
        CONFIG: json.dumps(config, indent=2, sort_keys=True).encode(),
        WEIGHTS[0]: safetensors_bytes(tensors, {"format": "pt"}),
    }


def rank(tree: Mapping[str, Any]) -> int:
    """Returns the largest rank of a collection."""
    return tree["a"].shape[-1] if "a" in tree else max(rank(below) for below in tree.values())


def targets(tree: Mapping[str, Any]) -> set[str]:
    """Returns the projections of a collection by the names that `lora.targets` has for them."""
    found: set[str] = set()
    for name, below in tree.items():
        found |= {name} if "a" in below else targets(below)
    return found


def _bare(module: str, model_config: ModelConfig) -> str:
    """A module's name without what a model with a head puts before it."""
    return module.removeprefix(families.of(model_config).base)


def _why(module: str) -> str:
    if any(name in module.split(".") for name in _HEADS):
        return " (embeddings and the output matrix stay as they are); merge it with PEFT's merge_and_unload()"
    return "; is it of another model? name it with --model"


def _check_config(folder: Path, config: Mapping[str, Any]) -> None:
    for option, what in _REFUSED.items():
        if config.get(option):
            raise UserError(
                f"{folder} uses {what}, which LoRA here does not have; merge it with PEFT's merge_and_unload() instead"
            )
    if config.get("bias") not in (None, "none"):
        raise UserError(
            f'{folder} trains biases too (bias="{config["bias"]}"), which LoRA here does not; merge it with PEFT\'s '
            "merge_and_unload() instead"
        )
    start = config.get("init_lora_weights", True)
    if start not in _PLAIN_STARTS:
        raise UserError(
            f'{folder} was begun with init_lora_weights="{start}", which changes the base weights too; save it again '
            "with PEFT's path_initial_model_for_weight_conversion"
        )


def _pairs(folder: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """A and B of each module."""
    found: dict[str, dict[str, np.ndarray]] = {}
    for name, tensor in layout.read_tensors(folder, WEIGHTS).items():
        match = _TENSOR.fullmatch(name)
        if match is None:
            what = "DoRA's" if "magnitude" in name else "not an update of a matrix"
            raise UserError(
                f'{folder} holds the tensor "{name}", which is {what} and would be lost; merge the adapter with '
                "PEFT's merge_and_unload() instead"
            )
        found.setdefault(match[1], {})[match[2]] = tensor
    for module, pair in found.items():
        if set(pair) != {"A", "B"} or any(tensor.ndim != 2 for tensor in pair.values()):
            raise UserError(f'{folder} has no two matrices for "{module}"; copy the folder again')
    return {module: (pair["A"], pair["B"]) for module, pair in found.items()}


def _scale(folder: Path, config: Mapping[str, Any], module: str, found: int) -> float:
    """alpha / rank of a module, by the pattern that PEFT would take."""

    def of(patterns: Mapping[str, float] | None, default: Any) -> Any:
        hits = (value for key, value in (patterns or {}).items() if re.match(rf"(.*\.)?({key})$", module))
        return next(hits, default)

    try:
        rank = of(config.get("rank_pattern"), config.get("r"))
        alpha = of(config.get("alpha_pattern"), config.get("lora_alpha"))
    except re.error as error:
        raise UserError(
            f"{folder / CONFIG} has a pattern of modules that is not a regular expression ({error}); copy it again"
        ) from None
    if rank != found or not isinstance(alpha, int | float):
        raise UserError(
            f'{folder} has a rank of {found} for "{module}", and {CONFIG} says r={rank}, lora_alpha={alpha}; copy both '
            "again"
        )
    return alpha / math.sqrt(found) if config.get("use_rslora") else alpha / found


def _stacked(one: Module, layers: Mapping[int, Pair]) -> Pair:
    """All layers of a projection; those without an update, and missing ranks, are zeros."""
    wide = max(pair["a"].shape[1] for pair in layers.values())
    a = np.zeros((one.layers, one.inputs, wide), np.float32)
    b = np.zeros((one.layers, wide, *one.outputs), np.float32)
    for layer, pair in layers.items():
        a[layer, :, : pair["a"].shape[1]], b[layer, : len(pair["b"])] = pair["a"], pair["b"]
    if one.slot is None:
        return {"a": a, "b": b}
    used = np.abs(b).max((0, *range(2, b.ndim))) > 0
    return {"a": a[:, :, used], "b": b[:, used]}


def _tree(pairs: Mapping[Module, Pair]) -> Tree:
    """Our collection; parts of a fused module that were not updated are left out, unless all of it is as it began."""
    tree: Tree = {}
    for one, pair in pairs.items():
        if pair["a"].shape[-1] == 0 and any(p["a"].shape[-1] for o, p in pairs.items() if o.name == one.name):
            continue
        node = tree
        for name in (*one.stack, *one.path[:-1]):
            node = node.setdefault(name, {})
        # A rank of 0 is of no use to anyone: one of zeros does as much.
        padding = {"a": [(0, 0), (0, 0), (0, 1)], "b": [(0, 0), (0, 1)] + [(0, 0)] * len(one.outputs)}
        empty = pair["a"].shape[-1] == 0
        node[one.path[-1]] = {k: np.pad(v, padding[k]) for k, v in pair.items()} if empty else pair
    return tree


def _fused(pairs: Sequence[tuple[Module, Pair]], whole: Sequence[Module]) -> tuple[np.ndarray, np.ndarray]:
    """A `[layers, rank, inputs]` and B `[layers, outputs, rank]` of a module, of which `whole` are all projections."""
    flat = [pair["b"].reshape(*pair["b"].shape[:2], -1).swapaxes(1, 2) for _, pair in pairs]
    down = [pair["a"].swapaxes(1, 2) for _, pair in pairs]
    if pairs[0][0].slot is None:
        return down[0], flat[0]
    shared = all(np.array_equal(other, down[0]) for other in down)
    ranks = [0, *np.cumsum([other.shape[1] for other in down])]
    found = {one.slot: n for n, (one, _) in enumerate(pairs)}
    b = []
    for slot, width in enumerate(_widths(whole)):
        part = np.zeros((len(down[0]), width, down[0].shape[1] if shared else ranks[-1]), np.float32)
        if slot in found:
            n = found[slot]
            part[..., slice(None) if shared else slice(ranks[n], ranks[n + 1])] = flat[n]
        b.append(part.reshape(len(part), whole[0].blocks, -1, part.shape[-1]))
    joined = np.concatenate(b, 2)
    return down[0] if shared else np.concatenate(down, 1), joined.reshape(len(joined), -1, joined.shape[-1])


def _unfused(projections: Sequence[Module], b: np.ndarray) -> list[np.ndarray]:
    """The rows of each projection of a module, which come in blocks."""
    blocks = projections[0].blocks
    ends = np.cumsum(_widths(projections)) // blocks
    parts = np.split(b.reshape(blocks, -1, b.shape[-1]), ends[:-1], axis=1)
    return [part.reshape(-1, b.shape[-1]) for part in parts]


def _widths(projections: Sequence[Module]) -> list[int]:
    return [math.prod(one.outputs) for one in projections]


def _config(ranks: Mapping[str, int], model_config: ModelConfig, identity: Mapping[str, Any]) -> dict[str, Any]:
    usual = Counter(ranks.values()).most_common(1)[0][0]
    modules = {one.name: one.layers for one in families.of(model_config).modules(model_config)}
    named: dict[str, int] = {}
    for module, found in ranks.items():
        *_, above, last = module.split(".")
        end = last if above == "{}" else f"{above}.{last}"
        alike = [other for other in modules if other.endswith(f".{end}")]
        # The end of a name stands for all modules that have it.
        short = all(ranks.get(other) == found for other in alike)
        named |= {end: found} if short else {module.format(i): found for i in range(modules[module])}
    patterns = {name: found for name, found in named.items() if found != usual}
    return {
        "alpha_pattern": patterns,
        "auto_mapping": None,
        "base_model_name_or_path": hub_id(identity.get("name") or "") or None,
        "bias": "none",
        "fan_in_fan_out": families.of(model_config).transposed,
        "inference_mode": True,
        "init_lora_weights": True,
        "layers_pattern": None,
        "layers_to_transform": None,
        "lora_alpha": usual,
        "lora_dropout": 0.0,
        "modules_to_save": None,
        "peft_type": "LORA",
        "peft_version": VERSION,
        "r": usual,
        "rank_pattern": patterns,
        "revision": None,
        "target_modules": sorted(named),
        "task_type": "SEQ_2_SEQ_LM" if model_config.is_encoder_decoder else "CAUSAL_LM",
        "use_dora": False,
        "use_rslora": False,
    }
