"""Every option either changes the keys of token ids, of the audit and of plans, or changes none of them.

A new option is tried too: where it has words for values, the test asks for another one.
"""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from prefix_jax import config as options
from prefix_jax import dependencies
from prefix_jax.data import array_cache
from prefix_jax.parallel import rules
from prefix_jax.training import session, trainer
from tests import tiny

ROWS = "rows.jsonl"
# Options that are inputs of all three, those of the audit alone, and those of plans alone. Methods take positions of
# the model's context.
IDS = {
    "method", "model.source", "prefix.length", "prefix.position_offset", "prefix.offset",
    "infix.length", "infix.position_offset", "infix.offset",
    "prompt.length", "data.task", "data.path", "data.source_column",
    "data.target_column", "data.max_source_length", "data.max_target_length", "data.source_format",
    "data.target_format", "data.too_long", "data.validation_fraction",
    "data.validation_seed", "data.limit", "data.limit_seed", "data.categories", "training.evaluate_records",
}  # fmt: skip
AUDIT = {"data.keep_special_tokens"}
PLANS = {"data.row_length", "data.seed", "training.batch", "training.accumulation", "mesh.data", "mesh.fsdp"}
# Another value of each option that is not a number, and of numbers to which 1 cannot be added.
OTHERS: dict[str, Any] = {
    "method": "lora", "model.dtype": "bfloat16", "model.quantisation": "int8", "model.attention": "fused",
    "data.task": "xsum", "data.source_column": "document", "data.target_column": "summary",
    "data.source_format": "{source} =>", "data.target_format": " {target} {eos}", "data.row_length": 128,
    "data.max_source_length": 20, "data.max_target_length": 60, "data.categories": "even",
    "data.test_categories": "even", "data.too_long": "drop", "data.empty": "skip", "data.unicode": "NFD",
    "data.chat_template": "{{ x }}", "data.keep_special_tokens": "<s>", "data.strict": "unknown", "data.language": "de",
    "evaluation.bleu_tokenizer": "intl", "evaluation.metrics": "BLEU", "evaluation.failed_run": "error",
    "training.accumulation": 2, "training.loss": "examples", "training.wandb": "x",
    "training.evaluate_records": 2, "optimizer.schedule": "linear", "decoding.strategy": "greedy",
    "decoding.banned_tokens": (1,), "decoding.forced_bos_token": "none",
    "task.labels": "yes,no", "task.answer": "generate", "task.normalisation": "token", "task.boundary": "joined",
    "prompt.reparameterisation": "mlp", "prompt.initialisation": "random",
    "prompt.text": "words", "lora.targets": "key", "adapter.places": "mlp", "finetune.layers": 1,
    **{
        f"{method}.{option}": value for method in ("prefix", "infix") for option, value in dict(
            sites="decoder", reparameterisation="none", initialisation="random", text="words", trained="keys",
            layers="1", position_offset="zero",
        ).items()
    },
}  # fmt: skip
# What must be set for an option to matter.
BESIDE: dict[str, dict[str, Any]] = {
    "data.limit_seed": {"data.limit": 10},
    "data.validation_seed": {"data.validation_fraction": 0.25},
    "prefix.trained": {"prefix.reparameterisation": "none"},
    "infix.trained": {"infix.reparameterisation": "none"},
    "prefix.frozen": {"prefix.reparameterisation": "none"},
    "infix.frozen": {"infix.reparameterisation": "none"},
}


