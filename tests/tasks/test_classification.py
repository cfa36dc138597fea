"""Classification from files to scores: labels of any type, answers by likelihood, and what is refused."""

import json

import numpy as np
import pytest

from prefix_jax import inference, tasks
from prefix_jax.data import continuations
from prefix_jax.data.tokens import Formats, default_formats
from prefix_jax.errors import UserError
from prefix_jax.reporting.report import write_report
from prefix_jax.tasks import Columns, labels
from prefix_jax.training import pipeline
from tests import tiny

WORDS = ("warm", "cold")


def save(folder, values=WORDS, count=24):
    rows = [{"text": f"day {i}, {'sun' if i % 2 else 'snow'}", "label": values[(i + 1) % 2]} for i in range(count)]
    for split, part in (("train", rows), ("validation", rows[:6]), ("test", rows[6:18])):
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    return str(folder)


@pytest.mark.parametrize(
    ("values", "option", "words"),
    [
        (WORDS, "", ("cold", "warm")),
        (WORDS, "warm,cold", WORDS),
        (WORDS, "warm=hot day, cold=cold day", ("hot day", "cold day")),
        ((0, 1), "", ("0", "1")),
        ((0, 1), "warm,cold", WORDS),
        ((1.0, 0.0), "0=cold,1=warm", ("cold", "warm")),
        ((False, True), "", ("false", "true")),
        ((False, True), "warm,cold", WORDS),
        (("0", "1"), "warm,cold", WORDS),
        ((10, 9), "", ("9", "10")),
    ],
)
def test_labels_are_text_numbers_or_booleans(tmp_path, values, option, words):
    found = tasks.inputs("classification", "test", save(tmp_path, values), Columns(labels=option))
    assert len(found) == 12 and {record.choices for record in found} == {words}
    first = labels.parse(option)
    text = str(values[1]).lower() if isinstance(values[1], bool) else f"{values[1]:g}" if values[1] in (0, 1) else None
    assert found[0].target in words and found[0].target != found[1].target
    if option and text is not None:
        assert found[0].target == (first[text] if text in first else list(first.values())[int(values[1])])


