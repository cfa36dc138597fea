"""Every mesh gives one device's losses and gradients, and no device holds more than its share."""

import json
import math
import subprocess
import sys
from pathlib import Path

import jax
import pytest
from jax.sharding import PartitionSpec

from prefix_jax.config import default_config
from prefix_jax.errors import UserError
from prefix_jax.models import from_hf
from prefix_jax.parallel.mesh import AXES, MeshSharder, place, sizes
from tests import runs, tiny
from tests.conftest import ROOT

LLAMA = [[8, 1, 1], [1, 8, 1], [1, 1, 8], [2, 2, 2]]
FUSED = {"model.attention": "fused"}
CASES = {
    "llama": ("llama", LLAMA, {"training.accumulation": 2}),
    "gpt2": ("gpt2", [[2, 2, 2]], {"prefix.reparameterisation": "none"}),
    "t5": ("t5", [[1, 1, 8]], {"model.rematerialise": True}),
    "adapter": ("llama", [[1, 2, 4]], {"method": "adapter"}),
    "experts": ("mixtral", [[2, 2, 2]], {}),
    "t5_fused": ("t5", [[2, 2, 2]], FUSED),
}


SERVED = {"llama": [[2, 2, 2]], "t5": [[1, 1, 8]]}


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """One step on one device and on eight, of models with 8 heads, by case."""
    folder: Path = tmp_path_factory.mktemp("sharded")
    rows, cases = tiny.save_rows(folder / "rows.jsonl", 40), []
    for name, (family, meshes, options) in CASES.items():
        source = tiny.save_model(folder / "models" / family, family, heads=8)
        cases.append(dict(name=name, source=str(source), meshes=meshes, options=options))
        cases[-1]["serve"] = SERVED.get(name, ())
    words = [str(rows), str(folder), json.dumps(cases)]
    done = subprocess.run(
        [sys.executable, "-m", "tests.parallel.sharded", *words], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Involuntary full rematerialization" not in done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("case", CASES)
def test_meshes_give_one_devices_losses_and_gradients(case, measured):
    for row in measured[case]["meshes"]:
        assert row["loss"] < 2e-6 and row["norm"] < 2e-6 and row["gradient"] < 2e-6, row


@pytest.mark.parametrize("case", SERVED)
def test_requests_have_one_devices_tokens_on_every_mesh(case, measured):
    found = measured[f"serve {case}"]
    assert found["alone"]["compiled"] == 0 and len(set(map(tuple, found["alone"]["tokens"]))) > 1
    for mesh in found["meshes"]:
        assert mesh == found["alone"]


def test_each_device_holds_its_share_counted_by_hand(measured):
    found = measured["llama"]  # its KV heads are fewer than its query heads
    layers, e, f, k, g, d, v, hidden, length = 2, 32, 48, 2, 4, 8, 400, 16, 3
    for row in found["meshes"]:
        _, fsdp, tensor = row["mesh"]
        kv = math.gcd(tensor, k)
        table = v * e / (fsdp * tensor)
        qkv = layers * e * k * (g + 2) * d / (fsdp * kv)  # replicated where the KV heads are fewer than `tensor`
        out = layers * k * g * d * e / (fsdp * tensor)
        mlp = 3 * layers * e * f / (fsdp * tensor)
        norms = (2 * layers + 1) * e
        assert row["base"] == [4 * (table + qkv + out + mlp + norms)] * 8, row
        mlp_of_prefix = length * e + e * hidden + hidden
        kernel = hidden * layers * 2 * k * d / (fsdp * kv)
        bias = layers * 2 * k * d / kv
        counters = 4 + 4 + 8  # the step, Adam's count and the random key
        assert row["state"] == [3 * 4 * (mlp_of_prefix + kernel + bias) + counters] * 8, row


def section(**changes: int):
    config = default_config().mesh
    config.update(changes)
    return config


@pytest.mark.parametrize(
    ("changes", "devices", "expected"),
    [({}, 1, (1, 1, 1)), ({}, 8, (8, 1, 1)), ({"fsdp": 2, "tensor": 2}, 8, (2, 2, 2)), ({"data": 4}, 4, (4, 1, 1))],
)
def test_data_takes_the_devices_that_the_others_leave(changes, devices, expected):
    assert sizes(section(**changes), devices) == expected


@pytest.mark.parametrize(
    ("changes", "devices", "words"),
    [
        ({"fsdp": 3}, 8, "mesh.fsdp=3 x mesh.tensor=1 does not divide the 8 available devices"),
        ({"data": 3, "tensor": 2}, 8, "makes 6 devices, and there are 8"),
        ({"data": 2}, 1, "makes 2 devices, and there are 1"),
        ({"tensor": 0}, 8, "mesh.tensor is 0; it must be at least 1"),
    ],
)
def test_a_mesh_that_does_not_divide_the_devices_is_refused(changes, devices, words):
    with pytest.raises(UserError, match=words):
        sizes(section(**changes), devices)


def test_heads_that_tensor_does_not_divide_are_refused():
    model_config = from_hf(dict(model_type="gpt2", n_layer=2, n_embd=36, n_head=6, vocab_size=100))
    with pytest.raises(UserError, match="6 query heads cannot be divided by it; choose a divisor of 6"):
        place(section(tensor=4), model_config, [jax.devices()[0]] * 4)


def test_a_run_on_a_mesh_goes_on_without_it_and_is_scored(tiny_models, tmp_path, monkeypatch):
    """Trains to step 4 on 4 devices and to step 8 on one; beside it a run that stays on 4."""
    recipe = runs.write_recipe(tmp_path / "recipe", tiny_models["llama"], steps=8)
    words = ("--config", str(recipe), "--config.training.checkpoint_every=4", "--config.training.batch=8")
    for workdir, devices, steps in (("moved", 4, 4), ("moved", 1, 8), ("still", 4, 8)):
        runs.simulate(monkeypatch, devices)
        mesh = ("--config.mesh.fsdp=2", "--config.mesh.tensor=2") if devices == 4 else ()
        more = (f"--config.training.steps={steps}", "--config.optimizer.schedule=constant", *mesh)
        runs.run("train", *words, *more, "--workdir", str(tmp_path / workdir), cache=tmp_path / "cache")
    moved, still = (runs.lines(tmp_path / workdir, "loss") for workdir in ("moved", "still"))
    assert moved == pytest.approx(still, abs=1e-4) and len(moved) == 8
    runs.simulate(monkeypatch, 4)
    words = ("--workdir", str(tmp_path / "moved"), "--split", "test", "--limit", "5")
    runs.run("evaluate", *words, cache=tmp_path / "cache")
    many = (tmp_path / "moved" / "samples.jsonl").read_text()
    runs.simulate(monkeypatch, 1)
    (tmp_path / "moved" / "samples.jsonl").unlink()
    runs.run("evaluate", *words, cache=tmp_path / "cache")
    assert many == (tmp_path / "moved" / "samples.jsonl").read_text()


def test_members_lie_on_their_own_axis_before_all_others():
    sharder = MeshSharder(jax.sharding.AbstractMesh((2, 1, 2, 2, 1), AXES))  # type: ignore[arg-type]
    tree = {"mu": {"decoder": {"out": {"kernel": jax.ShapeDtypeStruct((4, 16, 2, 2, 2, 8), "float32")}}}}
    (found,) = jax.tree.leaves(sharder.trained(tree, members=True))
    assert found.spec == PartitionSpec("member", "fsdp", None, None, "tensor", None)
    odd = {"decoder": {"key": jax.ShapeDtypeStruct((3, 2, 2, 5, 8), "float32")}}
    (found,) = jax.tree.leaves(sharder.trained(odd, members=True))
    assert found.spec == PartitionSpec(None, None, "tensor", None, None), "three members stay together on two devices"
