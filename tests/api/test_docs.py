"""The code of docs/python.md runs, on a tiny model."""

import re

import jax.numpy as jnp

import prefix_jax as pj
from tests.api.conftest import PAIRS, QUICK
from tests.conftest import ROOT


def test_the_code_of_the_page_runs(lm, tmp_path, monkeypatch):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "python.md").read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 3
    monkeypatch.chdir(tmp_path)
    tune = pj.tune
    monkeypatch.setattr(pj, "load_model", lambda source: lm)
    monkeypatch.setattr(pj, "tune", lambda *args, steps: tune(*args, steps=2, options=QUICK))
    names = {"pairs": PAIRS[:8], "test_pairs": PAIRS[8:10], "tokens": jnp.array([[3, 4, 5]])}
    for block in blocks:
        exec(block.replace("range(100)", "range(2)").replace("prefix=own)  ", "prefix=own)"), names)
    assert names["gradient"].decoder.key.shape == names["own"].decoder.key.shape
    assert (tmp_path / "own").is_dir() and len(pj.load("gull", lm).history) == 2
