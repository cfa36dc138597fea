"""Our parameter trees out of Hugging Face's names, as lazy leaves.

Kernels are input-major, layers are stacked on the first axis, and query, key and value of a layer are one kernel
with an axis of key-value heads (so that a mesh can divide it). L layers, E d_model, F d_ff, K key-value heads, G query
heads per key-value head, D head_dim.
"""

import fnmatch
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from prefix_jax.errors import UserError
from prefix_jax.models.pretrained import causes
from prefix_jax.models.pretrained.leaves import Leaf, concatenate, from_array, merge, split, stack, transpose
from prefix_jax.models.specs import BartSpec, GPT2Spec, LlamaSpec, Spec, T5Spec

_ROWS = 4096  # of two matrices that are compared
# Tied to "shared.weight".
_COPIES = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
# What says nothing new: masks, positions and frequencies that a model computes, and versions.
_BUFFERS = ("*.attn.bias", "*.attn.masked_bias", "*rotary_emb.inv_freq", "*rotary_emb.*_cached", "*position_ids")
_BUFFERS += ("encoder.version", "decoder.version", "*embed_positions._float_tensor")
# A relative bias that old decoders of T5 carried unused in their cross attention.
_BUFFERS += ("decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight",)

Table = dict[str, Leaf]
Tree = dict[str, Any]


def to_tree(spec: Spec, table: Table) -> Tree:
    """Returns the parameter tree of `spec` over the leaves of a checkpoint.

    Raises:
      UserError: a tensor is missing, has another shape than the configuration says, or is one that the model has not.
    """
    rule, anchor, base = _FAMILIES[type(spec)]
    causes.refuse_names(table, "the checkpoint")
    names = _Names(causes.unwrapped(table, anchor, base))
    names.without(base)
    names.ignore(*_BUFFERS)
    tree = rule(spec, names)
    names.finish()
    return tree


class _Names:
    """The checkpoint's table; remembers what was taken, so that nothing of a model is left behind unnoticed."""

    def __init__(self, table: Table):
        self._table = table
        self._taken: set[str] = set()

    def without(self, prefix: str) -> None:
        """Takes a prefix off every name that has it (a bare model is saved without the one its heads give it).

        Raises:
          UserError: a tensor is there with it and without.
        """
        short = {name.removeprefix(prefix): leaf for name, leaf in self._table.items()}
        if len(short) < len(self._table):
            both = next(name for name in self._table if prefix + name in self._table)
            raise UserError(f'the checkpoint has both "{both}" and "{prefix}{both}"; save the model alone')
        self._table = short

    def __contains__(self, name: str) -> bool:
        return name in self._table

    def __call__(self, name: str, *shape: int) -> Leaf:
        if name not in self._table:
            raise UserError(f'the checkpoint has no tensor "{name}", {self._cause(name)}')
        leaf = self._table[name]
        if leaf.dtype.kind in "iub":
            raise UserError(
                f'the checkpoint\'s tensor "{name}" holds integers ({leaf.dtype}), as quantised weights do; use the '
                "original weights, with --config.model.quantisation=int8 where memory is short"
            )
        if leaf.shape != shape and leaf.shape == shape[::-1]:
            raise UserError(
                f'the checkpoint\'s tensor "{name}" is {leaf.shape}, the transpose of what transformers stores '
                f"({shape}), as in nanoGPT; export it in Hugging Face's form"
            )
        if leaf.shape != shape:
            raise UserError(f'the checkpoint\'s tensor "{name}" is {leaf.shape}, and its config.json says {shape}')
        self._taken.add(name)
        return leaf

    def ignore(self, *patterns: str) -> None:
        """Passes over tensors that say nothing new: buffers and copies."""
        self._taken |= {n for n in self._table if any(fnmatch.fnmatchcase(n, p) for p in patterns)}

    def _cause(self, name: str) -> str:
        """Why a tensor may be missing, and what helps."""
        if name == "lm_head.weight":
            return (
                "the output matrix, and its config.json has tie_word_embeddings=false: it was saved without its head, "
                "in whose place transformers puts random numbers; use the model with its head"
            )
        for side, other in (("encoder", "decoder"), ("decoder", "encoder")):
            if name.startswith(f"{side}.") and not any(n.startswith(f"{side}.") for n in self._table):
                return f"nor any of the {side}: it was saved as an {other} alone; use the whole model"
        if not self._taken and self._table:
            return (
                f'and its names, such as "{next(iter(self._table))}", are not those of its model_type; export it in '
                "Hugging Face's form, with save_pretrained()"
            )
        return "which its config.json calls for; is it whole, and the weights of that very configuration?"

    def finish(self) -> None:
        if heads := causes.other_heads(set(self._table) - self._taken):
            self._taken |= set(heads)
            print(
                f'The checkpoint also holds another head ("{min(heads)}", {len(heads)} such), which is left out.',
                file=sys.stderr,
            )
        if rest := sorted(set(self._table) - self._taken):
            raise UserError(
                f'the checkpoint has the tensor "{rest[0]}" ({len(rest)} such), which no model of its model_type has '
                "here; it is not supported"
            )


