"""Runs from Python: equal to those of the commands, from data in memory, with an optimizer and a loss of one's own."""

import json

import jax
import numpy as np
import optax
import pytest

import prefix_jax as pj
from prefix_jax import tasks
from tests import runs, tiny
from tests.api.conftest import PAIRS, QUICK
from tests.conftest import ROOT

OPTIONS = {
    "training.batch": 4, "training.log_every": 1, "training.evaluate_every": 4, "training.evaluate_records": 4,
    "training.checkpoint_every": 2, "training.tensorboard": False,
    "decoding.beams": 2, "decoding.max_length": 8, "decoding.batch": 4,
}  # fmt: skip


def tuned_bytes(folder):
    return (folder / "tuned" / "prefix.safetensors").read_bytes()


@pytest.mark.slow
def test_a_run_in_python_equals_that_of_the_command(model_dir, lm, tmp_path):
    """From the same file, and from its records in memory."""
    recipe = runs.write_recipe(tmp_path, model_dir, steps=6)
    runs.run("train", "--config", str(recipe), "--workdir", str(tmp_path / "command"), cache=tmp_path / "cache")
    how = dict(steps=6, learning_rate=1e-2, options=OPTIONS)
    rows = tmp_path / "rows.jsonl"
    from_file = pj.tune(lm, rows, pj.Prefix(length=3, hidden=16), workdir=tmp_path / "file", **how)
    splits = {split: tasks.pairs("text", split, str(rows)) for split in ("train", "validation")}
    held = {split: [(record.source, record.target) for record in records] for split, records in splits.items()}
    pj.tune(lm, held, pj.Prefix(length=3, hidden=16), workdir=tmp_path / "memory", **how)
    assert tuned_bytes(tmp_path / "file") == tuned_bytes(tmp_path / "command") == tuned_bytes(tmp_path / "memory")
    for name in ("loss", "validation_loss", "gradient_norm"):
        assert runs.lines(tmp_path / "command", name) == runs.lines(tmp_path / "memory", name)
    assert list(from_file.history["loss"]) == list(runs.lines(tmp_path / "command", "loss").values())
    record = json.loads((tmp_path / "memory" / "config.json").read_text())
    assert record["config"]["data"]["path"] == "(in memory)" and record["records"]["train"]["count"] == 32
    # What was saved from Python is a run to the commands.
    saved = from_file.save(tmp_path / "saved")
    out, _ = runs.run("generate", "--workdir", str(saved), "--input", PAIRS[0][0], cache=tmp_path / "cache")
    assert out.rstrip("\n") == " ".join(from_file.generate(PAIRS[0][0]).split("\n"))
    _, err = runs.run("evaluate", "--workdir", str(tmp_path / "memory"), cache=tmp_path / "cache", code=2)
    assert "the test records of this run were in memory; name their file with --config.data.path" in err


def test_a_run_in_memory_resumes_with_the_same_records_alone(lm, tmp_path):
    method, how = pj.Prefix(length=2, hidden=8), dict(workdir=tmp_path / "run", options=QUICK)
    pj.tune(lm, PAIRS[:8], method, steps=2, learning_rate=1e-3, **how)
    with pytest.raises(pj.UserError, match=r"the train records in memory are others \(8 then, 9 now\)"):
        pj.tune(lm, PAIRS[:9], method, steps=4, learning_rate=1e-3, **how)
    longer = pj.tune(lm, iter(PAIRS[:8]), method, steps=4, learning_rate=1e-3, **how)
    assert list(longer.history["step"]) == [1, 2, 3, 4]
    with pytest.raises(pj.UserError, match="optimizer was that of the configuration and is now an object given"):
        pj.tune(lm, PAIRS[:8], method, steps=6, optimizer=optax.sgd(1e-3), options=QUICK, workdir=tmp_path / "run")


