"""Mistakes at the command line: one sentence that names the thing, exit code 2, no traceback."""

import json
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from prefix_jax import cli, disk, inference
from prefix_jax.config import default_config
from prefix_jax.data.files import read_rows
from prefix_jax.errors import UserError
from prefix_jax.sweeping.rows import Row
from prefix_jax.sweeping.state import SweepState
from prefix_jax.training import pipeline, session
from prefix_jax.training.trainer import prepare
from prefix_jax.workdir import read_config
from tests import runs, tiny
from tests.conftest import ROOT


@pytest.fixture(scope="module")
def setting(tiny_models, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bad_input")
    return runs.write_recipe(folder, tiny_models["llama"]), folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--config.prefix.lenght=3"], "length"),
        (["--config.prefix.length=many"], "many"),
        (["--stepz=3"], "stepz"),
        (["--config.model.source=flan-t5-smal"], "flan-t5-small"),
        (["stray"], "stray"),
        (["--config.data.path=nowhere.jsonl"], "nowhere.jsonl"),
    ],
)
def test_command_line_mistakes(setting, tmp_path, words, named):
    recipe, folder = setting
    out, err = runs.run(
        "train", "--config", str(recipe), "--workdir", str(tmp_path / "run"), *words, cache=folder / "cache", code=2
    )
    assert named in err and "Traceback" not in err
    assert len(err.strip().splitlines()) == 1, err
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_missing_options_and_recipes(setting, tmp_path):
    recipe, folder = setting
    _, err = runs.run("train", "--config", str(recipe), cache=folder / "cache", code=2)
    assert "--workdir is missing" in err
    _, err = runs.run("train", "--config", str(recipe.with_name("recip.py")), "--workdir", "x", cache=folder, code=2)
    assert "did you mean" in err and "recipe.py" in err
    readme = str(ROOT / "README.md")
    _, err = runs.run("train", "--config", readme, "--workdir", "x", cache=folder / "cache", code=2)
    assert "README.md is not valid Python: line " in err and len(err.strip().splitlines()) == 1
    _, err = runs.run("generate", "--workdir", str(tmp_path), "--input", "x", cache=folder / "cache", code=2)
    assert "Traceback" not in err and str(tmp_path) in err
    _, err = runs.run("evaluate", "--workdir", str(tmp_path / "none"), cache=folder / "cache", code=2)
    assert "Traceback" not in err and "none" in err


def config_for(setting, tiny_models, family: str = "llama", **data):
    from prefix_jax.config import default_config

    config = default_config()
    config.model.source = str(tiny_models[family])
    config.data.update(task="text", path=str(setting[1] / "rows.jsonl"), **data)
    config.training.update(steps=2, batch=4, tensorboard=False)
    config.prefix.update(length=3, hidden=8)
    return config


