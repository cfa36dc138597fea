"""Ids that an embedding does not have are refused before a device reads them, wherever they come in."""

import json
import shutil

import jax
import numpy as np
import pytest

from prefix_jax import decoding, inference, inspection
from prefix_jax.errors import UserError
from prefix_jax.models import finite
from prefix_jax.sweeping import sweep as sweeping
from prefix_jax.sweeping.rows import Row
from prefix_jax.training import session
from prefix_jax.training.trainer import prepare
from prefix_jax.tuning import store
from tests import tiny

WORD, ROWS = "<sep1>", 400
SAID = rf'the token "{WORD}" with id {ROWS}, but the model\'s embedding has {ROWS} rows'


@pytest.fixture(scope="module", params=["gpt2", "t5"])
def grown(request, tiny_models, tmp_path_factory):
    """A model whose tokenizer has a word more than the embedding has rows, and what was tuned for it."""
    folder = tmp_path_factory.mktemp("grown") / request.param
    shutil.copytree(tiny_models[request.param], folder)
    tokenizer = tiny.tokenizer(folder, tiny.texts())
    tokenizer.add_tokens([f"<fill{n}>" for n in range(ROWS - len(tokenizer))] + [WORD])
    assert tokenizer.convert_tokens_to_ids(WORD) == ROWS
    tokenizer.save_pretrained(str(folder))
    return folder


@pytest.fixture
def config(grown, tmp_path, monkeypatch):
    monkeypatch.setenv("PREFIX_JAX_CACHE", str(tmp_path / "cache"))
    config = tiny.configuration(grown, tmp_path)
    config.training.update(steps=1, batch=4, tensorboard=False)
    config.decoding.update(strategy="greedy", max_length=4)
    return config


def table(folder, **with_word):
    """Writes splits of which the last record has the word in one of its columns."""
    folder.mkdir()
    for split in ("train", "validation", "test"):
        rows = tiny.rows(4)
        rows[-1] |= {side: f"{rows[-1][side]} {WORD}" for side, there in with_word.items() if there}
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(folder)


def tuned(config, workdir):
    """Writes a prefix as it begins, with the run's configuration."""
    opened = session.open_session(config)
    method = opened.method
    kept = method.export(method.init(jax.random.key(0), opened.base), opened.base, None)
    extra = {"method": config.method, "step": 1, "config": config.to_dict()}
    store.save(workdir / "tuned", kept, opened.pretrained.identity, opened.model_config, extra)
    return inference.open_tuned(workdir)


COMMANDS = {
    "train": lambda config, workdir: prepare(session.open_session(config), workdir, []),
    "generate": lambda config, workdir: (
        (found := tuned(config, workdir))
        and inference.write_texts(found.session, found.kept, [f"name {WORD}"], progress=False)
    ),
    "evaluate": lambda config, workdir: tuned(config, workdir) and inference.evaluate(workdir, "test"),
    "inspect": lambda config, workdir: (
        (found := tuned(config, workdir)) and inspection.write(workdir, found.session, found.kept, "test")
    ),
}


@pytest.mark.parametrize(
    ("command", "side"),
    [("train", "source"), ("train", "target"), ("generate", "source"), ("evaluate", "source"), ("inspect", "source"),
     ("inspect", "target")],
)  # fmt: skip
def test_a_word_beyond_the_embedding_is_refused_by_name(command, side, config, tmp_path):
    config.data.path = table(tmp_path / "data", **{side: True})
    with pytest.raises(UserError, match=SAID):
        COMMANDS[command](config, tmp_path / "run")


def test_token_ids_from_the_cache_are_checked_too(config, tmp_path):
    config.data.path = table(tmp_path / "data", source=True)
    for _ in range(2):
        with pytest.raises(UserError, match=SAID):
            prepare(session.open_session(config), tmp_path / "run", [])


def test_a_sweep_says_it_of_its_row(config, tmp_path, capsys):
    config.data.path = table(tmp_path / "data", target=True)
    state = sweeping.sweep([Row("one", {}, config)], tmp_path / "sweep", sweeping.SweepOptions(), [])
    assert state.found["one"]["status"] == "failed" and WORD in state.found["one"]["error"]
    assert WORD in capsys.readouterr().err


@pytest.mark.parametrize("method", ["prefix", "prompt"])
def test_words_that_something_begins_with_are_checked(method, config):
    config.method = method
    config[method].update(initialisation="text", text=f"name {WORD}")
    with pytest.raises(UserError, match=rf"{method}.text has {SAID}"):
        _ = session.open_session(config).method


