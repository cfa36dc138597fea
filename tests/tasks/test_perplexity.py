"""Plain text: losses against transformers, windows, and the division of a text."""

import json
import math

import pytest
import torch
import transformers

from prefix_jax import api, inference, inspection, tasks
from prefix_jax.data.tokens import Formats
from prefix_jax.data.windows import frame, windows
from prefix_jax.errors import UserError
from prefix_jax.evaluation import likelihood
from prefix_jax.inspection.data_summary import data_summary
from prefix_jax.metrics.perplexity import spelled
from prefix_jax.reporting.data_page import data_page
from prefix_jax.reporting.data_terminal import data_text
from prefix_jax.reporting.report import write_report
from prefix_jax.reporting.tables import entry_table
from prefix_jax.tasks import Columns
from prefix_jax.training import pipeline, plain_text, session, trainer
from prefix_jax.workdir import read_metrics
from tests import tiny

TEXT = "".join(f"{row['source']}\n{row['target']}\n\n" for row in tiny.rows(60))


def save(folder, text=TEXT, **splits):
    for split, own in ({"train": text, "validation": text[:900], "test": text[900:2000]} | splits).items():
        (folder / f"{split}.txt").write_text(own, encoding="utf-8")
    return str(folder)


def configured(model, folder, **options):
    config = tiny.configuration(model, folder)
    config.data.update(task="perplexity", path=save(folder), window=48)
    config.training.update(steps=3, batch=4, evaluate_every=3, evaluate_records=0, log_every=1, tensorboard=False)
    config.optimizer.learning_rate = 1e-2
    config.update_from_flattened_dict(options)
    return config