@pytest.mark.parametrize(
    ("section", "options", "named"),
    [
        ("training", dict(batch=0), "training.batch"),
        ("training", dict(accumulation=3), "divisible"),
        ("training", dict(loss="token"), "training.loss"),
        ("training", dict(ema=1.0), "training.ema"),
        ("optimizer", dict(learning_rate=float("nan")), "optimizer.learning_rate is nan; it must be a finite number"),
        ("optimizer", dict(learning_rate=0.0), "optimizer.learning_rate is 0.0; it must be above 0"),
        ("optimizer", dict(clip=-1.0), "optimizer.clip"),
        ("optimizer", dict(warmup_steps=-1), "optimizer.warmup_steps"),
        ("prefix", dict(hidden=0), "prefix.hidden is 0; it must be at least 1"),
        ("data", dict(seed=-1), "data.seed is -1; it must be at least 0"),
        ("decoding", dict(batch=0), "decoding.batch"),
        ("model", dict(dtype="float64"), "model.dtype"),
        ("model", dict(attention="flash"), 'model.attention is "flash"; it must be auto, plain or fused'),
        ("data", dict(max_target_length=3), "max_target_length"),
        ("data", dict(task="e2ee"), "did you mean"),
        ("prefix", dict(length=10_000), "window"),
    ],
)
def test_options_out_of_range(setting, tiny_models, tmp_path, section, options, named):
    config = config_for(setting, tiny_models)
    config[section].update(options)
    with pytest.raises(UserError, match=named):
        prepare(session.open_session(config), tmp_path / "run", [])
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b'{"source": "a", "target": ""}\n', "line 1|row 1"),
        (b'{"source": "a"}\n', "target"),
        (b"", "empty"),
        (b'{"source": "caf\xe9", "target": "x"}\n', "UTF-8"),
        (b"{not json}\n", "JSON"),
        (
            b'{"source": "a", "target": "b"}\n{"source": "a\\ud800", "target": "b"}\n',
            r"half of a surrogate pair .* in line 2",
        ),
    ],
)
def test_bad_data_files(setting, tiny_models, tmp_path, content, named):
    path = tmp_path / "train.jsonl"
    path.write_bytes(content)
    config = config_for(setting, tiny_models)
    config.data.path = str(path)
    with pytest.raises(UserError, match=named) as caught:
        prepare(session.open_session(config), tmp_path / "run", [])
    assert "train.jsonl" in str(caught.value)


def test_an_option_that_is_misspelt_in_a_recipe_is_an_error():
    with pytest.raises(AttributeError, match="lenght"):
        default_config().prefix.lenght = 3


