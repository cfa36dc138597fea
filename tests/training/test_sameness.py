"""A run resumes where it is the same by its numbers and its options' meaning, and is refused where it is not."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from prefix_jax import inference
from prefix_jax.errors import UserError
from prefix_jax.models.pretrained import identity_of
from prefix_jax.sweeping.rows import make_rows
from prefix_jax.sweeping.state import SweepState
from prefix_jax.training import pipeline, sameness
from prefix_jax.training.loop import Outcome
from prefix_jax.training.session import open_session
from prefix_jax.training.trainer import prepare
from tests import tiny


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PREFIX_JAX_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def model(tiny_models, tmp_path) -> Path:
    return Path(shutil.copytree(tiny_models["gpt2"], tmp_path / "models" / "one"))


def configuration(source, tmp_path, **sections):
    config = tiny.configuration(source, tmp_path)
    config.training.update(steps=1, batch=4, tensorboard=False, evaluate_every=0)
    config.prefix.update(hidden=8)
    for name, options in sections.items():
        if isinstance(options, dict):
            config[name].update(options)
        else:
            config[name] = options
    return config


def start(config, workdir: Path):
    return prepare(open_session(config), workdir, [])


def finish(trainer) -> None:
    """Writes `tuned/` as if the run had ended."""
    trainable = trainer.initial().trainable
    pipeline.save_tuned(trainer.session, Outcome(trainer.members[0], 1, True, trainable, 1.0))


def change(folder: Path, name: str, place: tuple[int, ...]) -> None:
    """Changes one number of the folder's weights."""
    file = folder / "model.safetensors"
    table = {key: np.array(value) for key, value in load_file(file).items()}
    table[name][place] += 1.0
    save_file(table, file, {"format": "pt"})


def relative(path: Path) -> str:
    return os.path.relpath(path)


def in_home(path: Path) -> str:
    os.environ["HOME"] = str(path.parent)
    return f"~/{path.name}"


def linked(path: Path) -> str:
    os.symlink(path, path.parent / "link")
    return str(path.parent / "link")


def moved(path: Path) -> str:
    return str(path.rename(path.parent / "elsewhere"))


def of_other_form(path: Path) -> str:
    table = load_file(path / "model.safetensors")
    save_file({f"module.{name}": value for name, value in table.items()}, path / "model.safetensors", {"format": "pt"})
    return str(path)


@pytest.mark.parametrize("how", [relative, in_home, linked, moved, of_other_form, lambda path: f"{path}/"])
def test_the_same_weights_at_another_path_resume(how, model, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("HOME", os.environ["HOME"])  # put back afterwards
    start(configuration(model, tmp_path), tmp_path / "run")
    start(configuration(how(model), tmp_path), tmp_path / "run")
    assert "warning" not in capfd.readouterr().err


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("transformer.wte.weight", (399, 31)),
        ("transformer.h.1.attn.c_attn.weight", (30, 95)),
        ("transformer.ln_f.bias", 3),
    ],
)
def test_any_other_number_at_the_same_path_is_refused(name, place, model, tmp_path):
    config = configuration(model, tmp_path)
    start(config, tmp_path / "run")
    change(model, name, place)
    with pytest.raises(UserError, match="other weights than the run began with"):
        start(config, tmp_path / "run")


def test_two_numbers_that_change_places_are_refused(model, tmp_path):
    before = sameness.checksum(open_session(configuration(model, tmp_path)))
    file = model / "model.safetensors"
    table = {key: np.array(value) for key, value in load_file(file).items()}
    row = table["transformer.wte.weight"]
    row[[100, 200]] = row[[200, 100]]
    save_file(table, file, {"format": "pt"})
    assert sameness.checksum(open_session(configuration(model, tmp_path))) != before


def test_another_model_is_refused_by_both_names(model, tiny_models, tmp_path):
    start(configuration(model, tmp_path), tmp_path / "run")
    other = tiny.save_model(tmp_path / "models" / "two", "gpt2", seed=1)
    with pytest.raises(UserError, match=r"model.source was .*one' and is now .*two', with other weights"):
        start(configuration(other, tmp_path), tmp_path / "run")


def earlier_version(workdir: Path) -> None:
    record = json.loads((workdir / "config.json").read_text())
    del record["model"], record["tokenizer"]
    (workdir / "config.json").write_text(json.dumps(record))


def test_a_run_of_an_earlier_version_is_compared_by_its_path_or_by_what_it_tuned(model, tmp_path):
    trainer = start(configuration(model, tmp_path), tmp_path / "run")
    earlier_version(tmp_path / "run")
    start(configuration(relative(model), tmp_path), tmp_path / "run")
    earlier_version(tmp_path / "run")
    away = moved(model)
    with pytest.raises(UserError, match="does not say which weights"):
        start(configuration(away, tmp_path), tmp_path / "run")
    finish(trainer)
    start(configuration(away, tmp_path), tmp_path / "run")


