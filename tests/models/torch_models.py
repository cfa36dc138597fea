"""Small torch models with random weights, our trees of the same numbers, and torch's own answers with a prefix.

The mapping is written here on its own, so that it and the loader's rules check each other.
"""

import contextlib
import dataclasses
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from transformers.cache_utils import DynamicCache  # noqa: E402
from transformers.models.gpt_neo import modeling_gpt_neo  # noqa: E402

from prefix_jax.models import (  # noqa: E402
    Model,
    ModelConfig,
    build,
    from_hf,
)
from prefix_jax.models.leaves import Leaf, from_array  # noqa: E402
from prefix_jax.models.prefix import Past, Prefix, PrefixKV  # noqa: E402, F401
from prefix_jax.models.pretrained.mapping import to_tree  # noqa: E402

# XLA's lowest level of optimisation: half the time to compile, and the same mathematics.
QUICK = {"xla_backend_optimization_level": 0}


def jit(function: Any) -> Any:
    """`jax.jit` for tests: quick to compile."""
    return jax.jit(function, compiler_options=QUICK)


class Pair(NamedTuple):
    """The same network twice."""

    torch: Any
    model: Model
    variables: dict

    @property
    def model_config(self) -> ModelConfig:
        return self.model.model_config


def pair(kind: str, **options: Any) -> Pair:
    """A model of transformers' architecture of this name."""
    if kind == "GPT2":
        return gpt2(**options)
    if kind in ("Llama", "Mistral", "Qwen2"):
        return llama(kind, **options)
    if kind in ("T5", "UMT5"):
        return t5(kind, **options)
    return (bart_like if kind in BART_LIKE.values() else decoder_only)(kind, **options)


def config_class(kind: str) -> Any:
    names = (f"{kind}TextConfig", f"{kind}Config")
    return next(getattr(transformers, name) for name in names if hasattr(transformers, name))


def gpt2(**options: Any) -> Pair:
    shape = dict(vocab_size=61, n_layer=3, n_embd=24, n_head=4, n_positions=40)
    config = transformers.GPT2Config(**{**shape, **options}, attn_implementation="eager")
    network = _random(transformers.GPT2LMHeadModel(config))
    model = build(from_hf(network.config.to_dict()))
    return Pair(network, model, {"params": _gpt2_tree(network, model.model_config)})


def llama(kind: str = "Llama", **options: Any) -> Pair:
    """Llama, Mistral or Qwen2."""
    shape = dict(vocab_size=61, hidden_size=24, intermediate_size=40, num_hidden_layers=3, max_position_embeddings=64)
    heads = dict(num_attention_heads=4, num_key_value_heads=2)
    config = getattr(transformers, f"{kind}Config")(**{**shape, **heads, "attn_implementation": "eager", **options})
    network = _random(getattr(transformers, f"{kind}ForCausalLM")(config))
    model = build(from_hf(config.to_dict()))
    return Pair(network, model, {"params": _llama_tree(network, model.model_config)})


def decoder_only(kind: str, **options: Any) -> Pair:
    """A model of any other family of transformers, its tree by the rules of the family here."""
    config = config_class(kind)(**{"attn_implementation": "eager", **options}, experts_implementation="eager")
    network = _random(getattr(transformers, f"{kind}ForCausalLM")(config))
    model = build(from_hf(config.to_dict()))
    return Pair(network, model, {"params": _tree_by_rules(network, model.model_config)})


def _tree_by_rules(network: Any, model_config: ModelConfig) -> dict:
    tree = to_tree(model_config, {name: from_array(value) for name, value in _state(network).items()})
    return jax.tree.map(lambda leaf: jnp.asarray(leaf.all()), tree, is_leaf=lambda x: isinstance(x, Leaf))


def tree_of(network: Any, model_config: ModelConfig) -> dict:
    """Our tree of a torch network's weights: by a mapping written here, for the families that have one."""
    own = {"gpt2": _gpt2_tree, "llama": _llama_tree, "t5": _t5_tree, "umt5": _t5_tree}
    own |= dict.fromkeys(BART_LIKE, _bart_tree)
    return own.get(model_config.family, _tree_by_rules)(network, model_config)