def test_long_cells_are_read_and_columns_of_one_name_are_not(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text(f"source,target\n{'a' * 200_000},b\n")
    ((_, row),) = read_rows(path)
    assert len(row["source"]) == 200_000
    path.write_text("source,target,target\na,b,c\n")
    with pytest.raises(UserError, match='two columns named "target"'):
        read_rows(path)


def test_a_run_that_ends_without_finite_numbers_is_an_error(setting, tiny_models, tmp_path):
    config = config_for(setting, tiny_models)
    config.optimizer.update(learning_rate=3e38, warmup_steps=0, weight_decay=5.0)
    config.training.steps = 1
    with pytest.raises(UserError, match="not finite at step 1; lower"):
        pipeline.tune(config, tmp_path / "run", [])


def test_a_start_that_failed_leaves_the_directory_free(setting, tiny_models, tmp_path):
    for split, target in (("train", "x"), ("validation", "x " * 200)):
        (tmp_path / f"{split}.jsonl").write_text(json.dumps({"source": "a", "target": target}) + "\n")
    config = config_for(setting, tiny_models)
    config.data.path = str(tmp_path)
    with pytest.raises(UserError, match="max_target_length"):
        prepare(session.open_session(config), tmp_path / "run", [])
    assert not (tmp_path / "run" / "config.json").exists()


def test_fewer_steps_than_were_done_are_refused(run_of_llama, setting, tiny_models, capsys):
    config = config_for(setting, tiny_models)
    pipeline.tune(config, run_of_llama, [])
    assert "at step 2 already: nothing to train" in capsys.readouterr().err
    config.training.steps = 1
    with pytest.raises(UserError, match="is at step 2 already, and 1 steps are asked for"):
        pipeline.tune(config, run_of_llama, [])
    config.training.steps = 2
    pipeline.tune(config, run_of_llama, [])


def test_a_run_and_a_sweep_do_not_share_a_directory(run_of_llama, setting, tiny_models, tmp_path):
    config = config_for(setting, tiny_models)
    with pytest.raises(UserError, match="holds a run; name another --workdir for a sweep"):
        SweepState(run_of_llama, [Row("a", {}, config)], 1, {}, {})
    (tmp_path / "sweep.json").write_text("{}")
    with pytest.raises(UserError, match="holds a sweep; name another --workdir for a run"):
        pipeline.tune(config, tmp_path, [])


@pytest.fixture(scope="module")
def run_of_llama(setting, tiny_models, tmp_path_factory):
    from prefix_jax.training import pipeline

    workdir = tmp_path_factory.mktemp("llama") / "run"
    pipeline.tune(config_for(setting, tiny_models), workdir, [])
    return workdir


def test_a_prefix_for_another_model_is_refused(run_of_llama, tiny_models, tmp_path):
    other = tiny.save_model(tmp_path / "other", "llama", seed=5)
    with pytest.raises(UserError, match="other weights"):
        inference.open_tuned(run_of_llama, {"model.source": str(other)})
    with pytest.raises(UserError, match="made for"):
        inference.open_tuned(run_of_llama, {"model.source": str(tiny_models["t5"])})


def test_a_damaged_prefix_is_named(run_of_llama, tmp_path):
    copy = shutil.copytree(run_of_llama / "tuned", tmp_path / "tuned")
    whole = (copy / "prefix.safetensors").read_bytes()
    (copy / "prefix.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="prefix.safetensors"):
        inference.open_tuned(copy)


def test_a_damaged_run_directory_is_named(tmp_path):
    (tmp_path / "config.json").write_text("{", encoding="utf-8")
    with pytest.raises(UserError, match="config.json cannot be read"):
        read_config(tmp_path)


def test_a_full_disk_loses_nothing(tmp_path, monkeypatch):
    path = tmp_path / "scores.json"
    path.write_text(json.dumps({"old": 1}), encoding="utf-8")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(UserError, match="no space left"):
        disk.write_text(path, "{}")
    assert json.loads(path.read_text()) == {"old": 1}
    assert [p.name for p in Path(tmp_path).iterdir()] == ["scores.json"]


def test_too_little_memory_is_one_sentence(capsys):
    with pytest.raises(SystemExit) as ended, cli.user_errors():
        jax.numpy.zeros(10**13).block_until_ready()
    assert ended.value.code == cli.BAD_INPUT
    assert (
        "error: out of memory (37,252.9 GiB more were wanted); lower --config.training.batch" in capsys.readouterr().err
    )


def test_help_names_the_options_that_programs_share():
    done = subprocess.run(
        [sys.executable, "-m", "prefix_jax.train", "--help"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert all(f"--{name}" in done.stdout for name in ("config", "workdir", "coordinator", "processes"))


def test_a_second_process_in_the_same_directory_is_refused(setting, tmp_path, monkeypatch):
    recipe, _ = setting
    monkeypatch.setenv("PREFIX_JAX_CACHE", str(tmp_path / "cache"))
    config = runpy.run_path(str(recipe))["get_config"]()
    trainer = prepare(session.open_session(config), tmp_path / "run", [])
    code = "import time, pathlib; from prefix_jax import disk\n"
    code += f"with disk.locked(pathlib.Path({str(tmp_path / 'run')!r})):\n    print('held', flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        with pytest.raises(UserError, match="another process is using"):
            pipeline.run(trainer)
        other.kill()
    with disk.locked(tmp_path / "run"):
        pass  # what was killed holds nothing


def test_a_run_goes_on_with_other_data_only_if_they_fit(setting, tmp_path, monkeypatch):
    recipe, _ = setting
    monkeypatch.setenv("PREFIX_JAX_CACHE", str(tmp_path / "cache"))
    config = runpy.run_path(str(recipe))["get_config"]()
    prepare(session.open_session(config), tmp_path / "run", [])
    rows = [json.loads(line) for line in Path(config.data.path).read_text().splitlines()]
    longer = tmp_path / "longer.jsonl"
    longer.write_text("".join(json.dumps({**row, "source": row["source"] * 30}) + "\n" for row in rows))
    config.data.path = str(longer)
    with pytest.raises(UserError, match="does not fit the rows of .* with which this run began"):
        prepare(session.open_session(config), tmp_path / "run", [])
