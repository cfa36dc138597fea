"""Every method from a configuration to scores: it learns, is kept, is opened again, and packs as it runs alone."""

import json

import jax
import numpy as np
import pytest

from prefix_jax import inference
from prefix_jax.config import default_config
from prefix_jax.reporting.report import write_report
from prefix_jax.training import pipeline, session
from prefix_jax.training.loss import loss_sums
from prefix_jax.training.trainer import prepare
from prefix_jax.tuning import store
from tests import tiny
from tests.runs import lines

CASES = [
    ("gpt2", "infix", {"infix.length": 4, "infix.hidden": 16}),
    ("llama", "prompt", {"prompt.length": 5}),
    ("gpt2", "prompt", {"prompt.length": 5, "prompt.reparameterisation": "lstm", "prompt.hidden": 8}),
    ("bart", "prompt", {"prompt.length": 5, "prompt.reparameterisation": "mlp", "prompt.hidden": 16}),
    ("llama", "lora", {"lora.rank": 4}),
    ("t5", "lora", {"lora.rank": 4, "lora.targets": "all"}),
    ("gpt2", "adapter", {"adapter.width": 8}),
    ("t5", "adapter", {"adapter.width": 8, "adapter.places": "cross"}),
    ("llama", "finetune", {"finetune.layers": 1}),
    ("bart", "finetune", {}),
    ("bart", "prefix", {"prefix.length": 3, "prefix.hidden": 16}),
    ("t5", "prefix+lora", {"prefix.length": 3, "prefix.hidden": 16}),
    ("gpt2", "prefix", {"prefix.length": 3, "prefix.reparameterisation": "none", "prefix.gate": 2.0}),
    ("llama", "prefix", {"prefix.length": 3, "prefix.reparameterisation": "none", "prefix.trained": "values"}),
]


@pytest.fixture
def configured(tiny_models, tmp_path, monkeypatch):
    monkeypatch.setenv("PREFIX_JAX_CACHE", str(tmp_path / "cache"))

    def make(family: str, method: str, options: dict):
        config = default_config()
        config.method = method
        config.model.source = str(tiny_models[family])
        config.data.update(task="text", path=str(tiny.save_rows(tmp_path / "rows.jsonl", 40)))
        config.optimizer.update(learning_rate=1e-2, warmup_steps=1)
        config.training.update(
            steps=12, batch=8, log_every=1, evaluate_every=6, evaluate_records=8, checkpoint_every=6, tensorboard=False,
        )  # fmt: skip
        config.decoding.update(strategy="greedy", max_length=4, batch=4)
        config.update_from_flattened_dict(options)
        return config

    return make


# Those whose method, and whose family with another method, is among the rest.
NIGHTLY = (2, 3, 4, 5, 7, 9, 10, 12, 13)
PARAMS = [pytest.param(*case, marks=pytest.mark.nightly) if i in NIGHTLY else case for i, case in enumerate(CASES)]


@pytest.mark.parametrize(("family", "method", "options"), PARAMS)
def test_a_method_learns_and_is_kept(family, method, options, configured, tmp_path):
    config, workdir = configured(family, method, options), tmp_path / "run"
    outcome = pipeline.tune(config, workdir, [])
    assert outcome.finished
    record = json.loads((workdir / "config.json").read_text())
    kept, meta = store.load(workdir)
    assert kept.count() == record["parameters"]["stored"] and meta["method"] == method

    # The session that is opened again computes what training computed last.
    tuned = inference.open_tuned(workdir)
    trainer = prepare(tuned.session, workdir, [])
    assert trainer.validation is not None
    (batch,) = list(trainer.validation.epoch())

    def loss(kept) -> float:
        total, weight = loss_sums(tuned.session.model, kept.onto(tuned.session.base), kept.prefix, batch)
        return float(total / weight)

    expected = lines(workdir, "validation_loss")[12]
    assert loss(tuned.kept) == pytest.approx(expected, abs=1e-4)
    start = trainer.members[0].method.export(trainer.initial().trainable, tuned.session.base, None)
    assert expected < loss(start) - 1e-4

    entry = inference.evaluate(workdir, "validation", limit=4)
    assert entry["tuned"] and entry["records"] == 4
    write_report(workdir)
    page = (workdir / "report.html").read_text()
    assert f"{record['parameters']['stored']:,}" in page


@pytest.mark.parametrize(("family", "method", "options"), [CASES[0], CASES[1], PARAMS[3]])
def test_packed_records_have_the_loss_they_have_alone(family, method, options, configured, tmp_path):
    opened = session.open_session(configured(family, method, options))
    method_, data = opened.method, opened.of(opened.config)
    trainable = method_.init(jax.random.key(0), opened.base)
    kept = method_.export(trainable, opened.base, None)
    losses = []
    for batch_size in (1, 8):
        opened.config.training.batch = batch_size
        trainer = prepare(data, tmp_path / f"run{batch_size}", [])
        sums = [loss_sums(opened.model, kept.onto(opened.base), kept.prefix, b) for b in trainer.batches.epoch()]
        losses.append((sum(float(s) for s, _ in sums), sum(float(w) for _, w in sums)))
    assert losses[0][1] == losses[1][1]
    assert losses[0][0] == pytest.approx(losses[1][0], rel=1e-5)


def test_greedy_text_with_a_prompt_is_that_of_whole_forwards(configured, tmp_path):
    """The cached decoding of every new token, beside one forward pass over everything for each."""
    for family, method, options in [CASES[0], CASES[3]]:
        opened = session.open_session(configured(family, method, options))
        opened.config.decoding.update(strategy="greedy", max_length=3)
        made = opened.method
        noisy = jax.tree.map(lambda leaf: leaf * 1.3 + 0.01, made.init(jax.random.key(1), opened.base))
        kept = made.export(noisy, opened.base, None)
        source = tiny.rows(3)[2]["source"]
        (text,) = inference.write_texts(opened, kept, [source], progress=False)
        assert text == whole_forwards(opened, kept, source, 3), (family, method)


def whole_forwards(opened, kept, source: str, count: int) -> str:
    model_config, form = opened.model_config, opened.formats.source
    before, after = form.split("{source}")
    names = {"{eos}": opened.tokenizer.eos_token, "{bos}": opened.tokenizer.bos_token}
    for name, token in names.items():
        before, after = before.replace(name, token), after.replace(name, token)
    ids = opened.tokenizer(before + source + after, add_special_tokens=False)["input_ids"]
    ids = [model_config.pad_id] * kept.reserved + ids
    written: list[int] = []
    variables = kept.onto(opened.base)
    while len(written) < count:
        if model_config.is_encoder_decoder:
            tokens = np.array([[model_config.decoder_start_id, *written]])
            logits = opened.model.apply(variables, tokens, encoder_tokens=np.array([ids]), prefix=kept.prefix)
        else:
            tokens = np.array([ids + written])
            targets = np.arange(len(ids) - 1, tokens.shape[1])[None]
            logits = opened.model.apply(variables, tokens, target_positions=targets, prefix=kept.prefix)
        written.append(int(logits[0, -1].argmax()))
        if written[-1] == model_config.eos_id:
            written.pop()
            break
    return opened.tokenizer.decode(written, skip_special_tokens=True, clean_up_tokenization_spaces=False).strip()