def t5(kind: str = "T5", **options: Any) -> Pair:
    """T5, or a family with its tensors."""
    shape = dict(vocab_size=61, d_model=24, d_kv=8, d_ff=32, num_layers=3, num_heads=3, num_decoder_layers=2)
    # Few buckets, so that short rows reach the logarithmic ones.
    buckets = dict(relative_attention_num_buckets=8, relative_attention_max_distance=12)
    raw = {**shape, **buckets, "model_type": kind.lower(), "tie_word_embeddings": True, **options}
    config = getattr(transformers, f"{kind}Config")(**raw, attn_implementation="eager")
    config.tie_word_embeddings = raw["tie_word_embeddings"]
    network = getattr(transformers, f"{kind}ForConditionalGeneration")(config)
    # Where the head is its own, transformers unties the two embeddings of a new model too; released ones share them.
    network.encoder.embed_tokens = network.decoder.embed_tokens = network.shared
    network = _random(network)
    assert (network.lm_head.weight is network.shared.weight) == raw["tie_word_embeddings"]
    model = build(from_hf(raw))
    return Pair(network, model, {"params": _t5_tree(network, model.model_config)})


# Families with BART's layers, by their names here.
BART_LIKE = {
    "bart": "Bart",
    "mbart": "MBart",
    "pegasus": "Pegasus",
    "marian": "Marian",
    "m2m_100": "M2M100",
    "blenderbot": "Blenderbot",
    "blenderbot-small": "BlenderbotSmall",
}


def bart(**options: Any) -> Pair:
    return bart_like("Bart", **options)


def bart_like(kind: str, **options: Any) -> Pair:
    """A model of a family with BART's layers, its tree by the mapping here."""
    shape = dict(vocab_size=61, d_model=24, encoder_layers=3, decoder_layers=2, max_position_embeddings=40)
    heads = dict(encoder_attention_heads=4, decoder_attention_heads=4, encoder_ffn_dim=36, decoder_ffn_dim=32)
    # Marian's own default is outside so small a vocabulary.
    ids = dict(pad_token_id=60, decoder_start_token_id=60) if kind == "Marian" else {}
    config = getattr(transformers, f"{kind}Config")(**{**shape, **heads, **ids, **options}, attn_implementation="eager")
    head = "MTModel" if kind == "Marian" else "ForConditionalGeneration"
    network = getattr(transformers, kind + head)(config)
    # As for T5: with a head of its own, transformers unties the embeddings of a new model too.
    network.model.encoder.embed_tokens = network.model.decoder.embed_tokens = network.model.shared
    network = _random(network)
    if hasattr(network, "final_logits_bias"):
        with torch.no_grad():
            network.final_logits_bias.normal_(generator=torch.Generator().manual_seed(1))
    model = build(from_hf(config.to_dict()))
    return Pair(network, model, {"params": _bart_tree(network, model.model_config)})


def _random(network: Any, seed: int = 0) -> Any:
    """Every parameter drawn anew: biases and norms included, which torch starts at 0 and 1."""
    generator = torch.Generator().manual_seed(seed)
    offset = "gemma" in network.config.model_type or "nemotron" in network.config.model_type
    norm = 0.0 if offset else 1.0  # they multiply by 1 + a norm's weight
    with torch.no_grad():
        for name, parameter in drawn(network).items():
            parameter.normal_(0.0, 0.2, generator=generator)
            if "norm" in name or ".ln_" in name:
                parameter.add_(norm if name.endswith("weight") else 0.0)
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    return network.eval()


def drawn(network: Any) -> dict[str, Any]:
    """The parameters that are random: all but positions that are sines."""
    sines = [module for module in network.modules() if "Sinusoidal" in type(module).__name__]
    fixed = {id(parameter) for module in sines for parameter in module.parameters()}
    return {name: parameter for name, parameter in network.named_parameters() if id(parameter) not in fixed}


def _state(network: Any) -> dict[str, np.ndarray]:
    return {name: value.detach().numpy() for name, value in network.state_dict().items()}


