"""Commands load neither PyTorch nor `scipy.stats`; a user's own module may."""

import re
import subprocess
import sys

import pytest

from tests import runs, tiny
from tests.conftest import ROOT

USER_MODULE = """
import torch, transformers
assert transformers.utils.is_torch_available()
def score(outputs, references):
    return float(torch.tensor(2.5))
"""


def test_train_and_evaluate_load_neither(tiny_models, tmp_path):
    rows, workdir = tiny.save_rows(tmp_path / "rows.jsonl", 40), str(tmp_path / "run")
    train = ["train", "--model", str(tiny_models["gpt2"]), "--data", str(rows), "--steps", "1"]
    for words in (train, ["evaluate", "--limit", "1", "--split", "train"]):
        command = [sys.executable, "-X", "importtime", "-m", "prefix_jax", *words, "--workdir", workdir]
        environment = runs.environment(tmp_path / "cache")
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
        loaded = set(re.findall(r"\| +([\w.]+)$", done.stderr, re.M))
        assert "transformers" in loaded and not loaded & {"torch.nn", "scipy.stats.distributions"}, words


def test_a_users_module_may_use_torch(tmp_path, monkeypatch):
    pytest.importorskip("torch")
    (tmp_path / "mine.py").write_text(USER_MODULE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    code = (
        "from prefix_jax import lean_imports, plugins\n"
        "lean_imports.block_torch()\n"
        "import transformers\n"
        "assert not transformers.utils.is_torch_available()\n"
        "assert plugins.load('mine', 'score', 'x')([], []) == 2.5\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
