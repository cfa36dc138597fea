"""A bank of prefixes: each row writes what it writes alone with its own, and slots are filled without compiling."""

import dataclasses

import jax
import numpy as np
import pytest

from prefix_jax import decoding
from prefix_jax.decoding import bank as banks
from prefix_jax.decoding.bank import Bank
from prefix_jax.decoding.generate import _from_shelf, decode_from_bank
from prefix_jax.errors import UserError
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


@pytest.mark.parametrize("family", HOW)
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


def test_slots_are_filled_replaced_and_emptied_without_compiling():
    pair = reference.network("llama")
    options, bank = decoding.GenerationConfig(strategy="greedy", max_length=4), Bank(pair.model_config)
    one, other = (tm.random_prefix(pair.model_config, 3, seed) for seed in (1, 2))
    run = lambda name: decode_from_bank(pair.model, pair.variables, bank, [name], [[3, 4, 5]], options, 1)
    bank.put("a", one)
    first = run("a")
    counts = lambda: (_from_shelf._cache_size(), banks.filled._cache_size())
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
    shelf = bank.shelves[banks.kind_of(tm.random_prefix(model_config, 9))]
    assert np.isneginf(shelf.biases["decoder"][banks.NONE]).all()
