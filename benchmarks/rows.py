"""The rows that both sides train on and write from: real records of E2E as token ids, written to a file once."""

import json
from pathlib import Path

import numpy as np

from benchmarks.files import Row
from prefix_jax import tasks
from prefix_jax.config import Config, default_config
from prefix_jax.data.tokens import Ragged, TokenisedSet, tokenise_sources
from prefix_jax.disk import write_text
from prefix_jax.training import selection, session, token_sets

SEED = 5


def configuration(source: str, dtype: str, length: int = 10, hidden: int = 512, sites: str = "all") -> Config:
    """Returns the benchmark's configuration: E2E, and a prefix through the MLP that PEFT's has."""
    config = default_config()
    config.model.update(source=source, dtype=dtype)
    config.data.task = "e2e"
    config.prefix.update(length=length, hidden=hidden, sites=sites)
    return config


def write(source: str, path: Path, training: int, test: int) -> None:
    """Writes the first records of the training set in a fixed random order, and the first test inputs, as ids."""
    opened = session.open_session(configuration(source, "float32"))
    config = opened.config
    data = token_sets.tokenised(opened, selection.text_pairs(config, "train"))
    order = np.random.default_rng(SEED).permutation(len(data))[:training]
    rows = [(data.sources[i].tolist(), data.targets[i].tolist()) for i in order]
    records = tasks.inputs("e2e", "test", config.data.path, selection.columns(config), test)
    inputs = tokenise_sources([r.source for r in records], opened.tokenizer, opened.formats.source, 512)
    write_text(path, json.dumps({"train": rows, "test": [inputs[i].tolist() for i in range(len(records))]}))


def as_set(rows: list[Row]) -> TokenisedSet:
    """Returns the rows as the product's own data set."""

    def ragged(parts: list[list[int]]) -> Ragged:
        offsets = np.cumsum([0, *map(len, parts)]).astype(np.int64)
        return Ragged(np.concatenate([np.asarray(p, np.int32) for p in parts]), offsets)

    return TokenisedSet(ragged([r.source for r in rows]), ragged([r.target for r in rows]))