def _layers(trees: list[dict]) -> dict:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def _out(weight: np.ndarray, model_config: ModelConfig) -> np.ndarray:
    """[E, (K G) D] of a torch Linear to [K, G, D, E]."""
    groups = model_config.heads // model_config.kv_heads
    return weight.T.reshape(model_config.kv_heads, groups, model_config.head_dim, weight.shape[0])


def _gpt2_tree(network: Any, model_config: ModelConfig) -> dict:
    w = _state(network)

    def layer(i: int) -> dict:
        p = f"transformer.h.{i}."
        query, key, value = np.split(w[p + "attn.c_attn.weight"], 3, axis=1)
        biases = np.split(w[p + "attn.c_attn.bias"], 3)
        heads = (model_config.heads, model_config.head_dim)
        qkv = np.stack([m.reshape(-1, *heads) for m in (query, key, value)], axis=2)
        return {
            "attention_norm": {"scale": w[p + "ln_1.weight"], "bias": w[p + "ln_1.bias"]},
            "attention": {
                "qkv": {"kernel": qkv, "bias": np.stack([b.reshape(heads) for b in biases], axis=1)},
                "out": {
                    "kernel": w[p + "attn.c_proj.weight"].reshape(model_config.heads, 1, model_config.head_dim, -1),
                    "bias": w[p + "attn.c_proj.bias"],
                },
            },
            "mlp_norm": {"scale": w[p + "ln_2.weight"], "bias": w[p + "ln_2.bias"]},
            "mlp": {
                "up": {"kernel": w[p + "mlp.c_fc.weight"], "bias": w[p + "mlp.c_fc.bias"]},
                "down": {"kernel": w[p + "mlp.c_proj.weight"], "bias": w[p + "mlp.c_proj.bias"]},
            },
        }

    tree = {
        "embedding": {"tokens": w["transformer.wte.weight"], "positions": w["transformer.wpe.weight"]},
        "layers": _layers([layer(i) for i in range(model_config.layers)]),
        "final_norm": {"scale": w["transformer.ln_f.weight"], "bias": w["transformer.ln_f.bias"]},
    }
    return _with_head(tree, w, model_config)


def _with_head(tree: dict, w: dict[str, np.ndarray], model_config: ModelConfig) -> dict:
    if not model_config.tie_embeddings:
        tree["head"] = {"tokens": w["lm_head.weight"]}
    return jax.tree.map(jnp.asarray, tree)


def _llama_tree(network: Any, model_config: ModelConfig) -> dict:
    w = _state(network)

    def qkv(path: str, kind: str) -> np.ndarray:
        """[..., K, G + 2, D]: query head k * G + g belongs to key-value head k."""
        query, key, value = (w[f"{path}.{part}_proj.{kind}"] for part in "qkv")
        rest = (query.shape[1],) if query.ndim == 2 else ()
        heads = [m.reshape(model_config.kv_heads, -1, model_config.head_dim, *rest) for m in (query, key, value)]
        fused = np.concatenate(heads, axis=1)
        return np.moveaxis(fused, -1, 0) if rest else fused

    def layer(i: int) -> dict:
        p = f"model.layers.{i}."
        attention = {"qkv": {"kernel": qkv(p + "self_attn", "weight")}}
        if model_config.qkv_bias:
            attention["qkv"]["bias"] = qkv(p + "self_attn", "bias")
        attention["out"] = {"kernel": _out(w[p + "self_attn.o_proj.weight"], model_config)}
        if model_config.out_bias:
            attention["out"]["bias"] = w[p + "self_attn.o_proj.bias"]
        mlp = {name: {"kernel": w[p + f"mlp.{name}_proj.weight"].T} for name in ("gate", "up", "down")}
        if model_config.mlp_bias:
            mlp = {name: {**tree, "bias": w[p + f"mlp.{name}_proj.bias"]} for name, tree in mlp.items()}
        return {
            "attention_norm": {"scale": w[p + "input_layernorm.weight"]},
            "attention": attention,
            "mlp_norm": {"scale": w[p + "post_attention_layernorm.weight"]},
            "mlp": mlp,
        }

    tree = {
        "embedding": {"tokens": w["model.embed_tokens.weight"]},
        "layers": _layers([layer(i) for i in range(model_config.layers)]),
        "final_norm": {"scale": w["model.norm.weight"]},
    }
    return _with_head(tree, w, model_config)