SPELLINGS = [
    ("method", "prefix+lora", "lora + prefix"),
    ("prefix.sites", "encoder,decoder", "decoder, encoder"),
    ("lora.targets", "query,value", "value,query"),
    ("lora.targets", "all", "query,key,value,out,gate,up,down"),
    ("lora.rank", 4, 8),
    ("data.path", "x", "x/"),
    ("data.categories", "-a,b", "-b,a"),
    ("optimizer.clip", 1.0, 1),
    ("decoding.banned_tokens", (1, 2), [1, 2]),
]
OTHERS = [
    ("method", "prefix+lora", "prefix"),
    ("prefix.sites", "encoder,decoder", "encoder"),
    ("data.categories", "-a", "a"),
    ("optimizer.clip", 1.0, 2.0),
    ("prefix.text", "a,b", "b,a"),
    ("training.seed", 1, 2),
]


def options(name: str, value) -> dict:
    from prefix_jax.config import default_config

    config = json.loads(default_config().to_json())
    *section, last = name.split(".")
    (config[section[0]] if section else config)[last] = value
    config["method"] = "lora" if name == "lora.targets" else config["method"]
    return config


@pytest.mark.parametrize(("name", "old", "new"), SPELLINGS)
def test_options_that_mean_the_same_are_the_same(name, old, new, tmp_path):
    sameness.refuse_other(tmp_path, {"config": options(name, old)}, options(name, new), None)


@pytest.mark.parametrize(("name", "old", "new"), OTHERS)
def test_options_that_mean_something_else_are_refused(name, old, new, tmp_path):
    with pytest.raises(UserError, match=name):
        sameness.refuse_other(tmp_path, {"config": options(name, old)}, options(name, new), None)


def test_methods_in_another_order_start_as_the_run_began(model, tmp_path):
    one = start(configuration(model, tmp_path, method="prefix+lora"), tmp_path / "run")
    two = start(configuration(model, tmp_path, method="lora+prefix"), tmp_path / "run")
    assert two.members[0].config.method == one.members[0].config.method == "prefix+lora"


def test_an_edited_tokenizer_is_said(model, tmp_path, capfd):
    start(configuration(model, tmp_path), tmp_path / "run")
    file = model / "tokenizer.json"
    file.write_text(file.read_text().replace('"fuse_unk": false', '"fuse_unk": true'))
    for _ in range(2):  # as often as it is resumed
        capfd.readouterr()
        start(configuration(model, tmp_path), tmp_path / "run")
        assert "the tokenizer's files" in capfd.readouterr().err


def test_a_sweep_resumes_with_a_model_that_moved_and_refuses_another(model, tmp_path):
    def state(source):
        rows = make_rows([{"prefix.length": 2}], configuration(source, tmp_path))
        return SweepState(tmp_path / "sweep", rows, 8, {"split": ""}, {})

    first = state(model)
    (name,) = first.rows
    finish(start(first.rows[name].config, first.directory(name)))
    first.set(name, "trained", step=1)
    away = moved(model)
    assert state(away).status(name) == "trained"
    change(Path(away), "transformer.ln_f.bias", (0,))
    with pytest.raises(UserError, match="other weights"):
        state(away)


def test_what_was_tuned_names_the_option_where_its_model_is_gone(model, tmp_path):
    finish(start(configuration(model, tmp_path), tmp_path / "run"))
    before = identity_of(str(model))
    away = moved(model)
    with pytest.raises(UserError, match=r"--config\.model\.source=DIR"):
        inference.open_tuned(tmp_path / "run")
    assert inference.open_tuned(tmp_path / "run", {"model.source": away}).session.config.model.source == away
    assert identity_of(away)["weights"] == before["weights"]
    change(Path(away), "transformer.ln_f.bias", (0,))
    with pytest.raises(UserError, match="other weights"):
        inference.open_tuned(tmp_path / "run", {"model.source": away})


def test_a_relative_source_is_found_where_the_whole_folder_moved(tiny_models, tmp_path, monkeypatch):
    (tmp_path / "old").mkdir()
    shutil.copytree(tiny_models["gpt2"], tmp_path / "old" / "base")
    monkeypatch.chdir(tmp_path / "old")
    finish(start(configuration("base", tmp_path), tmp_path / "old" / "run"))
    (tmp_path / "old").rename(tmp_path / "new")
    monkeypatch.chdir(tmp_path / "new")
    assert inference.open_tuned(Path("run")).kept.prefix is not None
