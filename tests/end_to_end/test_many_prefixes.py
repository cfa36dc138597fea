"""Many tuned states on one model: in Python and on the command line, each text is that of its state alone."""

import dataclasses
import json

import jax.numpy as jnp
import pytest

import prefix_jax as pj
from prefix_jax import cli, generate
from prefix_jax.errors import UserError
from tests import tiny
from tests.models.torch_models import random_prefix

PAIRS = [(row["source"], row["target"]) for row in tiny.rows(12)]
TEXTS = [source for source, _ in PAIRS[:5]]
QUICK = {"training.batch": 2, "training.tensorboard": False}
SAMPLE = {"strategy": "sample", "seed": 3, "max_length": 5, "min_length": 5}


@pytest.fixture(scope="module")
def lm(tmp_path_factory):
    pytest.importorskip("torch")
    return pj.load_model(tiny.save_model(tmp_path_factory.mktemp("model") / "tiny-gpt2", "gpt2", scale=8.0))


@pytest.fixture(scope="module")
def folders(lm, tmp_path_factory):
    """Run directories of two prefixes that read their sources differently, and of LoRA."""
    folder = tmp_path_factory.mktemp("bank")
    made = {}
    for name, method, more in (
        ("short", pj.Prefix(length=2), {}),
        ("long", pj.Prefix(length=12), {"data.source_format": "Say: {source}", "decoding.length_penalty": 0.5}),
        ("lora", pj.LoRA(rank=2), {}),
    ):
        options = {**QUICK, **more, "optimizer.learning_rate": 0.1}
        made[name] = folder / name
        pj.tune(lm, PAIRS, method, steps=3, options=options, workdir=made[name])
    return made


@pytest.fixture(scope="module")
def alone(lm, folders):
    tuned = {name: pj.load(folder, lm) for name, folder in folders.items()}
    return {None: lm.generate(TEXTS, **SAMPLE)} | {n: one.generate(TEXTS, **SAMPLE) for n, one in tuned.items()}


@pytest.mark.parametrize("slots", [1, 1024])
def test_each_text_is_that_of_its_tuned_state_alone(lm, folders, alone, slots):
    bank, which = pj.Bank(lm, folders, slots=slots), ["long", None, "lora", "short", "long"]
    found = bank.generate(TEXTS, which, **SAMPLE)
    assert found == [alone[name][row] for row, name in enumerate(which)]
    assert len(set(map(tuple, alone.values()))) == 4
    assert bank.generate(TEXTS[0], "short", **SAMPLE) == alone["short"][0]
    bank.remove("short")
    assert bank.names == ["long", "lora"]


def test_two_prefixes_side_by_side_are_one_with_the_slots_of_both(lm):
    one, other = (random_prefix(lm.config, length, seed) for seed, length in enumerate((2, 12)))
    one, other = (dataclasses.replace(p, position_offset=n) for p, n in ((one, 2), (other, 12)))
    bank = pj.Bank(lm, {"a": one, "b": other})
    a, b = one.decoder, other.decoder
    key, value = (jnp.concatenate(pair, axis=-2) for pair in ((a.key, b.key), (a.value, b.value)))
    both = pj.prefix(decoder=pj.PrefixKV(key, value), position_offset=12)
    assert bank.generate(TEXTS, "a+b", **SAMPLE) == lm.generate(TEXTS, prefix=both, **SAMPLE)
    assert bank.generate(TEXTS, "a", **SAMPLE) != bank.generate(TEXTS, "a+b", **SAMPLE)


def test_a_column_says_which(folders, alone, tmp_path, capsys):
    rows = [{"source": text, "tuned": name} for text, name in zip(TEXTS, ("short", "long", "", "lora", "short"))]
    file = tmp_path / "inputs.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = told(capsys, folders, f"--input-file={file}", "--json")
    lines = [json.loads(line) for line in out.splitlines()]
    assert [line["output"] for line in lines] == [alone[row["tuned"] or None][i] for i, row in enumerate(rows)]
    assert [line["tuned"] for line in lines] == [row["tuned"] for row in rows]


def test_without_a_column_each_input_has_a_line_for_each_name(folders, capsys):
    out = told(capsys, folders, f"--input={TEXTS[0]}", f"--input={TEXTS[1]}")
    assert [line.partition("\t")[0] for line in out.splitlines()] == [*folders, *folders]


def test_mistakes_have_one_sentence(lm, folders, capsys, tmp_path):
    file = tmp_path / "inputs.jsonl"
    file.write_text(json.dumps({"source": "x", "tuned": "shrt"}) + "\n")
    assert 'no tuned state "shrt"; did you mean "short"?' in told(capsys, folders, f"--input-file={file}")
    file.write_text('{"source": "x", "tuned": "short"}\n{"source": "y"}\n')
    assert 'has no column "tuned"' in told(capsys, folders, f"--input-file={file}")
    assert "has no name; give each one" in told(capsys, {"": folders["short"], "b": folders["long"]}, "--input=x")
    assert 'two --tuned have the name "a"' in called(capsys, "--tuned=a=x", "--tuned=a=y", "--input=x")
    assert "--bare is for one --tuned" in told(capsys, folders, "--bare", "--input=x")
    bank = pj.Bank(lm, folders)
    with pytest.raises(UserError, match='"lora" is no prefix alone'):
        bank.generate("x", "short+lora")
    with pytest.raises(UserError, match="there are 5 texts and 2 names"):
        bank.generate(TEXTS, ["short", "long"])
    with pytest.raises(UserError, match="cannot be the name"):
        bank.put("a+b", folders["short"])
    with pytest.raises(UserError, match="input 2 is empty"):
        bank.generate(["x", " "], ["long", "short"])


def told(capsys, folders, *words):
    named = [f"--tuned={name}={folder}" if name else f"--tuned={folder}" for name, folder in folders.items()]
    return called(capsys, *named, *words)


def called(capsys, *words):
    options = [f"--config.decoding.{name}={value}" for name, value in SAMPLE.items()]
    code = cli.call(generate.main, generate.define_flags, [*words, *options])
    out, err = capsys.readouterr()
    return out if code == 0 else err