def test_a_step_with_an_optax_optimizer_is_optax_s_own(lm):
    """Stochastic gradient descent by hand; and Adam in optax gives what the configuration's optimizer gives."""
    from prefix_jax.training.step import make_gradient

    method, batch = lm.method(pj.Prefix(length=2, reparameterisation="none")), lm.batch(PAIRS[:4])
    hyper = pj.hyperparameters(learning_rate=1e-2, steps=10, schedule="constant", warmup_steps=0, clip=0.0)
    start = lambda optimizer=None: pj.initial_state(method, lm.variables, hyper, 0, 0.0, optimizer=optimizer)
    before = start()
    _, gradient, _ = make_gradient(lm.model, method, False)(lm.variables, before.trainable, batch, before.key)
    sgd = optax.sgd(0.5)
    after, metrics = pj.make_step(lm.model, method, optimizer=sgd)(lm.variables, hyper, start(sgd), batch)
    expected = jax.tree.map(lambda leaf, slope: leaf - 0.5 * slope, before.trainable, gradient)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), after.trainable, expected)
    assert "learning_rate" not in metrics
    adam, losses = optax.adam(1e-2), []
    for optimizer in (None, adam):
        step, state = pj.make_step(lm.model, method, optimizer=optimizer), start(optimizer)
        for _ in range(3):
            state, metrics = step(lm.variables, hyper, state, batch)
        losses.append(state.trainable)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), *losses)


def twice(model, variables, prefix, batch):
    total, weight = pj.loss(model, variables, prefix, batch)
    return 2 * total, weight


def test_a_loss_and_an_optimizer_of_one_s_own_train_and_are_recorded(lm, tmp_path):
    method = pj.Prefix(length=2, hidden=8) | pj.LoRA(rank=2)
    how = dict(steps=2, validation=PAIRS[8:12], options=QUICK, optimizer=optax.adamw(1e-2))
    plain = pj.tune(lm, PAIRS[:8], method, **how)
    own = pj.tune(lm, PAIRS[:8], method, loss=twice, workdir=tmp_path / "run", **how)
    for name in ("loss", "validation_loss", "bare_validation_loss"):
        first = [table[name].dropna().iloc[0] for table in (plain.history, own.history)]
        assert first[1] == pytest.approx(2 * first[0], rel=1e-5)
    assert "learning_rate" not in own.history
    assert own.record["given"]["loss"].endswith("test_tune.twice") and "optimizer" in own.record["given"]
    assert own._session.config.method == "prefix+lora" and set(own.variables) >= {"params", "lora"}


def test_merging_lora_changes_no_text(lm, tmp_path):
    tuned = pj.tune(lm, PAIRS[:8], pj.LoRA(rank=2), steps=3, learning_rate=0.05, options=QUICK)
    merged, texts = tuned.merge(), [source for source, _ in PAIRS[:3]]
    assert merged.generate(texts, strategy="greedy") == tuned.generate(texts, strategy="greedy")
    assert lm.generate(texts, strategy="greedy") != tuned.generate(texts, strategy="greedy")
    with pytest.raises(pj.UserError, match="merged updates cannot be saved"):
        merged.save(tmp_path / "merged")
    # Another method in the same folder leaves nothing of the one before.
    tuned.save(tmp_path / "saved")
    pj.Tuned.from_prefix(lm, lm_prefix(lm)).save(tmp_path / "saved")
    assert pj.load(tmp_path / "saved", lm).variables.keys() == lm.variables.keys()


def lm_prefix(lm):
    shape = (lm.config.layers, lm.config.kv_heads, 2, lm.config.head_dim)
    return pj.prefix(decoder=(np.zeros(shape, np.float32), np.ones(shape, np.float32)))


def test_an_own_prefix_is_what_the_text_sees(lm):
    """Keys and values of tokens before the text are the text after them, as far as attention sees."""
    text = PAIRS[0][0]
    assert lm.generate(text, prefix=lm_prefix(lm), strategy="greedy", max_length=6) == pj.Tuned.from_prefix(
        lm, lm_prefix(lm)
    ).generate(text, strategy="greedy", max_length=6)
    wrong = (np.zeros((1, 1, 2, 8)), np.zeros((1, 1, 2, 8)))
    with pytest.raises(pj.UserError, match="decoder keys and values are"):
        lm.generate(text, prefix=pj.prefix(decoder=wrong))


