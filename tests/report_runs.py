"""Run directories for reports, written without training: everything that a page may show."""

import json
import math
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from prefix_jax.config import default_config


def record(**changes) -> dict:
    config = default_config()
    config.prefix.length = 20
    config.data.task = "e2e"
    return {
        "config": config.to_dict(),
        "versions": {"prefix_jax": "0.1.0", "jax": "0.10.2"},
        "commit": "3f1d8c9ab0172ee5+",
        "command": "python -m prefix_jax.train --config configs/e2e.py --workdir runs/e2e",
        "started": "2026-03-02T10:12:44+00:00",
        "platform": "Linux x86_64",
        "parameters": {"trained": 6310912, "stored": 245760, "base": 76961152},
        **changes,
    }


def write_run(path: Path) -> Path:
    """Writes a scored run of 1,000 steps with a prefix at three sites."""
    rng = np.random.default_rng(0)
    (path / "tuned").mkdir(parents=True)
    (path / "config.json").write_text(json.dumps(record()))
    with open(path / "metrics.jsonl", "w") as file:
        for step in range(10, 1001, 10):
            line = {"step": step, "loss": 1 + math.exp(-step / 100), "learning_rate": 5e-3 * (1 - step / 1000),
                    "tokens_per_second": 3000.0, "gradient_norm": 0.5, "seconds": step * 0.4}  # fmt: skip
            if step % 200 == 0:
                line = {"step": step, "validation_loss": 1.5 - step / 2000}
            file.write(json.dumps(line) + "\n")
    scores = {"task": "e2e", "records": 630, "tuned": {"BLEU": 64.31, "TER": 0.41}, "bare": {"BLEU": 1.24, "TER": 0.9},
              "decoding": {"strategy": "beam", "beams": 5}}  # fmt: skip
    (path / "scores.json").write_text(json.dumps({"validation": {**scores, "records": 547}, "test": scores}))
    sample = {"split": "test", "source": "name : The Eagle | food : Japanese", "bare": "Eagle", "tuned": "Tuned text ."}
    sample["references"] = ["The Eagle serves Japanese food .", "Second reference ."]
    (path / "samples.jsonl").write_text("".join(json.dumps({**sample, "id": i}) + "\n" for i in range(8)))
    tensors = {f"{site}.{kind}": rng.normal(size=(4, 3, 20, 8)).astype(np.float32)
               for site in ("encoder", "cross", "decoder") for kind in ("key", "value")}  # fmt: skip
    save_file(tensors, path / "tuned" / "prefix.safetensors")
    about = {"method": "prefix", "model": "flan-t5-small", "length": 20, "sites": ["encoder", "cross", "decoder"]}
    (path / "tuned" / "prefix.json").write_text(json.dumps(about))
    return path


def write_more(path: Path) -> Path:
    """Adds what only some runs have: an inspection, labels with a confusion matrix, a conversation."""
    scores = json.loads((path / "scores.json").read_text())
    names = ["open", "closed on all days but Sundays", "by appointment", "unknown", "never mentioned at all"]
    counts = [[9 if i == j else (i + j) % 3 for j in range(5)] for i in range(5)]
    both = {name: {"labels": names, "counts": counts} for name in ("bare", "tuned")}
    scores["test"]["details"] = {"confusion": both}
    scores["test"]["tuned"] |= {"perplexity": 1_234_567.891, "exact_match": 2.5}
    (path / "scores.json").write_text(json.dumps(scores))
    turns = [("system", "You are a guide."), ("user", "Which lighthouse is this?"), ("assistant", "Gull Light. " * 20)]
    messages = [{"role": role, "content": text} for role, text in [*turns, ("user", "When was it built?")]]
    asked = {"split": "test", "source": json.dumps({"messages": messages}), "references": ["In 1870."]}
    with open(path / "samples.jsonl", "a") as file:
        file.write(json.dumps({**asked, "bare": "?", "tuned": "It was built in 1870."}) + "\n")
    (path / "inspection.json").write_text(json.dumps(inspection()))
    return path


def inspection() -> dict:
    """Returns what `inspect --against` finds of a model with 6 layers of 4 heads."""
    rng = np.random.default_rng(1)
    words = ["name", ":", "Kittiwake", "Light", "|", "place", "extraordinarily-long", "Cove", "</s>"]
    weights = rng.dirichlet(np.ones(19), len(words)).round(4).tolist()
    attention = {"layer": 3, "head": 1, "share": 0.4, "slots": 10, "queries": words, "weights": weights}
    attention["keys"] = [*(f"slot {i}" for i in range(10)), *words]
    odds = [["Light", 0.71], [" lighthouse", 0.2]]
    distance = {name: rng.random(6).tolist() for name in ("cosine", "relative", "nearest")}
    by_method = {name: [10**4 * (i + 1), 10**3 * (i + 1) ** 3, 10**8] for i, name in enumerate(("prefix", "lora"))}
    by_length = {"length": [1, 10, 100], "prefix, stored": [10**3, 10**4, 10**5]}
    by_length |= {"prefix, trained through an MLP": [10**6, 10**6, 2 * 10**6], "prompt": [500, 5000, 50000]}
    return {
        "split": "validation", "records": 32, "tokens": 1248, "change": 2.6, "changed_words": 0.5,
        "prefix_share": {site: rng.random((6, 4)).tolist() for site in ("encoder", "decoder")},
        "change_by_place": rng.random(40).tolist(), "source": "name : Gull Light", "target": "Gull Light stands.",
        "attention": {"decoder": attention}, "nearest_words": [["light", "lamp"]] * 3, "against": "other run",
        "next_words": [{"token": word, "change": 1.5, "bare": odds, "tuned": odds} for word in words],
        "distance": {site: {"key": distance, "value": distance} for site in ("encoder", "decoder")},
        "parameters": {"by_method": by_method, "by_length": by_length},
    }  # fmt: skip


def write_sweep(path: Path, seeds: int = 2) -> Path:
    """Writes a sweep over lengths and learning rates whose scores come close to their largest values."""
    rows = []
    for length in (1, 4, 12, 32):
        for rate in (1e-3, 5e-3):
            for seed in range(seeds):
                options = {"prefix.length": length, "optimizer.learning_rate": rate, "training.seed": seed}
                name = ",".join(f"{option}={value}" for option, value in options.items())
                folder = path / "runs" / name
                folder.mkdir(parents=True)
                (folder / "config.json").write_text(json.dumps(record()))
                scores = {"BLEU": 40 + length / 2 + 3 * seed, "exact_match": min(80 + 18 * seed + length, 100.0)}
                row = {"name": name, "options": options, "directory": f"runs/{name}", "status": "scored"}
                rows.append({**row, "scores": scores})
    command = "python -m prefix_jax.sweep --config configs/e2e.py --workdir runs/lengths"
    (path / "sweep.json").write_text(json.dumps({"rows": rows, "split": "test", "command": command}))
    return path
