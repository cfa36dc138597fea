"""What PEFT computes with prefixes, prompts and LoRA that are written here, and torch with an infix, beside our own."""

import copy
import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prefix_jax.convert import convert
from prefix_jax.tuning import TunedState, lora, store
from tests.models import torch_models as tm
from tests.models.torch_models import torch

IDS, TARGET = np.random.default_rng(0).integers(3, 61, (2, 9)), np.random.default_rng(1).integers(3, 61, (2, 6))
SLOTS, SOURCE = 4, 4


def in_peft(folder: Path, pair: tm.Pair, tuned: TunedState, method: str) -> Any:
    """PEFT's model with what was tuned, read from the files that we write for it; `pair.torch` stays as it is."""
    identity = {"name": "a/model"}
    store.save(folder / "tuned", tuned, identity, pair.model_config, {"method": method, "step": 1})
    convert(str(folder), "peft", str(folder / "peft"))
    lib = pytest.importorskip("peft")
    return lib.PeftModel.from_pretrained(copy.deepcopy(pair.torch), str(folder / "peft")).eval()


def ours(pair: tm.Pair, collections: dict, reserved: int = 0, prefix: Any = None) -> np.ndarray:
    """Logits, after so many reserved places at the front of the input."""
    run = _logits(pair.model, reserved)
    return np.asarray(run(pair.variables, jax.tree.map(jnp.asarray, collections), prefix))


@functools.cache
def _logits(model: Any, reserved: int) -> Any:
    ids = jnp.asarray(np.pad(IDS, [(0, 0), (reserved, 0)]))

    def run(variables, collections, prefix):
        variables = {**variables, **collections}
        if not model.model_config.is_encoder_decoder:
            return model.apply(variables, ids, prefix=prefix)[:, reserved:]
        memory = model.apply(variables, ids, jnp.ones(ids.shape, jnp.int32), method="encode")
        cross = model.apply(variables, memory, method="cross_key_values")
        mask, target = jnp.ones(ids.shape, bool), jnp.asarray(TARGET)
        hidden, _ = model.apply(variables, target, jnp.arange(6), cross, mask, method="decode")
        return model.apply(variables, hidden, method="logits")

    return tm.jit(run)


def theirs(pair: tm.Pair, network: Any, reserved: int = 0) -> np.ndarray:
    ids = torch.tensor(IDS)
    more = {"decoder_input_ids": torch.tensor(TARGET)} if pair.model_config.is_encoder_decoder else {}
    with torch.no_grad():
        found = network.eval()(input_ids=ids, attention_mask=torch.ones_like(ids), **more).logits.numpy()
    return found if pair.model_config.is_encoder_decoder else found[:, reserved:]


def random_lora(pair: tm.Pair, targets: str, seed: int = 0) -> dict:
    names = lora.TARGETS if targets == "all" else tuple(targets.split(","))
    tree = lora._init(jax.random.key(seed), pair.variables["params"], names, 3)
    generator = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jnp.asarray(generator.standard_normal(leaf.shape, np.float32) * 0.3), tree)


def with_prefix(pair: tm.Pair, folder: Path) -> tuple[np.ndarray, np.ndarray]:
    prefix = tm.random_prefix(pair.model_config, SLOTS)
    network = in_peft(folder, pair, TunedState(prefix, {}), "prefix")
    return ours(pair, {}, prefix=prefix), theirs(pair, network)


def with_lora(pair: tm.Pair, folder: Path, targets: str = "all") -> tuple[np.ndarray, np.ndarray]:
    tree = {"lora": random_lora(pair, targets)}
    return ours(pair, tree), theirs(pair, in_peft(folder, pair, TunedState(None, tree), "lora"))


def with_prompt(pair: tm.Pair, folder: Path) -> tuple[np.ndarray, np.ndarray]:
    rows = np.random.default_rng(0).standard_normal((SLOTS, pair.model_config.embedding_width), np.float32)
    tree = {"prompt": {"embeddings": rows}}
    network = in_peft(folder, pair, TunedState(None, tree), "prompt")
    return ours(pair, tree, SLOTS), theirs(pair, network, SLOTS)


def with_infix(pair: tm.Pair) -> tuple[np.ndarray, np.ndarray]:
    """Of a decoder-only model whose windows no row fills: torch reads the source, then the target with the source's
    cache and the infix after it.
    """
    config = pair.model_config
    infix = tm.random_prefix(config, SLOTS).replace(infix=True)
    rows, columns = IDS.shape
    targets = np.broadcast_to(np.arange(SOURCE, columns), (rows, columns - SOURCE))
    found = tm.jit(lambda infix: pair.model.apply(pair.variables, IDS, target_positions=targets, prefix=infix))(infix)
    tokens, leaves = torch.tensor(IDS), tm.leaves_of(infix)
    with torch.no_grad():
        first = pair.torch(tokens[:, :SOURCE], use_cache=True).past_key_values
        own = tm.cache_of(leaves, rows, config.cached_heads // config.kv_heads)
        layers = [
            (torch.cat([a.keys, b.keys], 2), torch.cat([a.values, b.values], 2))
            for a, b in zip(first.layers, own.layers, strict=True)
        ]
        expected = pair.torch(
            tokens[:, SOURCE:],
            past_key_values=tm.DynamicCache(layers),
            position_ids=torch.arange(SOURCE + SLOTS, columns + SLOTS)[None].expand(rows, -1),
            attention_mask=torch.ones(rows, columns + SLOTS, dtype=torch.long),
        ).logits.numpy()
    return np.asarray(found), expected