def test_ids_that_decoding_gets_are_checked(config):
    opened = session.open_session(config)
    for ids in ([3, ROWS], [3, -1]):
        with pytest.raises(UserError, match=rf"input 2 has the token id {ids[1]}, but .* {ROWS} rows"):
            decoding.decode_all(opened.model, opened.base, None, [[3], ids], decoding.GenerationConfig(), 2)


def with_ids(source, folder, **ids):
    shutil.copytree(source, folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    about = folder / "config.json"
    about.write_text(json.dumps({**json.loads(about.read_text(encoding="utf-8")), **ids}), encoding="utf-8")
    return str(folder)


@pytest.mark.parametrize(
    "ids", [{"pad_token_id": -1}, {"pad_token_id": 10**6}, {"eos_token_id": 10**6}, {"bos_token_id": -7}]
)
def test_special_ids_that_nothing_reads_refuse_no_model(ids, tiny_models, config, tmp_path):
    """What fills the places without a text changes nothing; the tokenizer's end ends texts."""
    family = "gpt2" if "gpt2" in config.model.source else "t5"
    texts = []
    for source in (str(tiny_models[family]), with_ids(tiny_models[family], tmp_path / "model", **ids)):
        config.model.source = source
        opened = session.open_session(config)
        assert 1 in decoding.generation_config.end_ids(
            decoding.GenerationConfig.from_config(config.decoding, opened.more_ends), opened.model_config
        )
        batch = prepare(opened, tmp_path / f"run{len(texts)}", []).batches.batch_at(0)
        for leaf in (batch.tokens, batch.encoder_tokens):
            assert leaf is None or (np.asarray(leaf).min() >= 0 and np.asarray(leaf).max() < ROWS)
        texts.append(inference.write_texts(opened, None, ["name : Place 1", "a"], progress=False))
    assert texts[0] == texts[1]


@pytest.mark.parametrize("start", [-1, ROWS])
def test_a_decoder_start_beyond_the_embedding_is_refused(start, tiny_models, tmp_path):
    config = tiny.configuration(tiny_models["t5"], tmp_path)
    config.model.source = with_ids(tiny_models["t5"], tmp_path / "model", decoder_start_token_id=start)
    with pytest.raises(UserError, match=f"decoder_start_token_id={start}, but the embedding has {ROWS} rows"):
        session.open_session(config)


@pytest.mark.parametrize(("method", "length"), [("prefix+prompt", 128), ("prompt", 256), ("prompt", 300)])
def test_virtual_tokens_that_fill_the_window_are_refused(method, length, tiny_models, tmp_path):
    config = tiny.configuration(tiny_models["gpt2"], tmp_path)
    config.method = method
    config.prefix.length = config.prompt.length = length
    with pytest.raises(UserError, match="256 positions and leave none for a text"):
        session.open_session(config).limits  # noqa: B018


def test_columns_beyond_the_positions_change_nothing(tiny_models, tmp_path):
    """An input of 225 tokens is padded to 256 columns, which a prefix of 20 moves over the last position."""
    config = tiny.configuration(tiny_models["gpt2"], tmp_path)
    opened = session.open_session(config)
    config.prefix.length = 20
    method = opened.method
    kept = method.export(method.init(jax.random.key(0), opened.base), opened.base, None)
    inputs = decoding.make_inputs([[7] * 225], 256, 1, [0])
    options = decoding.GenerationConfig(strategy="greedy", max_length=5)
    found = decoding.generate(opened.model, opened.base, kept.prefix, inputs, options)
    whole = decoding.generate(
        opened.model, opened.base, kept.prefix, decoding.make_inputs([[7] * 225], 225, 1, [0]), options
    )
    np.testing.assert_allclose(found.scores, whole.scores, rtol=1e-5)
    np.testing.assert_array_equal(found.tokens, whole.tokens)


@pytest.mark.parametrize("strategy", ["greedy", "sample", "beam"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_outputs_that_are_not_finite_are_an_error_with_their_cause(strategy, value, tiny_models, tmp_path):
    config = tiny.configuration(tiny_models["gpt2"], tmp_path)
    config.decoding.update(strategy=strategy, beams=2, max_length=4)
    opened = session.open_session(config)
    norm = opened.base["params"]["final_norm"]
    spoilt = {**opened.base["params"], "final_norm": {**norm, "scale": norm["scale"].at[3].set(value)}}
    assert finite.fault(opened.base) == ""
    opened.base["params"] = spoilt
    said = (
        r"input 1 are not finite: in the frozen weights 1 of the 32 numbers of params/final_norm/scale are not finite"
    )
    with pytest.raises(UserError, match=said):
        inference.write_texts(opened, None, ["name : Place 1"], progress=False)
