"""Losses of plain text, beside those of transformers; what `evaluate --forgetting` refuses and keeps."""

import json
import math

import numpy as np
import pytest

from prefix_jax import inference
from prefix_jax.data.tokens import Frame
from prefix_jax.errors import UserError
from prefix_jax.evaluation import forgetting
from prefix_jax.models.adapter_layers import PROMPT
from prefix_jax.reporting import runs
from prefix_jax.reporting.tables import entry_table, signed
from prefix_jax.training import pipeline
from prefix_jax.tuning import TunedState
from tests import tiny
from tests.models import torch_models as tm
from tests.models.torch_models import torch

IDS = np.random.default_rng(0).integers(2, 61, 100).tolist()
FAMILIES = {
    "gpt2": tm.gpt2,
    "llama": tm.llama,
    "t5": lambda: tm.t5(decoder_start_token_id=0, pad_token_id=0),
    "bart": tm.bart,
}
FRAMES = {"gpt2": Frame((), ()), "llama": Frame((2,), ()), "t5": Frame((), (1,)), "bart": Frame((2,), (1,))}
QUICK = {"decoding.strategy": "greedy", "decoding.max_length": 2}


def expected(pair, cut, prefix=None) -> float:
    """Summed loss that transformers gives for the windows, each alone."""
    total = 0.0
    for one in cut:
        labels = torch.tensor([one.predicted])
        with torch.no_grad():
            if pair.model_config.is_encoder_decoder:
                loss = pair.torch(input_ids=torch.tensor([one.given]), labels=labels).loss
            else:
                ids = torch.tensor([one.given + one.predicted])
                labels = torch.tensor([[-100] * len(one.given) + one.predicted])
                more = {} if prefix is None else {"past_key_values": tm.cache_of(tm.leaves_of(prefix), 1)}
                loss = pair.torch(input_ids=ids, labels=labels, **more).loss
        total += float(loss) * len(one.predicted)
    return total


@pytest.mark.parametrize("family", FAMILIES)
def test_loss_of_the_bare_model_is_that_of_transformers(family):
    pair, width = FAMILIES[family](), 32
    cut = forgetting.windows(pair.model_config.is_encoder_decoder, IDS, FRAMES[family], width)
    done = []
    found = forgetting.loss_sum(pair.model, pair.variables, TunedState(), cut, width, done.append)
    count = sum(len(one.predicted) for one in cut)
    assert abs(found - expected(pair, cut)) / count < 1e-5 and done[-1] == len(cut)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_loss_with_a_prefix_is_that_of_transformers_with_a_cache(family):
    pair = FAMILIES[family]()
    kept = TunedState(tm.random_prefix(pair.model_config, 5, 1))
    width = forgetting.window_length(pair.model_config, kept)
    assert width == pair.model_config.context_length - 5
    cut = forgetting.windows(False, IDS, FRAMES[family], width - 1)  # transformers reads a window's last token too
    found = forgetting.loss_sum(pair.model, pair.variables, kept, cut, width - 1)
    assert abs(found - expected(pair, cut, kept.prefix)) / len(IDS) < 1e-5


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_loss_with_a_prompt_is_that_of_transformers_with_its_embeddings(family):
    pair = FAMILIES[family]()
    prompt = np.random.default_rng(1).standard_normal((4, 24), np.float32)
    kept = TunedState(collections={PROMPT: {"embeddings": prompt}})
    width = forgetting.window_length(pair.model_config, kept)
    cut = forgetting.windows(False, IDS, FRAMES[family], width)
    found = forgetting.loss_sum(pair.model, kept.onto(pair.variables), kept, cut, width)
    total = 0.0
    for one in cut:
        embedded = pair.torch.get_input_embeddings()(torch.tensor(one.given + one.predicted[:-1]))
        with torch.no_grad():
            logits = pair.torch(inputs_embeds=torch.cat([torch.tensor(prompt), embedded])[None]).logits[0]
        logits = logits[-len(one.predicted) :]
        total += float(torch.nn.functional.cross_entropy(logits, torch.tensor(one.predicted), reduction="sum"))
    assert width == pair.model_config.context_length - 4 and abs(found - total) / len(IDS) < 1e-5


