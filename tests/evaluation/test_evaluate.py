"""Scorers are tried before decoding, texts are kept where they fail, and a run is judged at its end."""

import json

import pytest

from prefix_jax import inference, tasks
from prefix_jax.config import default_config
from prefix_jax.errors import UserError
from prefix_jax.evaluation import files, scorers
from prefix_jax.metrics import coco
from prefix_jax.training import pipeline, selection, token_sets
from prefix_jax.workdir import read_metrics
from tests import tiny

QUICK = {"decoding.strategy": "greedy", "decoding.max_length": 3}


def train(model, folder, **training):
    """Returns the run directory and the outcome of a short run."""
    config = tiny.configuration(model, folder)
    config.optimizer.learning_rate = 1e-2
    config.training.update(steps=8, batch=4, evaluate_every=4, evaluate_records=4, tensorboard=False)
    config.training.update(training)
    return folder / "run", pipeline.tune(config, folder / "run", [])


@pytest.fixture(scope="module")
def trained(tiny_models, tmp_path_factory):
    return train(tiny_models["llama"], tmp_path_factory.mktemp("evaluate"))


@pytest.fixture
def run(trained):
    workdir, _ = trained
    for name in ("scores.json", "samples.jsonl"):
        (workdir / name).unlink(missing_ok=True)
    return workdir


@pytest.fixture
def decoded(monkeypatch):
    """The labels of the texts that are decoded."""
    labels = []
    write = inference.write_texts

    def counting(opened, kept, sources, label="", **options):
        labels.append(label)
        return write(opened, kept, sources, label, **options)

    monkeypatch.setattr(inference.answering, "write_texts", counting)
    return labels


def scores(workdir) -> dict:
    return json.loads((workdir / "scores.json").read_text())["test"]


def fails(*_, **__):
    raise ValueError("could not convert string to float: '0,45'")


def test_every_task_has_scorers():
    for task in tasks.TASKS:
        assert tasks.metrics_of(task)
    config = default_config()
    config.data.task = "poems"
    with pytest.raises(UserError, match='"poems" is not a task'):
        scorers.try_out(config)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"data.task": "e2e"}, "need Java, and there is none"),
        ({"data.language": "ja", "evaluation.bleu_tokenizer": "ja-mecab"}, "ja-mecab cannot be had"),
        ({"data.language": "klingonese"}, "must be an ISO code"),
        ({"evaluation.bleu_tokenizer": "14a"}, "must be empty or one of none, 13a"),
        ({"evaluation.failed_run": "stop"}, "must be warn or error"),
    ],
)
def test_what_scorers_lack_is_said_before_the_model_is_loaded(run, monkeypatch, overrides, message):
    def no_java():
        raise UserError("METEOR, ROUGE_L and CIDEr need Java, and there is none")

    monkeypatch.setattr(coco, "java", no_java)
    monkeypatch.setattr(inference.opening, "open_session", lambda *_: pytest.fail("the model is loaded"))
    monkeypatch.setattr(inference.scoring, "text_inputs", lambda *_: [])
    with pytest.raises(UserError, match=message):
        inference.evaluate(run, "test", overrides=overrides)


def test_a_disk_without_room_is_found_before_the_model_is_loaded(run, monkeypatch):
    def full(folder, contents):
        raise UserError(f"cannot write to {folder}: no space left on device")

    monkeypatch.setattr(scorers.disk, "write_all", full)
    monkeypatch.setattr(inference.opening, "open_session", lambda *_: pytest.fail("the model is loaded"))
    with pytest.raises(UserError, match="no space left"):
        inference.evaluate(run, "test", overrides=QUICK)


def test_texts_are_kept_where_a_scorer_fails_and_scored_by_the_next_call(run, monkeypatch, decoded, capsys):
    monkeypatch.setattr(scorers, "score", fails)
    with pytest.raises(
        UserError, match=r"ValueError: could not .* '0,45'; the texts are kept in .*/samples.jsonl, and"
    ):
        inference.evaluate(run, "test", bare=True, overrides=QUICK)
    assert len(decoded) == 2 and "tuned" not in scores(run)
    kept = [(row["tuned"], row["bare"]) for row in inference.read_samples(run)]
    monkeypatch.undo()
    monkeypatch.setattr(inference.answering, "write_texts", lambda *_: pytest.fail("decoded again"))
    overrides = {**QUICK, "data.language": "de"}  # how texts are scored may change meanwhile
    entry = inference.evaluate(run, "test", bare=True, overrides=overrides)
    assert "scoring the texts that an earlier call has decoded (test, bare)" in capsys.readouterr().err
    assert entry == scores(run) and {"tuned", "bare", "seconds", "verdict"} <= entry.keys() and "unscored" not in entry
    assert [(row["tuned"], row["bare"]) for row in inference.read_samples(run)] == kept


