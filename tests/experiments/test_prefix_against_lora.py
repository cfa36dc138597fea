"""Prefix against LoRA: what is counted is what can be counted by hand, and README.md holds what the results say."""

import json

import jax
import numpy as np
import pytest

from experiments.prefix_against_lora import budget, costs, latency, report
from prefix_jax.config import default_config
from prefix_jax.models import from_hf
from prefix_jax.models.families import gpt2
from prefix_jax.training import session

E, LAYERS, VOCABULARY, HEADS = 64, 2, 512, 4


@pytest.fixture
def small(monkeypatch):
    """GPT-2 in small, and few tokens."""
    monkeypatch.setattr(costs, "spec_of", lambda name: from_hf(gpt2.sizes(LAYERS, E, HEADS, VOCABULARY)))
    for name, value in {"ROWS": 2, "COLUMNS": 32, "TARGETS": 8, "LENGTHS": (1, 10)}.items():
        monkeypatch.setattr(costs, name, value)
    return costs._model("small")


def test_inference_is_counted_as_by_hand(small):
    """A token meets every matrix once, and the keys and values of all before it."""
    model, base = small
    bare = costs.inference_flops(model, base, None)
    attended = costs.COLUMNS + costs.NEW + 1
    by_hand = LAYERS * (2 * 12 * E * E + 2 * 2 * attended * E) + 2 * E * VOCABULARY
    assert bare["token"] == by_hand
    prefix = costs._of_method(model, base, "prefix", {"prefix.length": 10, **costs.DIRECT})
    assert prefix["inference"]["token"] - by_hand == LAYERS * 2 * 2 * 10 * E
    assert prefix["inference"]["read"] - bare["read"] == LAYERS * 2 * 2 * 10 * E * costs.COLUMNS
    lora = costs._of_method(model, base, "lora", {})
    assert lora["inference"]["token"] - by_hand == LAYERS * 2 * 2 * 8 * (E + E)
    assert lora["merged"] == bare


def test_a_step_is_counted_as_by_hand(small):
    """Forwards, and back through every frozen product; keys are transposed by one; LoRA's pairs have six products."""
    model, base = small
    tokens = costs.ROWS * costs.COLUMNS
    frozen = LAYERS * 2 * 2 * tokens * 12 * E * E + 2 * 2 * costs.ROWS * costs.TARGETS * E * VOCABULARY
    turned = 2 * E * E // HEADS  # of a key
    attention = LAYERS * tokens * (7 * 2 * costs.COLUMNS * E + turned)
    lora = costs._of_method(model, base, "lora", {})
    pairs = LAYERS * 2 * 6 * 2 * tokens * 8 * E
    assert lora["step_flops"] == pytest.approx(frozen + attention + pairs, rel=0.005)
    prefix = costs._of_method(model, base, "prefix", {"prefix.length": 10, **costs.DIRECT})
    more = LAYERS * 10 * (7 * 2 * tokens * E + turned)
    assert prefix["step_flops"] == pytest.approx(frozen + attention + more, rel=0.005)
    assert costs._forward(model, base)["forward_flops"] < prefix["step_flops"] / 2
    kept = LAYERS * tokens * (E + 3 * E + E + E + 4 * E) * 2  # a layer's input and its products, in bfloat16
    assert prefix["temporary_bytes"] > kept


def test_every_variant_decodes_and_merging_leaves_nothing_beside(tiny_models, monkeypatch):
    for name, value in {"PROMPT": 8, "NEW": 3, "ROUNDS": 2, "BATCHES": (2,), "_PREFIXES": (4,)}.items():
        monkeypatch.setattr(latency, name, value)
    found = latency.measure(str(tiny_models["llama"]), "float32")["batches"]["2"]
    assert found[latency.BARE]["over_bare"] == 1
    assert all(one["cpu_seconds_a_token"] > 0 and len(one["rounds"]) == 2 for one in found.values())
    config = default_config()
    config.model.source = str(tiny_models["llama"])
    every = {one.name: one for one in latency.variants(session.open_session(config))}
    assert every.keys() == found.keys() and len(every) == 6
    shapes_of = lambda one: jax.tree.map(np.shape, one.variables)
    assert shapes_of(every["LoRA of every matrix, merged"]) == shapes_of(every[latency.BARE])
    assert "lora" in every["LoRA of every matrix, beside the weights"].variables


@pytest.mark.nightly
def test_a_shared_context_leaves_the_input_less(tiny_models, tmp_path, monkeypatch):
    cases = (budget.Case("lora", "shared", 0), budget.Case("prefix", "own", 40), budget.Case("prefix", "shared", 40))
    changed = {"CONTEXT": 160, "SHORTEST_SOURCE": 152, "CASES": cases, "SCORED": 2, "OBSERVED": 2}
    for name, value in changed.items():
        monkeypatch.setattr(budget, name, value)
    monkeypatch.setenv("PREFIX_JAX_CACHE", str(tmp_path / "cache"))
    found = budget.measure(str(tiny_models["t5"]), 2, tmp_path / "runs")
    assert found["train"] > 10 and [case["source_room"] for case in found["cases"]] == [160, 160, 120]
    lora, own, shared = found["cases"]
    assert lora["attention_to_prefix"] == {} and own["attention_to_prefix"].keys() == {"encoder", "decoder", "cross"}
    assert own["validation_loss"] != shared["validation_loss"] and "BLEU" in shared["scores"]
    rows = [json.loads(line) for line in (tmp_path / "runs" / "rows" / "train.jsonl").read_text().splitlines()]
    opened = session.open_session(budget.configuration(cases[1], str(tiny_models["t5"]), 2, tmp_path / "runs" / "rows"))
    lengths = [len(opened.tokenizer(row["source"])["input_ids"]) + 1 for row in rows]
    assert min(lengths) >= 152 and max(lengths) <= 160


def test_the_readme_holds_what_the_results_say():
    readme = (report.FOLDER / "README.md").read_text(encoding="utf-8")
    found = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in report.RESULTS.glob("*.json")}
    tables = {"costs": report.cost_table, "latency": report.latency_table, "budget": report.budget_table}
    assert {name.partition("_")[0] for name in found} == tables.keys()
    for name, result in found.items():
        assert tables[name.partition("_")[0]](result) in readme, name
        assert result["commit"] and not result["commit"].endswith("+"), name