def _t5_tree(network: Any, model_config: ModelConfig) -> dict:
    w = _state(network)

    def parts(path: str, names: str) -> np.ndarray:
        """[E, H, parts, D]"""
        return np.stack(
            [w[f"{path}.{n}.weight"].T.reshape(-1, model_config.heads, model_config.head_dim) for n in names], axis=2
        )

    def mlp(path: str) -> dict:
        down = {"kernel": w[f"{path}.wo.weight"].T}
        if not model_config.gated:
            return {"up": {"kernel": w[f"{path}.wi.weight"].T}, "down": down}
        gate, up = ({"kernel": w[f"{path}.wi_{j}.weight"].T} for j in (0, 1))
        return {"gate": gate, "up": up, "down": down}

    def layer(side: str, i: int) -> dict:
        block = f"{side}.block.{i}.layer"
        last = 2 if side == "decoder" else 1
        own = f"{block}.0.SelfAttention"
        tree = {
            "attention_norm": {"scale": w[f"{block}.0.layer_norm.weight"]},
            "attention": {
                "qkv": {"kernel": parts(own, "qkv")},
                "out": {"kernel": _out(w[f"{own}.o.weight"], model_config)},
            },
            "mlp_norm": {"scale": w[f"{block}.{last}.layer_norm.weight"]},
            "mlp": mlp(f"{block}.{last}.DenseReluDense"),
        }
        if model_config.layer_bias:
            tree["attention"]["relative_bias"] = w[f"{own}.relative_attention_bias.weight"]
        if side == "decoder":
            cross = f"{block}.1.EncDecAttention"
            tree["cross_norm"] = {"scale": w[f"{block}.1.layer_norm.weight"]}
            tree["cross"] = {
                "query": {"kernel": parts(cross, "q")},
                "key_value": {"kernel": parts(cross, "kv")},
                "out": {"kernel": _out(w[f"{cross}.o.weight"], model_config)},
            }
        return tree

    def side(name: str, count: int) -> dict:
        bias = w[f"{name}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"]
        return {
            **({} if model_config.layer_bias else {"relative_bias": bias}),
            "layers": _layers([layer(name, i) for i in range(count)]),
            "final_norm": {"scale": w[f"{name}.final_layer_norm.weight"]},
        }

    tree = {
        "embedding": {"tokens": w["shared.weight"]},
        "encoder": side("encoder", model_config.encoder_layers),
        "decoder": side("decoder", model_config.layers),
    }
    return _with_head(tree, w, model_config)


def _bart_tree(network: Any, model_config: ModelConfig) -> dict:
    w = _state(network)

    def norm(path: str) -> dict:
        return {"scale": w[f"{path}.weight"], "bias": w[f"{path}.bias"]}

    def linear(path: str) -> dict:
        return {"kernel": w[f"{path}.weight"].T, "bias": w[f"{path}.bias"]}

    def parts(path: str, names: str) -> dict:
        heads = (model_config.heads, model_config.head_dim)
        kernels = [w[f"{path}.{n}_proj.weight"].T.reshape(-1, *heads) for n in names]
        biases = [w[f"{path}.{n}_proj.bias"].reshape(heads) for n in names]
        return {"kernel": np.stack(kernels, axis=2), "bias": np.stack(biases, axis=1)}

    def out(path: str) -> dict:
        return {"kernel": _out(w[f"{path}.out_proj.weight"], model_config), "bias": w[f"{path}.out_proj.bias"]}

    def layer(path: str) -> dict:
        tree = {
            "attention": {"qkv": parts(f"{path}.self_attn", "qkv"), "out": out(f"{path}.self_attn")},
            "attention_norm": norm(f"{path}.self_attn_layer_norm"),
            "mlp": {"up": linear(f"{path}.fc1"), "down": linear(f"{path}.fc2")},
            "mlp_norm": norm(f"{path}.final_layer_norm"),
        }
        if "decoder" in path:
            cross = f"{path}.encoder_attn"
            tree["cross"] = {"query": parts(cross, "q"), "key_value": parts(cross, "kv"), "out": out(cross)}
            tree["cross_norm"] = norm(f"{path}.encoder_attn_layer_norm")
        return tree

    def side(name: str, count: int) -> dict:
        path = f"model.{name}"
        tree = {"layers": _layers([layer(f"{path}.layers.{i}") for i in range(count)])}
        if f"{path}.layer_norm.weight" in w:
            tree["final_norm"] = norm(f"{path}.layer_norm")
        positions = {} if model_config.sines else {"table": w[f"{path}.embed_positions.weight"]}
        if f"{path}.layernorm_embedding.weight" in w:
            positions["norm"] = norm(f"{path}.layernorm_embedding")
        return {**tree, "positions": positions} if positions else tree

    tree = {
        "embedding": {"tokens": w["model.shared.weight"]},
        "encoder": side("encoder", model_config.encoder_layers),
        "decoder": side("decoder", model_config.layers),
        **({"logits_bias": w["final_logits_bias"][0]} if "final_logits_bias" in w else {}),
    }
    return _with_head(tree, w, model_config)


