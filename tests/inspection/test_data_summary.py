"""What the data of a configuration become: counts and tokens against transformers' tokenizer and a run's batches."""

import json

import numpy as np
import pytest
import transformers

from prefix_jax import cli, preview
from prefix_jax.inspection.data_summary import data_summary, lengths, spelled
from prefix_jax.reporting.data_page import data_page
from prefix_jax.reporting.data_terminal import bar, data_text
from prefix_jax.training import session, trainer
from tests import tiny


@pytest.mark.parametrize("family", ["gpt2", "llama", "t5"])
def test_counts_are_those_of_transformers_and_of_the_batches(tiny_models, tmp_path, family):
    config = tiny.configuration(tiny_models[family], tmp_path)
    found = data_summary(config)
    train = found["splits"]["train"]
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_models[family])
    records = trainer.text_pairs(config, "train")
    counts = [len(tokenizer(record.target, add_special_tokens=False)["input_ids"]) + 1 for record in records]
    assert (train["records"], train["target"]["tokens"]) == (32, sum(counts))
    batches = trainer._batches(session.open_session(config), "train", {}, shuffle=True)
    assert found["packing"]["rows"] == batches.shape.rows
    assert found["packing"]["steps_per_epoch"] == batches.steps_per_epoch
    assert train["target"]["tokens"] == sum(batch.weights.sum() for batch in batches.epoch())


def test_rows_are_the_text_that_the_model_sees(tiny_models, tmp_path):
    config = tiny.configuration(tiny_models["gpt2"], tmp_path)
    found = data_summary(config, rows=2)
    for row, record in zip(found["rows"], [trainer.text_pairs(config, "train")[i] for i in (0, 16)], strict=True):
        assert row["id"] == record.id
        text = {kind: "".join("".join(p["tokens"]) for p in row["parts"] if p["kind"] == kind) for kind in
                ("masked", "source", "target")}  # fmt: skip
        assert text["source"] == record.source and text["target"] == record.target + "</s>"
        assert text["masked"] in ("\n", "<s>\n")


def test_characters_of_several_tokens_stand_at_the_last(tiny_models):
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_models["gpt2"])
    ids = tokenizer("a☕ b", add_special_tokens=False)["input_ids"]
    pieces = spelled(tokenizer, ids)
    assert len(pieces) == len(ids) and "".join(pieces) == "a☕ b" and "☕" in pieces


@pytest.mark.parametrize("counts", [[3], [1, 1, 2], list(range(5, 200, 7)), [0, 100_000]])
def test_a_histogram_counts_each_length_once(counts):
    found = lengths(np.array(counts))
    assert sum(count for _, _, count in found["histogram"]) == len(counts)
    for low, high, count in found["histogram"]:
        assert count == sum(low <= length <= high for length in counts)
    assert (found["min"], found["max"]) == (min(counts), max(counts)) and len(found["histogram"]) <= 14


def test_what_a_run_would_refuse_is_a_finding(tiny_models, tmp_path):
    config = tiny.configuration(tiny_models["gpt2"], tmp_path)
    config.data.max_target_length = 3
    found = data_summary(config)
    assert "over the 3 allowed" in found["splits"]["train"]["findings"]["refused"] and found["packing"] is None
    assert "over the 3 allowed" in data_text(found) and "would refuse" in data_page(found)


def test_leaks_and_duplicates_are_counted(tiny_models, tmp_path):
    config = tiny.configuration(tiny_models["gpt2"], tmp_path)
    rows = tiny.rows(6)
    for split, own in (("train", [*rows, rows[0]]), ("validation", rows[4:]), ("test", rows[5:])):
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in own))
    config.data.path = str(tmp_path / "train.jsonl")
    found = data_summary(config)["splits"]
    assert found["train"]["duplicates"] == 1
    assert [found[split]["sources_of_training"] for split in ("validation", "test")] == [2, 1]


def run(words, capsys):
    code = cli.call(preview.main, preview.define_flags, words)
    return code, *capsys.readouterr()


def test_the_command(tiny_models, tmp_path, capsys):
    file = str(tiny.save_rows(tmp_path / "rows.jsonl", 40))
    words = ["--data", file, "--model", str(tiny_models["t5"])]
    code, out, err = run([*words, "--rows", "2", "--report", str(tmp_path / "data.html")], capsys)
    assert err.endswith(f"next: prefix-jax train {' '.join(words)}\n")
    assert code == 0 and "\x1b" not in out and out.count("\n") < 50
    assert "{name" in out and "which names no split: 40 records divided 80/10/10" in out
    page = (tmp_path / "data.html").read_text(encoding="utf-8")
    assert page.count("<figure") == 6 and 'class="token target"' in page
    code, out, _ = run([*words, "--json", "--rows=0", "--config.data.limit=8"], capsys)
    assert code == 0 and json.loads(out)["splits"]["train"]["records"] == 8
    code, _, err = run(["--data", file + "x"], capsys)
    assert code == 2 and "does not exist; set --data to a file" in err  # its short name, not --config.data.path


def test_colours_are_for_terminals(tiny_models, tmp_path):
    found = data_summary(tiny.configuration(tiny_models["gpt2"], tmp_path))
    assert (
        "\x1b[1;32m" in data_text(found, colour=True)
        and "[" not in data_text(found, colour=True).split("\x1b[1;32m")[1][:5]
    )


def test_bars_are_seen_where_they_are_not_empty():
    assert (bar(0), bar(0.01), bar(2.5)) == ("", "▏", "██▌")