def of_transformers(folder, text: str, width: int) -> tuple[float, int]:
    """Returns the summed loss of a text and its predicted tokens; each window begins with the last token before it."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    if "T5" in json.loads((folder / "config.json").read_text())["architectures"][0]:
        model = transformers.AutoModelForSeq2SeqLM.from_pretrained(folder).eval()
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        pieces = [ids[i : i + width] for i in range(0, len(ids), width)]
        cut = [(piece[: len(piece) // 2], piece[len(piece) // 2 :]) for piece in pieces]
        run = lambda given, wanted: model(input_ids=torch.tensor([given]), labels=torch.tensor([wanted])).loss
        sums = [len(wanted) * float(run(given, wanted)) for given, wanted in cut]
        return sum(sums), sum(len(wanted) for _, wanted in cut)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    ids, total = tokenizer(text, add_special_tokens=False)["input_ids"], 0.0
    for start in range(1, len(ids), width):
        own = torch.tensor([ids[start - 1 : start + width]])
        total += float(model(input_ids=own, labels=own).loss) * (own.shape[1] - 1)
    return total, len(ids) - 1


@pytest.mark.parametrize("family", ["gpt2", "llama", "t5"])
@torch.no_grad()
def test_likelihoods_are_those_of_transformers(tiny_models, tmp_path, family):
    opened = session.open_session(configured(tiny_models[family], tmp_path))
    records = tasks.pairs("perplexity", "train", save(tmp_path, TEXT[:700]))
    text = TEXT[:700].strip()
    nats, count = of_transformers(tiny_models[family], text, 48)
    (found,) = likelihood.of_texts(opened, None, records, progress=False)
    number, _, rest = found.partition(" ")
    assert float(number) == pytest.approx(nats, rel=1e-5)
    assert rest == f"nats over {count} tokens, {len(text.encode())} bytes"


@torch.no_grad()
def test_scores_of_the_bare_model_are_those_of_transformers(tiny_models, tmp_path, family="gpt2"):
    config = configured(tiny_models[family], tmp_path)
    pipeline.tune(config, tmp_path / "run", [])
    entry = inference.evaluate(tmp_path / "run", "test", bare=True)
    text = TEXT[900:2000].strip()
    nats, count = of_transformers(tiny_models[family], text, 48)
    expected = {"perplexity": math.exp(nats / count), "loss": nats / count,
                "bits_per_byte": nats / math.log(2) / len(text.encode())}  # fmt: skip
    assert entry["bare"] == pytest.approx(expected, rel=1e-5)
    assert list(entry["bare"]) == list(expected) and entry["tuned"]["loss"] != entry["bare"]["loss"]
    told = entry_table(entry)
    assert f"{expected['bits_per_byte']:.4f}" in told and "not_measured" not in entry
    nats, count = of_transformers(tiny_models[family], TEXT[:900].strip(), 48)
    bare = [line["bare_validation_loss"] for line in read_metrics(tmp_path / "run") if "bare_validation_loss" in line]
    assert bare[0] == pytest.approx(nats / count, rel=1e-5)
    assert "perplexity" in write_report(tmp_path / "run").read_text(encoding="utf-8")


def test_a_run_lowers_the_perplexity_and_continues_a_text(tiny_models, tmp_path):
    config = configured(tiny_models["gpt2"], tmp_path, **{"training.steps": 60, "training.evaluate_every": 0})
    pipeline.tune(config, tmp_path / "run", [])
    entry = inference.evaluate(tmp_path / "run", "test", bare=True)
    assert entry["tuned"]["perplexity"] < 0.95 * entry["bare"]["perplexity"] and entry["verdict"] == []
    again = api.load(tmp_path / "run")
    for data in (tmp_path / "test.txt", [TEXT[900:2000]], "test"):
        assert again.evaluate(data) == pytest.approx(entry["tuned"])
    assert again.lm.evaluate("test") == pytest.approx(entry["bare"])
    with pytest.raises(UserError, match="inspection needs records with a source"):
        inspection.write(tmp_path / "run", again._session, again._kept, "test")
    tuned = inference.open_tuned(tmp_path / "run", {"decoding.max_length": 5, "decoding.strategy": "greedy"})
    assert tuned.session.formats == Formats("{source}", "{target}")
    records = inference.unanswered(tuned.session, ["name : Place 3 |"])
    (text,) = inference.outputs(tuned.session, tuned.kept, records)
    assert text and "nats over" not in text


def test_every_token_of_a_table_is_predicted_once(tiny_models, tmp_path):
    config = configured(tiny_models["llama"], tmp_path)
    rows = [{"text": text} for text in TEXT.split("\n\n") if text]
    (tmp_path / "docs_train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config.data.path = str(tmp_path / "docs_train.jsonl")
    config.training.evaluate_every = 0
    opened = session.open_session(config)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_models["llama"])
    counts = [len(tokenizer(row["text"], add_special_tokens=False)["input_ids"]) for row in rows]
    first = 0 if frame(opened.tokenizer).before else 1
    batches = trainer._batches(opened, "train", {}, shuffle=True)
    assert sum(batch.weights.sum() for batch in batches.epoch()) == sum(counts) - first * len(rows)
    records = tasks.pairs("perplexity", "train", config.data.path)
    cut, owners = plain_text.windows_of(opened, records)
    ids = tokenizer([record.target for record in records], add_special_tokens=False)["input_ids"]
    assert cut == [one for own in ids for one in windows(False, own, frame(opened.tokenizer), 48)]
    assert sorted(set(owners)) == list(range(60))


def test_a_text_is_divided_into_pieces(tmp_path):
    (tmp_path / "book.txt").write_text(TEXT, encoding="utf-8")
    parts = {split: tasks.pairs("perplexity", split, str(tmp_path / "book.txt")) for split in tasks.SPLITS}
    sizes = {split: sum(len(record.target) for record in part) for split, part in parts.items()}
    assert sum(sizes.values()) == len(TEXT.strip()) and 0.7 < sizes["train"] / sum(sizes.values()) < 0.9
    joined = {record.id: record.target for part in parts.values() for record in part}
    order = sorted(joined, key=lambda id: int(id.partition("#")[0].rpartition(".")[2]))
    assert "".join(joined[id] for id in order) == TEXT.strip()
    columns = Columns(validation_fraction=0.3)
    (tmp_path / "x_train.txt").write_text(TEXT, encoding="utf-8")
    drawn = [
        tasks.pairs("perplexity", split, str(tmp_path / "x_train.txt"), columns) for split in ("train", "validation")
    ]
    assert sum(len(record.target) for part in drawn for record in part) == len(TEXT.strip())
    (tmp_path / "book.txt").write_text("short\n", encoding="utf-8")
    with pytest.raises(UserError, match="too few distinct"):
        tasks.pairs("perplexity", "test", str(tmp_path / "book.txt"))


def test_metrics_read_likelihoods_alone():
    rows = [{"hypothesis": spelled(nats, tokens, size), "references": ["x"]} for nats, tokens, size in
            ((10.0, 4, 20), (2.0, 2, 4))]  # fmt: skip
    expected = {"perplexity": math.e**2, "loss": 2.0, "bits_per_byte": 12 / math.log(2) / 24}
    assert tasks.score("perplexity", rows) == pytest.approx(expected)
    found = tasks.measure("perplexity", [*rows, {"hypothesis": "a text", "references": ["x"]}])
    assert not found.scores and set(found.unmeasured) == set(expected)


@pytest.mark.parametrize(("window", "said"), [(10, "at least 16"), (5000, "context length leaves 253")])
def test_windows_that_do_not_fit_are_refused(tiny_models, tmp_path, window, said):
    config = configured(tiny_models["gpt2"], tmp_path, **{"data.window": window})
    with pytest.raises(UserError, match=said):
        plain_text.window_length(session.open_without_weights(config))


def test_the_data_command_shows_windows(tiny_models, tmp_path):
    config = configured(tiny_models["gpt2"], tmp_path)
    found = data_summary(config)
    assert found["rows"][0]["parts"][1]["kind"] == "target" and found["packing"]["steps"] == 3
    assert found["splits"]["train"]["target"]["max"] == 48 and "source" not in found["splits"]["train"]
    assert "tokens of a window" in data_text(found) and "Tokens of a target, train" in data_page(found)