@pytest.mark.parametrize("change", [{"decoding.max_length": 2}, {"data.max_source_length": 40}])
def test_texts_of_other_options_are_decoded_again(run, monkeypatch, decoded, change):
    with monkeypatch.context() as broken:
        broken.setattr(scorers, "score", fails)
        with pytest.raises(UserError):
            inference.evaluate(run, "test", overrides=QUICK)
    inference.evaluate(run, "test", overrides={**QUICK, **change})
    assert len(decoded) == 2


def test_another_language_scores_the_kept_texts_of_the_bare_model_too(run, decoded):
    first = inference.evaluate(run, "test", bare=True, overrides=QUICK)
    second = inference.evaluate(run, "test", overrides={**QUICK, "data.language": "th"})
    assert len(decoded) == 3 and second["scoring"] == {"language": "th", "bleu_tokenizer": ""}
    assert "tok:char" in second["signatures"]["BLEU"] and "tok:13a" in first["signatures"]["BLEU"]
    assert second["bare"].keys() == second["tuned"].keys()


def test_records_that_changed_are_not_taken_for_the_earlier_ones(run, tmp_path):
    inference.evaluate(run, "test", bare=True, overrides=QUICK)
    rows = [{"source": f"other {i}", "target": f"target {i}"} for i in range(4)]
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    entry = inference.evaluate(run, "test", overrides={**QUICK, "data.path": str(tmp_path)})
    assert "bare" not in entry


def test_scores_of_an_earlier_version_are_read(run):
    inference.evaluate(run, "test", bare=True, overrides=QUICK)
    saved = json.loads((run / "scores.json").read_text())
    for name in ("scoring", "verdict", "signatures", "not_measured"):
        saved["test"].pop(name, None)
    (run / "scores.json").write_text(json.dumps(saved))
    entry = inference.evaluate(run, "test", overrides=QUICK)
    assert entry["bare"] == saved["test"]["bare"] and "verdict" in entry


def test_json_holds_no_number_that_is_none(run):
    files.write_scores(run, "test", {"tuned": {"BLEU": 1.0}})
    with pytest.raises(ValueError, match="not JSON compliant"):
        files.write_scores(run, "test", {"tuned": {"BLEU": float("nan")}})


def test_a_healthy_run_is_judged_in_silence(trained, capsys):
    workdir, outcome = trained
    assert pipeline.judged(outcome) == [] and capsys.readouterr().err == ""
    bare = [line["bare_validation_loss"] for line in read_metrics(workdir) if "bare_validation_loss" in line]
    final = [line["validation_loss"] for line in read_metrics(workdir) if "validation_loss" in line][-1]
    assert len(bare) == 2 and bare[0] == bare[1] > final


def test_the_bare_loss_is_that_of_the_model_without_a_prefix(trained, tiny_models):
    """By another way: the mean over the validation records, one at a time."""
    import jax.numpy as jnp
    import numpy as np

    from prefix_jax.data import subsets
    from prefix_jax.training import session
    from prefix_jax.training.loss import token_losses

    workdir, _ = trained
    config = inference.configured(workdir)
    opened = session.open_session(config)
    records = subsets.evenly_spaced(selection.text_pairs(config, "validation"), config.training.evaluate_records)
    tokens, losses = token_sets.tokenised(opened, records), []
    for i in range(len(records)):
        source, target = tokens.sources[i].tolist(), tokens.targets[i].tolist()
        ids = jnp.asarray([source + target])
        logits = opened.model.apply(opened.base, ids)[0, len(source) - 1 : -1]
        losses += np.asarray(token_losses(logits, jnp.asarray(target))).tolist()
    measured = read_metrics(workdir)[-1].get("bare_validation_loss") or next(
        line["bare_validation_loss"] for line in read_metrics(workdir) if "bare_validation_loss" in line
    )
    assert np.mean(losses) == pytest.approx(measured, rel=1e-5)


def test_a_run_above_the_bare_model_is_said_in_one_line(tiny_models, tmp_path, capsys):
    folder = tmp_path
    made = tiny.configuration(tiny_models["llama"], folder)
    made.method = "finetune"
    made.optimizer.update(learning_rate=0.5, schedule="constant", warmup_steps=0)
    made.training.update(steps=4, batch=4, evaluate_every=2, evaluate_records=4, tensorboard=False)
    outcome = pipeline.tune(made, folder / "run", [])
    findings = pipeline.judged(outcome)
    assert findings[0]["finding"] == "loss_above_bare"
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: this run looks failed")]
    assert len(said) == 1
    entry = inference.evaluate(folder / "run", "test", bare=True, overrides=QUICK)
    assert findings[0] in entry["verdict"] == scores(folder / "run")["verdict"]


def test_without_validation_nothing_is_measured_or_said(tiny_models, tmp_path, capsys):
    workdir, outcome = train(tiny_models["llama"], tmp_path, steps=2, evaluate_every=0)
    assert pipeline.judged(outcome) == []
    assert not any("bare_validation_loss" in line for line in read_metrics(workdir))