@pytest.mark.parametrize(
    ("row", "option", "message"),
    [
        ({"text": "a", "label": None}, "", 'empty "label"'),
        ({"text": "a", "label": [1]}, "", "list, not a label"),
        ({"text": "a", "tag": "x"}, "", 'no column "label".*target_column'),
        ({"text": "a", "label": "cool"}, "warm,cold", '"cool", which --config.task.labels does not name'),
        ({"text": "a", "label": 2}, "warm,cold", '"2", which --config.task.labels does not name'),
        ({"text": "a", "label": "mild"}, "", '"mild", which the training data do not have'),
        ({"text": "a", "label": "warm"}, "warm", 'only label is "warm"'),
        ({"text": "a", "label": "warm"}, "warm,warm", '"warm" twice'),
        ({"text": "a", "label": "warm"}, "0=warm,cold", "to some labels only"),
        ({"text": "a", "label": "warm"}, "warm,,cold", "empty label"),
    ],
)
def test_what_is_wrong_is_said(tmp_path, row, option, message):
    folder = save(tmp_path)
    (tmp_path / "test.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(UserError, match=message) as raised:
        tasks.read("classification", "test", folder, Columns(labels=option))
    assert "\n" not in str(raised.value)


def test_labels_without_training_data_must_be_named(tmp_path):
    (tmp_path / "test.jsonl").write_text(json.dumps({"text": "a", "label": "x"}) + "\n")
    with pytest.raises(UserError, match="name them with --config.task.labels"):
        tasks.read("classification", "test", str(tmp_path))
    assert len(tasks.read("classification", "test", str(tmp_path), Columns(labels="x,y")).records) == 1


@pytest.mark.parametrize("family", ["t5", pytest.param("llama", marks=pytest.mark.nightly)])
def test_a_run_is_scored_by_likelihood(tiny_models, tmp_path, family):
    config = tiny.configuration(tiny_models[family], tmp_path)
    config.data.update(task="classification", path=save(tmp_path))
    config.training.update(steps=2, batch=4, evaluate_records=4, tensorboard=False)
    workdir = tmp_path / "run"
    assert pipeline.tune(config, workdir, []).finished
    entry = inference.evaluate(workdir, "test", bare=True)
    assert list(entry["tuned"])[:2] == ["accuracy", "balanced_accuracy"] and "BLEU" not in entry["tuned"]
    rows = [json.loads(line) for line in (workdir / "samples.jsonl").read_text().split("\n") if line]
    assert {row[name] for row in rows for name in ("tuned", "bare")} <= set(WORDS)
    saved = json.loads((workdir / "scores.json").read_text())["test"]
    assert saved["choices"] == {"normalisation": "sum", "calibrated": False, "boundary": "trained"}
    for name in ("tuned", "bare"):
        matrix = saved["details"]["confusion"][name]
        assert np.sum(matrix["counts"]) == 12
        assert 100 * np.trace(matrix["counts"]) / 12 == pytest.approx(saved[name]["accuracy"])
    tuned = inference.open_tuned(workdir)
    typed = inference.unanswered(tuned.session, [row["source"] for row in rows])
    assert inference.outputs(tuned.session, tuned.kept, typed, progress=False) == [row["tuned"] for row in rows]
    page = write_report(workdir).read_text()
    assert "Confusion" in page and "given as" in page
    if family == "t5":
        return  # once is enough for what follows
    other = {"task.calibrated": True, "task.normalisation": "byte", "task.boundary": "joined"}
    again = inference.evaluate(workdir, "test", overrides=other)
    assert again["choices"] == {"normalisation": "byte", "calibrated": True, "boundary": "joined"}
    texts = inference.evaluate(workdir, "test", overrides={"task.answer": "generate", "decoding.max_length": 3})
    assert "choices" not in texts and "accuracy" in texts["tuned"]


def test_choices_are_joined_as_evaluation_harnesses_do(tiny_models):
    """lm-evaluation-harness: trailing white space moves to the continuation; both are encoded together and split."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_models["llama"])
    encode = lambda text: tokenizer(text, add_special_tokens=False)["input_ids"]
    sources, texts = ["Place 1 serves", "Place 2"], [["French food", "Thai"], ["Greek", "x"]]
    for formats in (Formats("{source} ", "{target}{eos}"), Formats("Q: {source}\nA:", " {target}")):
        prompts, ids = continuations.joined(sources, texts, tokenizer, formats, 100)
        for source, own, prompt, found in zip(sources, texts, prompts, ids, strict=True):
            context = formats.source.replace("{source}", source)
            spaces = len(context) - len(context.rstrip())
            context, moved = context.rstrip(), context[len(context) - spaces :]
            assert prompt == encode(context)
            for text, one in zip(own, found, strict=True):
                rest = formats.target.replace("{eos}", "").replace("{target}", text)
                assert one == encode(context + moved + rest)[len(prompt) :]
    special = Formats("{source}{bos}", "{target}{eos}")
    prompts, ids = continuations.joined(sources, texts, tokenizer, special, 100)
    assert prompts[0] == [*encode(sources[0]), tokenizer.bos_token_id] and ids[0][1] == encode("Thai")
    trained = continuations.trained(texts, tokenizer, default_formats(tokenizer, False))
    assert trained[0][1] == [*encode("Thai"), tokenizer.eos_token_id]


@pytest.mark.parametrize(("labels", "answer"), [("", "likelihood"), ("warm,cold", "likelihood"), ("", "generate")])
def test_a_typed_text_gets_a_label(tiny_models, tmp_path, labels, answer, capsys):
    """From the command line and in Python, where the labels are named or found in the training data."""
    from prefix_jax import api, cli
    from prefix_jax import generate as command

    config = tiny.configuration(tiny_models["llama"], tmp_path)
    config.data.update(task="classification", path=save(tmp_path))
    config.task.update(labels=labels, answer=answer)
    config.decoding.update(max_length=3)
    config.training.update(steps=1, batch=4, evaluate_records=4, tensorboard=False)
    workdir = tmp_path / "run"
    assert pipeline.tune(config, workdir, []).finished
    if labels:
        (tmp_path / "train.jsonl").unlink()
    inputs = ["day 3, sun", "day 4, snow"]
    typed = [f"--input={text}" for text in inputs]
    assert cli.call(command.main, command.define_flags, [f"--workdir={workdir}", *typed]) == 0
    found = capsys.readouterr().out.removesuffix("\n").split("\n")
    assert found == api.load(workdir).generate(inputs)
    assert all(text in WORDS for text in found) == (answer == "likelihood")