def random_prefix(
    model_config: ModelConfig, length: int, seed: int = 0, offset: int | None = None, layers: dict | None = None
) -> Prefix:
    """A prefix at every site, of unit scale; `layers` names those of a site that carry one.

    In a model with ALiBi its slots have distances, as those of transformers' caches.
    """
    generator = np.random.default_rng(seed)
    sites = {}
    for name in model_config.sites:
        chosen = (layers or {}).get(name)
        count = model_config.site_layers(name) if chosen is None else len(chosen)
        shape = (2, count, model_config.kv_heads, length, model_config.head_dim)
        key, value = generator.standard_normal(shape, np.float32)
        sites[name] = PrefixKV(jnp.asarray(key), jnp.asarray(value), layers=chosen)
    distances = model_config.alibi is not None and offset in (None, length)
    return Prefix(**sites, position_offset=jnp.int32(length if offset is None else offset), distances=distances)


def leaves_of(prefix: Prefix) -> dict[str, Any]:
    """Torch leaves with gradients for each site's keys and values."""
    sites = {name: getattr(prefix, name) for name in ("decoder", "encoder", "cross")}
    return {
        f"{name}.{part}": torch.tensor(np.asarray(getattr(site, part)), requires_grad=True)
        for name, site in sites.items()
        if site is not None
        for part in ("key", "value")
    }


def cache_of(leaves: dict[str, Any], batch: int, times: int = 1) -> DynamicCache:
    """A cache that holds the prefix and nothing else; not made from a configuration, so that no window cuts it.

    Each head is in it so many times.
    """
    cache = DynamicCache()
    keys, values = (leaves[f"decoder.{part}"].repeat_interleave(times, 1) for part in ("key", "value"))
    for layer, (key, value) in enumerate(zip(keys, values, strict=True)):
        cache.update(key.expand(batch, *key.shape), value.expand(batch, *value.shape), layer)
    return cache


def masks(model_config: ModelConfig, segment_ids: np.ndarray, prefix: int) -> Any:
    """The mask of all layers, or where they are of two kinds, those of full and of sliding layers by name."""
    windows = {kind.window for kind in model_config.layer_pattern}
    if model_config.family == "gpt_neo":  # its layers have windows of their own
        return visible(segment_ids, prefix)
    if len(windows) == 1:
        return visible(segment_ids, prefix, *windows)
    near = max(window for window in windows if window is not None)
    names = {"full_attention": None, "sliding_attention": near}
    return {name: visible(segment_ids, prefix, window) for name, window in names.items()}


@contextlib.contextmanager
def open_windows(network: Any, prefix: int) -> Iterator[None]:
    """Within it, every query of GPT-Neo's local layers sees a prefix in a cache, as with every window here."""
    kind = modeling_gpt_neo.GPTNeoSelfAttention
    plain = [(module, module.bias) for module in network.modules() if isinstance(module, kind)]
    for module, seen in plain:
        module.bias = seen.clone()
        module.bias[..., :prefix] = True
    yield
    for module, seen in plain:
        module.bias = seen


