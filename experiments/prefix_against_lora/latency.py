"""How long decoding takes with LoRA merged, LoRA beside the weights, a prefix, and the bare model, as ratios.

Seconds are the CPU time of this process, which other programs on the machine lengthen little; all variants take turns.
"""

import statistics
import time
from typing import Any, NamedTuple

import jax
import numpy as np

from prefix_jax import decoding, tuning
from prefix_jax.config import default_config
from prefix_jax.models.prefix import Prefix
from prefix_jax.training import session
from prefix_jax.tuning import TunedState, lora

PROMPT, NEW, ROUNDS = 128, 32, 5
BATCHES = (1, 8)
BARE = "the bare model"
_LORA = {"query and value": {}, "every matrix": {"lora.targets": "all"}}
_PREFIXES = (10, 100, 400)


class Variant(NamedTuple):
    name: str
    variables: dict[str, Any]
    prefix: Prefix | None


def measure(source: str, dtype: str = "bfloat16") -> dict[str, Any]:
    """Returns for each batch size a new token's CPU seconds by variant, and their ratios to the bare model's."""
    config = default_config()
    config.model.update(source=source, dtype=dtype)
    opened = session.open_session(config)
    every = variants(opened)
    found = {str(batch): _turns(opened, every, batch) for batch in BATCHES}
    return {"model": source, "dtype": dtype, "prompt": PROMPT, "new": NEW, "rounds": ROUNDS, "batches": found}


def variants(opened: session.Session) -> list[Variant]:
    """Returns what is timed; what is tuned is as it begins, for time does not depend on its numbers."""
    base = opened.base
    found = [Variant(BARE, base, None)]
    for named, options in _LORA.items():
        kept = _kept(opened, "lora", options)
        merged = jax.jit(lora.merged)(base["params"], kept.collections["lora"])
        found.append(Variant(f"LoRA of {named}, merged", {"params": merged}, None))
        found.append(Variant(f"LoRA of {named}, beside the weights", kept.onto(base), None))
    for length in _PREFIXES:
        kept = _kept(opened, "prefix", {"prefix.length": length, "prefix.reparameterisation": "none"})
        found.append(Variant(f"prefix {length}", base, kept.prefix))
    return found


def _kept(opened: session.Session, name: str, options: dict[str, Any]) -> TunedState:
    config = opened.config.copy_and_resolve_references()
    config.method = name
    config.update_from_flattened_dict(options)
    method = tuning.build(config, opened.model)
    return method.export(method.init(jax.random.key(0), opened.base), opened.base, None)


def _turns(opened: session.Session, every: list[Variant], batch: int) -> dict[str, Any]:
    draw = np.random.default_rng(0)
    sources = draw.integers(3, opened.model_config.vocab_size, (batch, PROMPT)).tolist()
    options = decoding.GenerationConfig(strategy="greedy", max_length=NEW, min_length=NEW - 1)

    def once(variant: Variant) -> float:
        began = time.process_time()
        decoding.decode_all(opened.model, variant.variables, variant.prefix, sources, options, batch=batch)
        return time.process_time() - began

    for variant in every:
        once(variant)
    rounds = [{variant.name: once(variant) for variant in every} for _ in range(ROUNDS)]
    return {
        variant.name: {
            "cpu_seconds_a_token": statistics.median(r[variant.name] for r in rounds) / NEW,
            "over_bare": statistics.median(r[variant.name] / r[BARE] for r in rounds),
            "rounds": [round(r[variant.name], 4) for r in rounds],
        }
        for variant in every
    }