@pytest.mark.parametrize("before", [(), (2,), (2, 3)])
@pytest.mark.parametrize("count", [2, 7, 8, 9, 31])
def test_every_token_is_predicted_once(before, count):
    cut = forgetting.windows(False, IDS[:count], Frame(before, ()), 8)
    assert [token for one in cut for token in one.predicted] == (IDS[:count] if before else IDS[1:count])
    assert all(len(one.given) + len(one.predicted) - 1 <= 8 for one in cut)


def test_an_encoder_reads_the_first_half_of_a_window():
    cut = forgetting.windows(True, list(range(10, 25)), Frame((), (1,)), 10)
    assert cut[0] == ([10, 11, 12, 13, 1], [14, 15, 16, 17])
    assert cut[1] == ([18, 19, 20, 1], [21, 22, 23, 24])


def test_bits_per_byte():
    loss = forgetting.Loss(mean=math.log(2) * 3, tokens=10, bytes=40)
    assert loss.bits_per_byte == pytest.approx(0.75) and loss.perplexity == pytest.approx(8)
    assert forgetting.Loss(1e4, 1, 1).perplexity is None


def test_virtual_tokens_leave_room():
    pair = tm.gpt2()
    with pytest.raises(UserError, match="leave 10 positions of this model's 40"):
        forgetting.window_length(pair.model_config, TunedState(tm.random_prefix(pair.model_config, 30)))


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "cannot be read"), (b" \n", "is empty"), (b"caf\xe9 au lait", "is not UTF-8: line 1")],
)
def test_a_file_without_text_is_refused_before_the_model_is_loaded(run, tmp_path, monkeypatch, content, message):
    file = tmp_path / "plain.txt"
    if content is not None:
        file.write_bytes(content)
    monkeypatch.setattr(inference.opening, "open_session", lambda *_: pytest.fail("the model is loaded"))
    with pytest.raises(UserError, match=message):
        inference.evaluate(run, "test", plain_text=file)


@pytest.fixture(scope="module")
def run(tiny_models, tmp_path_factory):
    folder = tmp_path_factory.mktemp("forgetting")
    config = tiny.configuration(tiny_models["gpt2"], folder)
    config.training.update(steps=2, batch=2, evaluate_every=2, evaluate_records=2, tensorboard=False)
    pipeline.tune(config, folder / "run", [])
    return folder / "run"


def test_evaluate_writes_and_keeps_it(run, tmp_path):
    file = tmp_path / "plain.txt"
    file.write_text("The harbour was quiet – a Thai place closed. " * 20, encoding="utf-8")
    found = inference.evaluate(run, "test", limit=2, overrides=QUICK, plain_text=file)["forgetting"]
    assert found["change"] == pytest.approx(found["loss_tuned"] - found["loss_bare"]) and found["change"] != 0
    assert found["perplexity_bare"] == pytest.approx(math.exp(found["loss_bare"]))
    assert found["bytes"] == len(file.read_bytes()) and found["file"] == "plain.txt"
    entry = inference.evaluate(run, "test", limit=1, overrides=QUICK)  # other records
    assert entry["forgetting"] == found == json.loads((run / "scores.json").read_text())["test"]["forgetting"]
    (line,) = runs.listed(run)
    assert line.forgetting == signed(found["change"], 3) and len(line.row()) == len(runs.COLUMNS)
    last = entry_table(entry).splitlines()[-1]
    assert last.startswith("forgetting: ") and last.endswith(f"on plain.txt, {found['tokens']:,} tokens")


def test_a_text_of_one_token_is_refused(run):
    found = inference.open_tuned(run)
    with pytest.raises(UserError, match=r"has 1 token\(s\)"):
        forgetting.measure(found.session, found.kept, "a")


def test_special_tokens_around_a_text():
    tokenizer = lambda given, add_special_tokens=True, **_: {
        "input_ids": [[7, 8]] if not add_special_tokens else [2, 7, 8, 1]
    }
    assert forgetting.frame(tokenizer) == ((2,), (1,))