def _stacked(layers: int, rule: Callable[[int], Tree]) -> Tree:
    """Returns the trees of all layers as one, each leaf stacked on a new first axis."""

    def merge(trees: list[Any]) -> Any:
        if isinstance(trees[0], Leaf):
            return stack(trees)
        return {key: merge([tree[key] for tree in trees]) for key in trees[0]}

    return merge([rule(i) for i in range(layers)])


def _linear(leaf: Leaf) -> Leaf:
    """[out, in], as torch's Linear has it, to [in, out]."""
    return transpose(leaf, (1, 0))


def _embedding(spec: Spec, names: _Names, name: str, *copies: str) -> Leaf:
    """The matrix of words, which may be stored under the name of one that is tied to it alone."""
    tied = ("lm_head.weight",) if spec.tie_embeddings else ()
    found = next((other for other in (name, *copies, *tied) if other in names), name)
    return names(found, spec.vocab_size, spec.d_model)


def _head(spec: Spec, names: _Names, embedding: str) -> Tree:
    """The output matrix, where the model has one of its own: also where the configuration says that it is tied, and the
    file has another, which transformers 5 saves so.
    """
    shape = (spec.vocab_size, spec.d_model)
    if spec.tie_embeddings and ("lm_head.weight" not in names or embedding not in names):
        return {}
    head = names("lm_head.weight", *shape)
    return {} if spec.tie_embeddings and _equal(head, names(embedding, *shape)) else {"head": {"tokens": head}}


def _equal(a: Leaf, b: Leaf) -> bool:
    parts = [slice(start, start + _ROWS) for start in range(0, a.shape[0], _ROWS)]
    return all(np.array_equal(a.read((rows, slice(None))), b.read((rows, slice(None)))) for rows in parts)


def _only_copies(spec: Spec, names: _Names, *copies: str) -> None:
    """Takes the encoder's and the decoder's embeddings, which must be the shared one."""
    shape = (spec.vocab_size, spec.d_model)
    first, *others = [name for name in ("shared.weight", *copies) if name in names] or [""]
    for name in others:
        if not _equal(names(name, *shape), names(first, *shape)):
            raise UserError(
                f'the checkpoint\'s "{name}" is not its "{first}": embeddings of their own for the encoder and '
                "the decoder are not supported"
            )


def _gpt2(spec: GPT2Spec, names: _Names) -> Tree:
    e, f, k, d = spec.d_model, spec.d_ff, spec.heads, spec.head_dim

    def norm(name: str) -> Tree:
        return {"scale": names(f"{name}.weight", e), "bias": names(f"{name}.bias", e)}

    def layer(i: int) -> Tree:
        # GPT-2's Conv1D is [in, out] already; its qkv has query, key, value outermost.
        qkv = split(names(f"h.{i}.attn.c_attn.weight", e, 3 * k * d), 1, (3, k, d))
        bias = split(names(f"h.{i}.attn.c_attn.bias", 3 * k * d), 0, (3, k, d))
        out = split(names(f"h.{i}.attn.c_proj.weight", k * d, e), 0, (k, 1, d))
        return {
            "attention_norm": norm(f"h.{i}.ln_1"),
            "attention": {
                "qkv": {"kernel": transpose(qkv, (0, 2, 1, 3)), "bias": transpose(bias, (1, 0, 2))},
                "out": {"kernel": out, "bias": names(f"h.{i}.attn.c_proj.bias", e)},
            },
            "mlp_norm": norm(f"h.{i}.ln_2"),
            "mlp": {
                "up": {"kernel": names(f"h.{i}.mlp.c_fc.weight", e, f), "bias": names(f"h.{i}.mlp.c_fc.bias", f)},
                "down": {"kernel": names(f"h.{i}.mlp.c_proj.weight", f, e), "bias": names(f"h.{i}.mlp.c_proj.bias", e)},
            },
        }

    return {
        "embedding": {
            "tokens": _embedding(spec, names, "wte.weight"),
            "positions": names("wpe.weight", spec.max_positions, e),
        },
        "layers": _stacked(spec.layers, layer),
        "final_norm": norm("ln_f"),
        **_head(spec, names, "wte.weight"),
    }


