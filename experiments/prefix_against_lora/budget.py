"""Loss and score against prefix length where the input nearly fills the context: the prefix takes its places.

Records of the set that the repository carries whose sources are long. In the case "shared", prefix and source have
`CONTEXT` places together, and the end of a source that does not fit is cut; in the case "own", the prefix has places of
its own. LoRA takes none.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from prefix_jax import inference, inspection
from prefix_jax.config import Config, default_config
from prefix_jax.data.records import Record
from prefix_jax.disk import write_text
from prefix_jax.training import pipeline, selection, session, token_sets
from prefix_jax.workdir import TUNED, read_config, read_metrics

# Tokens that an encoder reads, the prefix among them. Sources are the longest of the set, from the second number on.
CONTEXT, SHORTEST_SOURCE = 64, 52
TARGET = 256  # that no target exceeds
LENGTHS = (1, 8, 16, 24, 32, 48)
SCORED, OBSERVED = 64, 16


class Case(NamedTuple):
    """One run: `places` says whose the prefix's are, "shared" or "own"; LoRA's length is 0."""

    method: str
    places: str
    length: int

    @property
    def name(self) -> str:
        return f"{self.method}-{self.places}-{self.length}"

    @property
    def source_room(self) -> int:
        return CONTEXT - (self.length if self.places == "shared" else 0)


CASES = (
    Case("lora", "shared", 0),
    *(Case("prefix", places, length) for length in LENGTHS for places in ("shared", "own")),
)


def measure(source: str, steps: int, folder: Path) -> dict[str, Any]:
    """Trains and scores every case; a case that is there is not run again."""
    rows = folder / "rows"
    opened = session.open_session(configuration(CASES[0], source, steps, rows))
    sizes = write_rows(opened, rows)
    found = [run(case, opened, steps, rows, folder / case.name) for case in CASES]
    return {"model": source, "context": CONTEXT, "steps": steps, **sizes, "cases": found}


def configuration(case: Case, source: str, steps: int, rows: Path) -> Config:
    config = default_config()
    config.method = case.method
    config.model.update(source=source, dtype="bfloat16")
    config.data.update(task="text", path=str(rows), max_source_length=case.source_room, max_target_length=TARGET)
    config.prefix.length = max(case.length, 1)
    config.optimizer.update(learning_rate=2e-3, warmup_steps=20)
    config.training.update(
        steps=steps, batch=8, evaluate_every=steps, evaluate_records=0, checkpoint_every=steps, tensorboard=False
    )
    config.decoding.update(strategy="greedy", max_length=80)
    return config


def write_rows(opened: session.Session, rows: Path) -> dict[str, int]:
    """Writes the records whose source nearly fills the context; returns how many there are of each split."""
    sizes = {}
    for split in ("train", "validation"):
        chosen = list(_filling(opened, split))
        lines = [json.dumps({"source": record.source, "target": record.target}) + "\n" for record in chosen]
        write_text(rows / f"{split}.jsonl", "".join(lines))
        sizes[split] = len(chosen)
    return sizes


def _filling(opened: session.Session, split: str) -> Iterator[Record]:
    config = default_config()
    config.data.max_target_length = TARGET
    records = selection.text_pairs(config, split)
    data = token_sets.tokenised(opened.of(config), records)
    for record, length in zip(records, data.sources.lengths, strict=True):
        if SHORTEST_SOURCE <= length <= CONTEXT:
            yield record


def run(case: Case, opened: session.Session, steps: int, rows: Path, workdir: Path) -> dict[str, Any]:
    """Returns what came of a case: losses, scores, and how much of its attention the text gives to the prefix."""
    config = configuration(case, opened.config.model.source, steps, rows)
    if not (workdir / TUNED).is_dir():  # else its config.json would name the commit that scores it
        pipeline.tune(config, workdir, ["python", "-m", "experiments.prefix_against_lora", "--only=budget"])
    lines = read_metrics(workdir)
    losses = [line["validation_loss"] for line in lines if "validation_loss" in line]
    entry = inference.evaluate(workdir, "validation", limit=SCORED, opened=opened)
    tuned = inference.open_tuned(workdir, opened=opened)
    seen = inspection.measure(tuned.session, tuned.kept, selection.text_pairs(config, "validation")[:OBSERVED])
    shares = {site: float(share.mean()) for site, share in seen.prefix_share.items()}
    return {
        **case._asdict(),
        "commit": read_config(workdir)["commit"],
        "source_room": case.source_room,
        "validation_loss": losses[-1],
        "scores": entry["tuned"],
        "attention_to_prefix": shares,
    }
