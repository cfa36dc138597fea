"""Our parameter trees back to Hugging Face's state dicts, written apart from the loader's own rules."""

from typing import Any

import numpy as np


def unfuse(family: str, p: dict[str, Any]) -> dict[str, np.ndarray]:
    """Returns every tensor of the torch state dict that is not a tied copy."""
    state = {"gpt2": _gpt2, "t5": _t5}.get(family, _llama)(p)
    if "head" in p:
        state["lm_head.weight"] = p["head"]["tokens"]
    return state


def _gpt2(p: dict[str, Any]) -> dict[str, np.ndarray]:
    out = {"transformer.wte.weight": p["embedding"]["tokens"], "transformer.wpe.weight": p["embedding"]["positions"]}
    out |= {f"transformer.ln_f.{t}": p["final_norm"][o] for t, o in (("weight", "scale"), ("bias", "bias"))}
    q = p["layers"]
    for i in range(len(q["attention_norm"]["scale"])):
        h = f"transformer.h.{i}"
        for ours, theirs in (("attention_norm", "ln_1"), ("mlp_norm", "ln_2")):
            out[f"{h}.{theirs}.weight"], out[f"{h}.{theirs}.bias"] = q[ours]["scale"][i], q[ours]["bias"][i]
        kernel, bias = q["attention"]["qkv"]["kernel"][i], q["attention"]["qkv"]["bias"][i]
        heads = range(kernel.shape[1])
        out[f"{h}.attn.c_attn.weight"] = np.concatenate([kernel[:, k, j] for j in range(3) for k in heads], 1)
        out[f"{h}.attn.c_attn.bias"] = np.concatenate([bias[k, j] for j in range(3) for k in heads])
        out[f"{h}.attn.c_proj.weight"] = np.concatenate([q["attention"]["out"]["kernel"][i, k, 0] for k in heads])
        out[f"{h}.attn.c_proj.bias"] = q["attention"]["out"]["bias"][i]
        for ours, theirs in (("up", "c_fc"), ("down", "c_proj")):
            out[f"{h}.mlp.{theirs}.weight"] = q["mlp"][ours]["kernel"][i]
            out[f"{h}.mlp.{theirs}.bias"] = q["mlp"][ours]["bias"][i]
    return out


def _llama(p: dict[str, Any]) -> dict[str, np.ndarray]:
    out = {"model.embed_tokens.weight": p["embedding"]["tokens"], "model.norm.weight": p["final_norm"]["scale"]}
    q = p["layers"]
    for i in range(len(q["attention_norm"]["scale"])):
        h = f"model.layers.{i}"
        out[f"{h}.input_layernorm.weight"] = q["attention_norm"]["scale"][i]
        out[f"{h}.post_attention_layernorm.weight"] = q["mlp_norm"]["scale"][i]
        kernel = q["attention"]["qkv"]["kernel"][i]
        _, keys, slots, _ = kernel.shape
        places = {
            "q": [(k, g) for k in range(keys) for g in range(slots - 2)],
            "k": [(k, slots - 2) for k in range(keys)],
            "v": [(k, slots - 1) for k in range(keys)],
        }
        for name, where in places.items():
            out[f"{h}.self_attn.{name}_proj.weight"] = np.concatenate([kernel[:, k, s].T for k, s in where])
            if "bias" in q["attention"]["qkv"]:
                bias = q["attention"]["qkv"]["bias"][i]
                out[f"{h}.self_attn.{name}_proj.bias"] = np.concatenate([bias[k, s] for k, s in where])
        o = q["attention"]["out"]["kernel"][i]
        out[f"{h}.self_attn.o_proj.weight"] = np.concatenate([o[k, g].T for k, g in places["q"]], 1)
        out[f"{h}.mlp.gate_proj.weight"] = q["mlp"]["gate"]["kernel"][i].T
        out[f"{h}.mlp.up_proj.weight"] = q["mlp"]["up"]["kernel"][i].T
        out[f"{h}.mlp.down_proj.weight"] = q["mlp"]["down"]["kernel"][i].T
    return out


def _t5(p: dict[str, Any]) -> dict[str, np.ndarray]:
    out = {"shared.weight": p["embedding"]["tokens"]}
    for side in ("encoder", "decoder"):
        out[f"{side}.final_layer_norm.weight"] = p[side]["final_norm"]["scale"]
        bias = f"{side}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        out[bias] = p[side]["relative_bias"]
        q = p[side]["layers"]
        for i in range(len(q["attention_norm"]["scale"])):
            h = f"{side}.block.{i}.layer"
            out |= _t5_heads(f"{h}.0.SelfAttention", "qkv", q["attention"]["qkv"]["kernel"][i])
            out[f"{h}.0.SelfAttention.o.weight"] = _t5_out(q["attention"]["out"]["kernel"][i])
            out[f"{h}.0.layer_norm.weight"] = q["attention_norm"]["scale"][i]
            last = 1
            if side == "decoder":
                last = 2
                out |= _t5_heads(f"{h}.1.EncDecAttention", "q", q["cross"]["query"]["kernel"][i])
                out |= _t5_heads(f"{h}.1.EncDecAttention", "kv", q["cross"]["key_value"]["kernel"][i])
                out[f"{h}.1.EncDecAttention.o.weight"] = _t5_out(q["cross"]["out"]["kernel"][i])
                out[f"{h}.1.layer_norm.weight"] = q["cross_norm"]["scale"][i]
            out[f"{h}.{last}.layer_norm.weight"] = q["mlp_norm"]["scale"][i]
            dense = f"{h}.{last}.DenseReluDense"
            out[f"{dense}.wo.weight"] = q["mlp"]["down"]["kernel"][i].T
            if "gate" not in q["mlp"]:
                out[f"{dense}.wi.weight"] = q["mlp"]["up"]["kernel"][i].T
            else:
                out[f"{dense}.wi_0.weight"] = q["mlp"]["gate"]["kernel"][i].T
                out[f"{dense}.wi_1.weight"] = q["mlp"]["up"]["kernel"][i].T
    return out


def _t5_heads(path: str, parts: str, kernel: np.ndarray) -> dict[str, np.ndarray]:
    heads = range(kernel.shape[1])
    return {f"{path}.{n}.weight": np.concatenate([kernel[:, h, j].T for h in heads]) for j, n in enumerate(parts)}


def _t5_out(kernel: np.ndarray) -> np.ndarray:
    return np.concatenate([kernel[h, 0].T for h in range(len(kernel))], 1)