def _llama(spec: LlamaSpec, names: _Names) -> Tree:
    e, f, k, d = spec.d_model, spec.d_ff, spec.kv_heads, spec.head_dim
    g = spec.heads // k

    def qkv(attention: str, kind: str, *inner: int) -> Leaf:
        """[K, G+2, D, ...]: for each key-value head its queries, its key and its value."""
        parts = [("q", g), ("k", 1), ("v", 1)]
        leaves = [split(names(f"{attention}.{p}_proj.{kind}", k * n * d, *inner), 0, (k, n, d)) for p, n in parts]
        return concatenate(leaves, 1)

    def layer(i: int) -> Tree:
        attention, mlp = f"layers.{i}.self_attn", f"layers.{i}.mlp"
        bias = {"bias": qkv(attention, "bias")} if spec.qkv_bias else {}
        out = split(names(f"{attention}.o_proj.weight", e, k * g * d), 1, (k, g, d))
        return {
            "attention_norm": {"scale": names(f"layers.{i}.input_layernorm.weight", e)},
            "attention": {
                "qkv": {"kernel": transpose(qkv(attention, "weight", e), (3, 0, 1, 2)), **bias},
                "out": {"kernel": transpose(out, (1, 2, 3, 0))},
            },
            "mlp_norm": {"scale": names(f"layers.{i}.post_attention_layernorm.weight", e)},
            "mlp": {
                "gate": {"kernel": _linear(names(f"{mlp}.gate_proj.weight", f, e))},
                "up": {"kernel": _linear(names(f"{mlp}.up_proj.weight", f, e))},
                "down": {"kernel": _linear(names(f"{mlp}.down_proj.weight", e, f))},
            },
        }

    return {
        "embedding": {"tokens": _embedding(spec, names, "embed_tokens.weight")},
        "layers": _stacked(spec.layers, layer),
        "final_norm": {"scale": names("norm.weight", e)},
        **_head(spec, names, "embed_tokens.weight"),
    }


def _t5(spec: T5Spec, names: _Names) -> Tree:
    _only_copies(spec, names, *_COPIES)
    return {
        "embedding": {"tokens": _embedding(spec, names, "shared.weight", *_COPIES)},
        "encoder": _t5_stack(spec, names, "encoder", spec.encoder_layers),
        "decoder": _t5_stack(spec, names, "decoder", spec.layers),
        **_head(spec, names, "shared.weight"),
    }


def _t5_stack(spec: T5Spec, names: _Names, side: str, layers: int) -> Tree:
    e, h, d = spec.d_model, spec.heads, spec.head_dim

    def kernel(path: str, parts: str) -> Leaf:
        """[E, H, parts, D]"""
        leaves = [split(names(f"{path}.{p}.weight", h * d, e), 0, (h, d)) for p in parts]
        return transpose(stack(leaves, 1), (3, 0, 1, 2))

    def out(path: str) -> Tree:
        return {"kernel": transpose(split(names(f"{path}.o.weight", e, h * d), 1, (h, 1, d)), (1, 2, 3, 0))}

    def layer(i: int) -> Tree:
        block = f"{side}.block.{i}.layer"
        attention, cross = f"{block}.0.SelfAttention", f"{block}.1.EncDecAttention"
        last = 1 if side == "encoder" else 2
        tree = {
            "attention_norm": {"scale": names(f"{block}.0.layer_norm.weight", e)},
            "attention": {"qkv": {"kernel": kernel(attention, "qkv")}, "out": out(attention)},
            "mlp_norm": {"scale": names(f"{block}.{last}.layer_norm.weight", e)},
            "mlp": _t5_mlp(spec, names, f"{block}.{last}.DenseReluDense"),
        }
        if side == "decoder":
            tree["cross_norm"] = {"scale": names(f"{block}.1.layer_norm.weight", e)}
            tree["cross"] = {
                "query": {"kernel": kernel(cross, "q")},
                "key_value": {"kernel": kernel(cross, "kv")},
                "out": out(cross),
            }
        return tree

    bias = f"{side}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    return {
        "relative_bias": names(bias, spec.buckets, h),
        "layers": _stacked(layers, layer),
        "final_norm": {"scale": names(f"{side}.final_layer_norm.weight", e)},
    }


