"""Writes the files of a version, which later versions must open: `python -m tests.compatibility.write FOLDER`.

FOLDER then holds tiny random models, a scored prefix run, a LoRA run, a run stopped half-way, a sweep of which half is
done, and `expected.json` with what this version makes of them. Paths inside are relative: commands run in FOLDER.
"""

import json
import re
import shutil
import signal
import sys
import time
from pathlib import Path

from tests import runs, tiny

RECIPE = """
from prefix_jax.config import default_config

def get_config():
    config = default_config()
    config.model.source = "models/gpt2"
    config.data.update(task="text", path="rows.jsonl")
    config.prefix.update(length=3, hidden=8, embedding=8)
    config.optimizer.learning_rate = 1e-2
    config.training.update(steps=12, batch=4, log_every=1, evaluate_every=4, evaluate_records=4, checkpoint_every=4,
                           tensorboard=False)
    config.decoding.update(beams=2, max_length=8, batch=4)
    return config

def sweep():
    for length in (1, 3):
        for seed in (1, 2):
            yield {"prefix.length": length, "training.seed": seed}
    yield {"prefix.hidden": 4}
"""
SOURCE = tiny.rows(3)[2]["source"]


def write(folder: Path) -> None:
    folder = folder.absolute()
    folder.mkdir(parents=True)
    for family in ("gpt2", "t5"):
        _save_model(folder / "models" / family, family)
    tiny.save_rows(folder / "rows.jsonl", 40)
    (folder / "recipe.py").write_text(RECIPE, encoding="utf-8")
    run = lambda module, *words: runs.run(module, *words, cache=folder / "cache", cwd=folder)[0]
    prefix = ("--config=recipe.py", "--config.model.source=models/t5", "--config.prefix.dropout=0.1")
    run("train", *prefix, "--workdir=prefix")
    run("evaluate", "--workdir=prefix", "--bare", "--limit=4")
    run("train", "--config=recipe.py", "--config.method=lora", "--config.lora.rank=2", "--workdir=lora")
    _stop(folder, prefix)
    run("sweep", "--config=recipe.py", "--workdir=sweep", "--only=length=1,seed=1", "--limit=2")
    expected = {name: run("generate", f"--workdir={name}", f"--input={SOURCE}") for name in ("prefix", "lora")}
    (folder / "expected.json").write_text(json.dumps(expected, indent=2) + "\n", encoding="utf-8")
    _drop_bulk(folder)
    _drop_machine(folder)


def _save_model(folder: Path, family: str) -> None:
    """As `tiny.save_model`, half as wide."""
    import torch
    import transformers as hf

    torch.manual_seed(0)
    ids = dict(pad_token_id=0, eos_token_id=1, bos_token_id=2)
    if family == "gpt2":
        model = hf.GPT2LMHeadModel(
            hf.GPT2Config(vocab_size=400, n_layer=2, n_embd=16, n_head=2, n_positions=64, initializer_range=0.3, **ids)
        )
    else:
        sizes = dict(num_layers=2, d_model=16, d_kv=12, num_heads=2, d_ff=24)
        ids = dict(decoder_start_token_id=0, pad_token_id=0, eos_token_id=1)
        model = hf.T5ForConditionalGeneration(hf.T5Config(vocab_size=400, **sizes, initializer_factor=2.0, **ids))
    model.save_pretrained(folder)
    tiny.tokenizer(folder, tiny.texts())


def _stop(folder: Path, words: tuple[str, ...]) -> None:
    """Stops a run between its first checkpoint and its last step."""
    process = runs.start("train", *words, "--workdir=stopped", cache=folder / "cache", cwd=folder)
    while runs.steps_written(folder / "stopped") < 5:
        time.sleep(0.002)
    process.send_signal(signal.SIGTERM)
    process.communicate()
    assert not (folder / "stopped" / "tuned").exists(), "it had ended; write the files again"


def _drop_bulk(folder: Path) -> None:
    shutil.rmtree(folder / "cache")
    for name in ("prefix", "lora"):
        shutil.rmtree(folder / name / "checkpoints")
    for checkpoints in (folder / "stopped/checkpoints", *folder.glob("sweep/together/*/checkpoints")):
        for older in sorted(checkpoints.iterdir(), key=lambda step: int(step.name))[:-1]:
            shutil.rmtree(older)
    for lock in folder.rglob(".lock"):
        lock.unlink()
    for report in folder.rglob("report.html"):
        report.unlink()


def _drop_machine(folder: Path) -> None:
    """Replaces what the files say of where they were written."""
    for path in (*folder.rglob("*.json"), *folder.rglob("*.txt")):
        text = path.read_text(encoding="utf-8").replace(str(folder), "/home/user/project")
        path.write_text(re.sub(r'"platform": ".*?"', '"platform": "Linux, 2 cores"', text), encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]))
