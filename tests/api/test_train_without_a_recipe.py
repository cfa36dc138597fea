"""`prefix-jax train --model --data`: the run of a recipe and of `tune` with the same options, and what it refuses."""

import json

import pytest

import prefix_jax as pj
from prefix_jax import cli, train
from tests import tiny
from tests.api.conftest import QUICK

WORDS = [f"--config.{name}={value}" for name, value in QUICK.items()]


@pytest.fixture
def rows(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in tiny.rows(24)))
    return file


def command(*words: str) -> int:
    return cli.call(train.main, train.define_flags, words)


def test_it_is_the_run_of_a_recipe_and_of_tune_bit_for_bit(model_dir, lm, rows, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    given = [f"--model={model_dir}", f"--data={rows}", "--method=lora", "--steps=3", *WORDS]
    assert command(*given) == 0
    folder = tmp_path / "runs" / "tiny_gpt2-rows-lora"
    assert "next: prefix-jax evaluate --workdir runs/tiny_gpt2-rows-lora" in capsys.readouterr().err
    recipe = tmp_path / "recipe.py"
    recipe.write_text(
        "from prefix_jax.config import default_config\n\n\ndef get_config():\n    c = default_config()\n"
        f"    c.model.source, c.data.task, c.data.path = {str(model_dir)!r}, 'text', {str(rows)!r}\n"
        "    c.method, c.training.steps = 'lora', 3\n    return c\n"
    )
    assert command(f"--config={recipe}", "--workdir=by_recipe", *WORDS) == 0
    pj.tune(lm, rows, "lora", steps=3, workdir=tmp_path / "by_tune", options=QUICK)
    folders = (folder, tmp_path / "by_recipe", tmp_path / "by_tune")
    one, *others = [(path / "tuned" / "collections.safetensors").read_bytes() for path in folders]
    assert others == [one, one]
    assert command(*given) == 0 and "nothing to train" in "".join(capsys.readouterr())


def test_options_of_a_recipe_are_replaced(model_dir, rows, tmp_path):
    recipe = tmp_path / "recipe.py"
    recipe.write_text("from prefix_jax.config import default_config\n\nget_config = default_config\n")
    words = [f"--config={recipe}", f"--workdir={tmp_path / 'run'}", f"--model={model_dir}", f"--data={rows}"]
    assert command(*words, "--steps=1", *WORDS) == 0
    about = json.loads((tmp_path / "run" / "config.json").read_text())["config"]
    assert (about["model"]["source"], about["training"]["steps"]) == (str(model_dir), 1)


@pytest.mark.parametrize(
    "words, sentence",
    [
        ([], "there is neither a recipe nor a model; give --config NAME, or --model NAME and --data FILE"),
        (["--model=x"], "--data is missing: name a file of rows, or a task such as e2e"),
        (["--model=x", "--data=e3e"], '"e3e" is neither a file nor a task; did you mean "e2e"'),
        (["--model=x", "--data=e2e", "--config.trainin.steps=3"], 'no option "trainin"; did you mean "training"'),
        (["--model=x", "--data=e2e", "--method=lroa"], 'did you mean "lora"'),
    ],
)  # fmt: skip
def test_what_is_missing_or_misspelt_is_one_sentence(words, sentence, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert command(*words) == 2
    said = capsys.readouterr().err.strip()
    assert sentence in said and "\n" not in said
    assert not (tmp_path / "runs").exists()
