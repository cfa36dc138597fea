"""A bank of prefixes: each row writes what it writes alone with its own, and slots are filled without compiling."""

import dataclasses

import jax
import numpy as np
import pytest

from prefix_jax import decoding
from prefix_jax.decoding import shelf as shelves
from prefix_jax.decoding.bank import Bank
from prefix_jax.decoding.generate import _from_shelf, decode_from_bank
from prefix_jax.errors import UserError
from prefix_jax.models.adapter_layers import LORA, PROMPT
from prefix_jax.tuning import TunedState
from prefix_jax.tuning import lora as lora_method
from tests.decoding import reference
from tests.models import torch_models as tm

# Cases of windows, of relative and learned positions, of ALiBi, and with three sites; each strategy once at least.
HOW = {
    "llama": dict(strategy="greedy"),
    "gemma3": dict(strategy="beam", beams=3),
    "t5": dict(strategy="beam", beams=3),
    "bart": dict(strategy="sample", seed=5, top_k=20),
    "bloom": dict(strategy="greedy"),
}


def prefixes(model_config) -> dict:
    """Prefixes of several lengths, layers, offsets and biases."""
    last = {site: (model_config.site_layers(site) - 1,) for site in model_config.sites}
    short, long = tm.random_prefix(model_config, 2, 1), tm.random_prefix(model_config, 11, 2)
    some = tm.random_prefix(model_config, 5, 3, layers=last)
    bias = jax.random.normal(jax.random.key(1), long.decoder.key.shape[:-1])
    long = dataclasses.replace(long, decoder=dataclasses.replace(long.decoder, bias=bias))
    return {
        "short": short,
        "long": long,
        "some layers": some,
        "decoder": dataclasses.replace(short, cross=None, encoder=None),
    }


# Of decoder-only models, the night has those without windows.
FAMILIES = [pytest.param(one, marks=pytest.mark.nightly) if one in ("llama", "bloom") else one for one in HOW]


@pytest.mark.parametrize("family", FAMILIES)
def test_each_row_equals_its_solo_run(family):
    pair = reference.network(family)
    own, options = prefixes(pair.model_config), decoding.GenerationConfig(max_length=10, **HOW[family])
    bank = Bank(pair.model_config)
    for name, prefix in own.items():
        bank.put(name, prefix)
    partly = ("some layers", "decoder") if family == "t5" else ()
    names = ["long", None, "short", *partly, "short", "long"]
    inputs = reference.prompts(len(names), 3)
    run = lambda prefix: decoding.decode_all(pair.model, pair.variables, prefix, inputs, options, 4)
    alone = {name: run(own.get(name)) for name in dict.fromkeys(names)}
    found = decode_from_bank(pair.model, pair.variables, bank, names, inputs, options, 4)
    assert found == [alone[name][row] for row, name in enumerate(names)]
    assert len({tuple(map(tuple, one)) for one in alone.values()}) > 2


def lora(pair, rank, targets, seed):
    """Updates of some projections, as training would leave them."""
    tree = lora_method._init(jax.random.key(seed), pair.variables["params"], targets, rank)
    leaves, form = jax.tree.flatten(tree)
    keys = jax.random.split(jax.random.key(seed + 1), len(leaves))
    drawn = [0.4 * jax.random.normal(key, leaf.shape) for key, leaf in zip(keys, leaves)]
    return TunedState(None, {LORA: form.unflatten(drawn)})


def prompt(pair, length, seed):
    rows = jax.random.normal(jax.random.key(seed), (length, pair.model_config.embedding_width))
    return TunedState(None, {PROMPT: {"embeddings": rows}})