def visible(segment_ids: np.ndarray, prefix: int = 0, window: int | None = None) -> Any:
    """An additive `[B, 1, T, P + T]` mask: the prefix, and tokens of the same segment, causally, in the window."""
    columns = np.arange(segment_ids.shape[1])
    seen = (segment_ids[:, :, None] == segment_ids[:, None, :]) & (columns[:, None] >= columns)
    if window is not None:
        seen &= columns[:, None] - columns < window
    seen = np.concatenate([np.ones((*seen.shape[:2], prefix), bool), seen], axis=-1)
    return torch.tensor(np.where(seen, 0.0, -1e30).astype(np.float32))[:, None]


@contextlib.contextmanager
def prefix_in_attention(
    network: Any, leaves: dict[str, Any], layers: dict[str, tuple[int, ...] | None]
) -> Iterator[None]:
    """Within it, the eager attention of an encoder-decoder sees the prefix in front of its keys, with no position bias
    and no mask.
    """
    source = sys.modules[type(network).__module__]
    plain = source.eager_attention_forward
    found = {}
    for site, modules in _attentions(network).items():
        if f"{site}.key" in leaves:
            for row, layer in enumerate(layers.get(site) or range(len(modules))):
                found[modules[layer]] = (leaves[f"{site}.key"][row], leaves[f"{site}.value"][row])

    def eager(module, query, key, value, mask, **kwargs):
        if module not in found:
            return plain(module, query, key, value, mask, **kwargs)
        if kwargs.get("position_bias") is not None:
            kwargs["position_bias"] = padded(kwargs["position_bias"], found[module][0].shape[1])
        own_key, own_value = (leaf.expand(query.shape[0], *leaf.shape) for leaf in found[module])
        both = torch.cat([own_key, key], 2), torch.cat([own_value, value], 2)
        return plain(module, query, *both, padded(mask, own_key.shape[2]), **kwargs)

    def padded(added, length):
        return None if added is None else torch.nn.functional.pad(added, (length, 0))

    source.eager_attention_forward = eager
    try:
        yield
    finally:
        source.eager_attention_forward = plain


def _attentions(network: Any) -> dict[str, list[Any]]:
    """The attention modules of each site, by layer."""
    if hasattr(network, "encoder"):  # T5
        encoder, decoder = network.encoder.block, network.decoder.block
        return {
            "encoder": [block.layer[0].SelfAttention for block in encoder],
            "decoder": [block.layer[0].SelfAttention for block in decoder],
            "cross": [block.layer[1].EncDecAttention for block in decoder],
        }
    encoder, decoder = network.model.encoder.layers, network.model.decoder.layers
    return {
        "encoder": [layer.self_attn for layer in encoder],
        "decoder": [layer.self_attn for layer in decoder],
        "cross": [layer.encoder_attn for layer in decoder],
    }


def differentiable(prefix: Prefix) -> dict[str, Any]:
    """The trained part of a prefix: its sites' keys and values."""
    sites = {name: getattr(prefix, name) for name in ("decoder", "encoder", "cross")}
    return {n: {"key": s.key, "value": s.value} for n, s in sites.items() if s is not None}


def with_leaves(prefix: Prefix, leaves: dict[str, Any]) -> Prefix:
    return prefix.replace(**{name: getattr(prefix, name).replace(**pair) for name, pair in leaves.items()})


def assert_gradients(found: dict[str, Any], leaves: dict[str, Any], tolerance: float) -> None:
    """Our gradients against those that torch has left in the leaves; none may be zero."""
    for name, leaf in leaves.items():
        site, part = name.split(".")
        expected = leaf.grad.numpy()
        assert np.abs(expected).max() > 1e-4, f"the gradient of {name} vanishes"
        np.testing.assert_allclose(found[site][part], expected, atol=tolerance, rtol=tolerance, err_msg=name)


def replaced(model_config: ModelConfig, **changes: Any) -> ModelConfig:
    return dataclasses.replace(model_config, **changes)