@pytest.fixture(scope="module")
def folder(tiny_models, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("options")
    for name in (ROWS, "other.jsonl"):
        rows = [
            {
                **row, "document": f"{row['source']} !", "summary": f"In short: {row['target']}",
                "category": ("even", "odd")[i % 2],
            }
            for i, row in enumerate(tiny.rows(40 if name == ROWS else 30))
        ]  # fmt: skip
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


def other_value(name: str, value: Any, models: dict[str, Path], folder: Path, family: str) -> Any:
    if name == "model.source":
        return str(models["llama" if family == "gpt2" else "t5"])
    if name == "data.path":
        return str(folder / "other.jsonl")
    if name in OTHERS:
        return OTHERS[name]
    if isinstance(value, str | tuple):
        return pytest.fail(f"{name} is new: give it another value in OTHERS, and name it in IDS or PLANS if it is one")
    return not value if isinstance(value, bool) else value + 1 if isinstance(value, int) else value / 2 or 0.25


def kept_things(config: Any, opened: session.Session) -> dict[str, tuple[str, dict[str, np.ndarray]]]:
    """Returns the key and the arrays of the ids and the plan of training and validation."""
    found = {}

    def record(cache, depends, make):
        made = make()
        found[f"{kind} {type(depends).__name__}"] = dependencies.key(depends), dict(made)
        return made

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(array_cache, "kept", record)
        for kind in ("train", "validation"):
            trainer._batches(opened.of(config), kind, {}, shuffle=kind == "train")
    return found


def set_option(config: Any, name: str, value: Any) -> None:
    *section, option = name.split(".")
    with config.unlocked():
        (config[section[0]] if section else config)[option] = value


def opened_with(config: Any, cached: dict[str, session.Session]) -> session.Session:
    """Returns the session of a configuration, on as many devices as its mesh asks for."""
    key = json.dumps(config.model.to_dict())
    if key not in cached:
        cached[key] = session.open_session(config)
    shards = int(np.prod([max(1, config.mesh[axis]) for axis in rules.ROWS]))
    return replace(cached[key], sharder=SimpleNamespace(row_shards=shards) if shards > 1 else None)  # pyright: ignore


@pytest.mark.parametrize("family", ["gpt2", pytest.param("bart", marks=pytest.mark.nightly)])
def test_every_option_is_an_input_of_the_keys_or_changes_nothing(tiny_models, folder, family):
    base = options.default_config()
    base.model.source = str(tiny_models[family])
    base.data.update(task="text", path=str(folder / ROWS))
    base.training.batch = 4
    base.prefix.hidden = base.infix.hidden = base.prompt.hidden = 8
    cached: dict[str, session.Session] = {}
    changed = {"TokenIds": set(), "DataAudit": set(), "PackingPlan": set()}
    for name, value in options.flat(base.to_dict()).items():
        before = base.copy_and_resolve_references()
        section = name.split(".")[0]
        if section == "infix" and family == "bart":
            continue  # for decoder-only models
        if name in ("data.source_language", "data.target_language"):
            continue  # for tokenizers that mark languages: tests/data/test_language_codes.py
        if name in ("prefix.alibi", "infix.alibi"):
            continue  # for models with ALiBi
        if section in ("prefix", "infix", "prompt", "lora", "adapter", "finetune"):
            before.method = section
        for beside, its in BESIDE.get(name, {}).items():
            set_option(before, beside, its)
        after = before.copy_and_resolve_references()
        wanted = other_value(name, value, tiny_models, folder, family)
        set_option(after, name, 2 if name in ("mesh.data", "mesh.fsdp") else wanted)
        one = kept_things(before, opened_with(before, cached))
        two = kept_things(after, opened_with(after, cached))
        for thing in one:
            (key, arrays), (new_key, new_arrays) = one[thing], two[thing]
            same = arrays.keys() == new_arrays.keys() and all(
                np.array_equal(arrays[part], new_arrays[part]) for part in arrays
            )
            assert same or new_key != key, f"{name} changes the {thing}, whose key leaves it out"
            if new_key != key:
                changed[thing.split()[1]].add(name)
    ids, audit, plans = changed.values()
    assert ids <= IDS, "an option that is not declared changes the key of token ids"
    assert audit <= IDS | AUDIT, "an option that is not declared changes the key of the audit"
    assert plans <= IDS | PLANS, "an option that is not declared changes the key of plans"
    if family == "gpt2":
        assert (IDS - ids, AUDIT - audit, PLANS - plans) == (set(), set(), set()), "declared, and changes no key"