@pytest.mark.parametrize(("family", "strategy"), [("llama", "greedy"), ("t5", "beam")])
def test_lora_and_prompts_of_a_row(family, strategy):
    """Of several ranks, projections and lengths, and beside a prefix, on one shelf."""
    pair = reference.network(family)
    short = tm.random_prefix(pair.model_config, 2, 1)
    own = {
        "lora": lora(pair, 2, ("query", "value", "out"), 1),
        "other": dataclasses.replace(lora(pair, 3, ("query", "key", "down"), 2), prefix=short),
        "prompt": prompt(pair, 5, 4).joined(lora(pair, 1, ("up",), 5)),
    }
    kind = shelves.widest([shelves.kind_of(state) for state in own.values()])
    bank = Bank(pair.model_config, 8, kind)
    for name, state in own.items():
        bank.put(name, state)
    names = ["other", "lora", None, "prompt", "lora"]
    options = decoding.GenerationConfig(strategy=strategy, beams=2, max_length=6)
    inputs = reference.prompts(len(names), 3)
    reserving = lambda name, ids: [0] * (bank.reserved(name) if name else 0) + ids
    found = decode_from_bank(
        pair.model, pair.variables, bank, names, [reserving(*one) for one in zip(names, inputs)], options, len(names)
    )
    for name in dict.fromkeys(names):
        state = own.get(name, TunedState())
        rows = [row for row, other in enumerate(names) if other == name]
        ids = [reserving(name, inputs[row]) for row in rows]
        alone = decoding.decode_all(pair.model, state.onto(pair.variables), state.prefix, ids, options, len(rows))
        assert [found[row] for row in rows] == alone, name
    assert len(set(map(tuple, found))) > 3
    with pytest.raises(UserError, match='"wide" has LoRA of rank 8, and there is room for rank 4'):
        bank.put("wide", lora(pair, 7, ("query",), 1))
    with pytest.raises(UserError, match='"lora" has LoRA on .*layers.*, and there is room for it on nothing only'):
        Bank(pair.model_config, 1, kind._replace(updated=())).put("lora", own["lora"])


def test_slots_are_filled_replaced_and_emptied_without_compiling():
    pair = reference.network("llama")
    options, bank = decoding.GenerationConfig(strategy="greedy", max_length=4), Bank(pair.model_config)
    one, other = (tm.random_prefix(pair.model_config, 3, seed) for seed in (1, 2))
    run = lambda name: decode_from_bank(pair.model, pair.variables, bank, [name], [[3, 4, 5]], options, 1)
    bank.put("a", one)
    first = run("a")
    counts = lambda: (_from_shelf._cache_size(), shelves.filled._cache_size())
    before = counts()
    bank.put("a", other)
    second = run("a")
    bank.remove("a")
    bank.put("b", one)
    assert run("b") == first and counts() == before
    assert second == decoding.decode_all(pair.model, pair.variables, other, [[3, 4, 5]], options, 1)


def test_the_least_recently_used_leaves_unless_it_is_in_use():
    model_config = reference.network("llama").model_config
    bank = Bank(model_config, slots=3)
    for seed, name in enumerate("abc"):
        bank.put(name, tm.random_prefix(model_config, 2, seed))
    bank.release("a") if bank.acquire("a") else None
    bank.acquire("b")
    bank.put("d", tm.random_prefix(model_config, 40, 4))
    assert bank.names == ["a", "b", "d"]
    with pytest.raises(UserError, match='"b" is in use'):
        bank.put("b", tm.random_prefix(model_config, 2, 9))
    for name in "ad":
        bank.acquire(name)
    with pytest.raises(UserError, match="all 3 prefixes of the bank are in use"):
        bank.put("e", tm.random_prefix(model_config, 2, 5))
    with pytest.raises(UserError, match='no prefix "c" in the bank; known are "b", "a", "d"'):
        bank.acquire("c")


def test_a_short_prefix_does_not_lie_on_the_shelf_of_a_long_one():
    model_config = reference.network("t5").model_config
    bank = Bank(model_config)
    for seed, count in enumerate((1, 8, 9, 200)):
        bank.put(str(count), tm.random_prefix(model_config, count, seed))
    held = {kind.capacity: len(shelf.offsets) for kind, shelf in bank.shelves.items()}
    assert held == {8: 4, 16: 2, 256: 2}
    shelf = bank.shelves[shelves.kind_of(TunedState(tm.random_prefix(model_config, 9)))]
    assert np.isneginf(shelf.biases["decoder"][shelves.NONE]).all()