PREFIX = pj.Prefix(length=2, hidden=8)
BAD = {
    "no such task": (dict(data="e3e"), r'"e3e" is neither a file nor a task; did you mean "e2e"\?'),
    "no such file": (dict(data="nowhere/rows.jsonl"), "nowhere/rows.jsonl"),
    "no pairs": (dict(data=[]), "the train data has no rows; give at least one"),
    "not a pair": (dict(data=["a"]), "row 1 of the train data is str, neither a"),
    "an empty target": (dict(data=[("a", " ")]), 'row 1 of the train data has an empty "target"'),
    "a missing column": (dict(data=[{"sauce": "a", "target": "b"}]), 'no column "source".*did you mean "sauce"'),
    "ragged columns": (dict(data={"source": ["a"], "target": ["b", "c"]}), "columns of one length"),
    "no train split": (dict(data={"test": [("a", "b")]}), "no train split"),
    "an unknown option": (dict(options={"training.bach": 4}), 'no option "training.bach"; did you mean "training.batc'),
    "an option of another type": (dict(options={"training.batch": "four"}), "training.batch is 'four'.*must be int"),
    "an option out of range": (dict(options={"training.batch": 0}), "training.batch is 0; it must be at least 1"),
    "an option twice": (dict(steps=2, options={"training.steps": 3}), "steps is 2 and the option training.steps is 3"),
    "the model's option": (dict(options={"model.dtype": "bfloat16"}), "model.dtype belongs to load_model"),
    "a class": (dict(method=pj.Prefix), r"the class Prefix; call it, as Prefix\(\)"),
    "no method": (dict(method=3), "the method is int"),
    "an unknown method": (dict(method="prefiks"), 'no method "prefiks"; did you mean "prefix"'),
    "the method twice": (dict(method=PREFIX | PREFIX), "names prefix twice"),
    "no optimizer": (dict(optimizer="adam"), "optimizer is str; it must be an optax optimizer"),
    "two rates": (dict(optimizer=optax.sgd(1.0), learning_rate=1.0), "give the optimizer its learning rate"),
    "no loss": (dict(loss=3), "loss is int; it must be a function"),
    "nothing to measure": (dict(options={"training.evaluate_every": 2}), "there are no validation records"),
    "a file as directory": (dict(workdir=ROOT / "README.md"), "README.md is a file; name a directory as workdir"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_what_is_wrong_is_said_in_one_sentence(name, lm):
    given, said = BAD[name]
    arguments = {"data": PAIRS[:4], "method": PREFIX, **given}
    with pytest.raises(pj.UserError, match=said) as found:
        pj.tune(lm, arguments.pop("data"), arguments.pop("method"), **arguments)
    assert "\n" not in str(found.value)


def test_what_is_wrong_after_tuning_is_said_in_one_sentence(lm, tuned, tmp_path):
    with pytest.raises(pj.UserError, match="does not exist"):
        pj.load(tmp_path / "nothing")
    with pytest.raises(pj.UserError, match="no test records were given; the run has train, validation records"):
        tuned.evaluate()
    with pytest.raises(pj.UserError, match='no option "decoding.beam"; did you mean "decoding.beams"'):
        tuned.generate("a", beam=3)
    with pytest.raises(pj.UserError, match="input 1 is empty"):
        tuned.generate([" "])
    with pytest.raises(pj.UserError, match="a source is int"):
        tuned.generate([3])
    with pytest.raises(pj.UserError, match='no "lost"; did you mean "loss"'):
        tuned.plot("lost")
    with pytest.raises(pj.UserError, match="holds no LoRA"):
        tuned.merge()
    with pytest.raises(pj.UserError, match='there is no site "cross"'):
        tuned.attention(PAIRS[0][0], "x").plot("cross")
    assert tuned.generate([]) == []


def test_another_model_is_refused(tuned, tmp_path):
    other = pj.load_model(tiny.save_model(tmp_path / "other", "gpt2", seed=1))
    with pytest.raises(pj.UserError, match="another model|other weights|not the model"):
        pj.load(tuned.save(tmp_path / "saved"), other)
