"""Members of a sweep divided over devices: each trains as it does where all are on one."""

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests import runs

SWEEP = """

def sweep():
    for length in (2, 3):
        for seed in (1, 2):
            yield {"prefix.length": length, "training.seed": seed}
"""


@pytest.mark.slow
def test_members_on_a_mesh_train_as_on_one_device(tiny_models, tmp_path, monkeypatch):
    recipe = runs.write_recipe(tmp_path / "recipe", tiny_models["llama"], steps=6)
    recipe.write_text(recipe.read_text() + SWEEP)
    for workdir, devices, mesh in (("one", 1, ()), ("four", 4, ("--config.mesh.member=2", "--config.mesh.tensor=2"))):
        runs.simulate(monkeypatch, devices)
        words = ("--config", str(recipe), "--workdir", str(tmp_path / workdir), "--split=", *mesh)
        runs.run("sweep", *words, cache=tmp_path / "cache")
    rows = sorted(path.name for path in (tmp_path / "one" / "runs").iterdir())
    assert len(rows) == 4 and len(list((tmp_path / "four" / "together").iterdir())) == 1
    for row in rows:
        one, four = (tmp_path / workdir / "runs" / row for workdir in ("one", "four"))
        assert runs.lines(four, "loss") == pytest.approx(runs.lines(one, "loss"), abs=1e-4)
        theirs = load_file(four / "tuned" / "prefix.safetensors")
        for name, leaf in load_file(one / "tuned" / "prefix.safetensors").items():
            np.testing.assert_allclose(theirs[name], leaf, atol=2e-3)


@pytest.mark.slow
def test_one_run_has_no_members_to_divide(tiny_models, tmp_path):
    recipe = runs.write_recipe(tmp_path / "recipe", tiny_models["llama"])
    words = ("--config", str(recipe), "--workdir", str(tmp_path / "run"), "--config.mesh.member=2")
    _, err = runs.run("train", *words, cache=tmp_path / "cache", code=2)
    assert "mesh.member is 2, and this is one run" in err