def _t5_mlp(spec: T5Spec, names: _Names, path: str) -> Tree:
    e, f = spec.d_model, spec.d_ff
    down = {"kernel": _linear(names(f"{path}.wo.weight", e, f))}
    if not spec.gated:
        return {"up": {"kernel": _linear(names(f"{path}.wi.weight", f, e))}, "down": down}
    gate, up = ({"kernel": _linear(names(f"{path}.wi_{j}.weight", f, e))} for j in (0, 1))
    return {"gate": gate, "up": up, "down": down}


def _bart(spec: BartSpec, names: _Names) -> Tree:
    _only_copies(spec, names, *_COPIES)
    return {
        "embedding": {"tokens": _embedding(spec, names, "shared.weight", *_COPIES)},
        "encoder": _bart_stack(spec, names, "encoder", spec.encoder_layers, spec.encoder_d_ff),
        "decoder": _bart_stack(spec, names, "decoder", spec.layers, spec.d_ff),
        "logits_bias": _logits_bias(spec, names),
        **_head(spec, names, "shared.weight"),
    }


def _logits_bias(spec: BartSpec, names: _Names) -> Leaf:
    """A buffer that a model saved without its head does not have: zeros."""
    if "final_logits_bias" not in names:
        return from_array(np.zeros(spec.vocab_size, np.float32))
    return merge(names("final_logits_bias", 1, spec.vocab_size), 0, 2)


def _bart_stack(spec: BartSpec, names: _Names, side: str, layers: int, f: int) -> Tree:
    e, h, d = spec.d_model, spec.heads, spec.head_dim

    def norm(path: str) -> Tree:
        return {"scale": names(f"{path}.weight", e), "bias": names(f"{path}.bias", e)}

    def fused(path: str, parts: str) -> Tree:
        """[E, H, parts, D], and the bias of its outputs"""
        kernels = [split(names(f"{path}.{p}_proj.weight", h * d, e), 0, (h, d)) for p in parts]
        biases = [split(names(f"{path}.{p}_proj.bias", h * d), 0, (h, d)) for p in parts]
        return {"kernel": transpose(stack(kernels, 1), (3, 0, 1, 2)), "bias": stack(biases, 1)}

    def out(path: str) -> Tree:
        kernel = transpose(split(names(f"{path}.out_proj.weight", e, h * d), 1, (h, 1, d)), (1, 2, 3, 0))
        return {"kernel": kernel, "bias": names(f"{path}.out_proj.bias", e)}

    def linear(path: str, inputs: int, outputs: int) -> Tree:
        return {"kernel": _linear(names(f"{path}.weight", outputs, inputs)), "bias": names(f"{path}.bias", outputs)}

    def layer(i: int) -> Tree:
        path = f"{side}.layers.{i}"
        attention, cross = f"{path}.self_attn", f"{path}.encoder_attn"
        tree = {
            "attention": {"qkv": fused(attention, "qkv"), "out": out(attention)},
            "attention_norm": norm(f"{path}.self_attn_layer_norm"),
            "mlp": {"up": linear(f"{path}.fc1", e, f), "down": linear(f"{path}.fc2", f, e)},
            "mlp_norm": norm(f"{path}.final_layer_norm"),
        }
        if side == "decoder":
            parts = {"query": fused(cross, "q"), "key_value": fused(cross, "kv"), "out": out(cross)}
            tree |= {"cross": parts, "cross_norm": norm(f"{path}.encoder_attn_layer_norm")}
        return tree

    rows = spec.max_positions + 2
    return {
        "positions": {
            "table": names(f"{side}.embed_positions.weight", rows, e),
            "norm": norm(f"{side}.layernorm_embedding"),
        },
        "layers": _stacked(layers, layer),
    }


# Of each family: its rules, a tensor that all its models have, and what a model with a head puts before its names.
_FAMILIES: dict[type, tuple[Callable[[Any, _Names], Tree], str, str]] = {
    GPT2Spec: (_gpt2, "wpe.weight", "transformer."),
    LlamaSpec: (_llama, "embed_tokens.weight", "model."),
    T5Spec: (_t5, "encoder.final_layer_norm.weight", ""),
    BartSpec: (_bart, "encoder.layernorm_embedding.weight", "model."),
}
