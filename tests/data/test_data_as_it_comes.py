"""Values, templates, empty and long rows, compression, several files, and parts of training data."""

import gzip
import json
import unicodedata

import numpy as np
import pyarrow
import pytest

from prefix_jax import api, tasks
from prefix_jax.config import check_ranges, default_config
from prefix_jax.data import templates
from prefix_jax.data.in_memory import records_of
from prefix_jax.data.tokens import Formats
from prefix_jax.errors import UserError
from prefix_jax.tasks import Columns
from prefix_jax.training import selection, session, token_sets, trainer
from tests import tiny

ROWS = [{"source": f"question {i}", "target": f"answer {i}"} for i in range(40)]


def save(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def pairs(path, columns=None, split="train", task="text"):
    return [(r.source, r.target) for r in tasks.pairs(task, split, str(path), columns or Columns())]


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (1, "1"), (-3, "-3"), (True, "true"), (False, "false"), (2.5, "2.5"), (3.0, "3.0"), (1e-7, "1e-07")],
)
def test_numbers_and_booleans_are_text_as_json_writes_them(tmp_path, value, text):
    path = save(tmp_path / "train.jsonl", [{"source": value, "target": value}, {"source": "a", "target": [value]}])
    assert pairs(path) == [(text, text), ("a", text)] and json.loads(text) == value


def test_labels_0_and_1_train_a_text_task_and_a_classification(tmp_path):
    rows = [{"text": f"t{i}", "label": i % 2} for i in range(4)]
    path = save(tmp_path / "train.jsonl", rows)
    assert pairs(path, Columns("text", "label")) == [(f"t{i}", str(i % 2)) for i in range(4)]
    (first, *_) = tasks.inputs("classification", "train", path)
    assert first.choices == ("0", "1")


def test_fields_inside_columns(tmp_path):
    row = {"article": {"title": "T", "body": "B"}, "answers": {"text": ["x", "y"]}, "a.b": "dotted"}
    path = save(tmp_path / "train.jsonl", [row])
    assert pairs(path, Columns("article.title", "answers.text.1")) == [("T", "y")]
    assert pairs(path, Columns("a.b", "answers.text")) == [("dotted", "x"), ("dotted", "y")]
    with pytest.raises(UserError, match=r'no column "article.titel".*did you mean "article.title"'):
        pairs(path, Columns("article.titel", "a.b"))
    with pytest.raises(UserError, match="is dict, not text; name a field inside it, as article.title"):
        pairs(path, Columns("article", "a.b"))
    path = save(tmp_path / "train.jsonl", [{"a": None, "b": "x"}])
    with pytest.raises(UserError, match='line 1 .* has an empty "a.c"'):
        pairs(path, Columns("a.c", "b"))


@pytest.mark.parametrize("compress", [gzip.compress, lambda raw: pyarrow.compress(raw, "zstd", asbytes=True)])
def test_compressed_files_are_read_as_they_were(tmp_path, compress):
    raw = b"\xef\xbb\xbf" + "".join(json.dumps(row) + "\r\n" for row in ROWS).encode()
    suffix = ".gz" if compress is gzip.compress else ".zst"
    path = tmp_path / f"train.jsonl{suffix}"
    path.write_bytes(compress(raw))
    assert pairs(path) == pairs(tmp_path) == [tuple(row.values()) for row in ROWS]
    path.write_bytes(compress(raw)[:-30])
    with pytest.raises(UserError, match=rf"train.jsonl{suffix} cannot be decompressed by"):
        pairs(path)


def test_an_arrow_file_that_datasets_wrote(tmp_path):
    import datasets

    datasets.Dataset.from_list(ROWS).save_to_disk(tmp_path / "train")
    assert pairs(tmp_path) == [tuple(row.values()) for row in ROWS]


def test_several_files_and_patterns(tmp_path, monkeypatch):
    paths = [save(tmp_path / f"{name}.jsonl", ROWS[10 * i : 10 * i + 10]) for i, name in enumerate("dbca")]
    listed = f"{paths[0]}, {tmp_path}/[bc].jsonl"
    found = [pair for split in tasks.SPLITS for pair in pairs(listed, split=split)]
    assert sorted(found) == sorted(tuple(row.values()) for row in ROWS[:30])
    train = save(tmp_path / "x_train.jsonl", ROWS[:2]), save(tmp_path / "y_train.jsonl", ROWS[2:4])
    assert len(pairs(",".join(train))) == 4
    assert api.data.source_of([*train], None, Columns()).options["data.path"] == ",".join(train)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "z_train.csv.gz").write_bytes(gzip.compress(b"source,target\na,b\n"))
    mixed = api.data.source_of(["x_train.jsonl", "z_train.csv.gz"], None, Columns()).options["data.path"]
    assert len(pairs(mixed)) == 3
    for bad, said in ((f"{paths[0]},{tmp_path}", "is a directory"), (f"{paths[0]},no.jsonl", "no.jsonl does not exist"),
                      (f"{paths[0]},{train[0]}", "others that name none")):  # fmt: skip
        with pytest.raises(UserError, match=said):
            pairs(bad)
    with pytest.raises(UserError, match="holds the train split, not test"):
        pairs(",".join(train), split="test")


def test_a_file_with_a_comma_in_its_name(tmp_path):
    assert len(pairs(save(tmp_path / "a,b_train.jsonl", ROWS))) == 40


EMPTY = [{"source": "a", "target": ""}, {"source": None, "target": "b"}, {"source": "c", "target": float("nan")}]


def test_empty_rows_are_refused_or_skipped_and_counted(tmp_path):
    path = save(tmp_path / "train.jsonl", [*ROWS[:3], *EMPTY, {"source": "d", "target": []}])
    with pytest.raises(UserError, match='line 4 .* has an empty "target"'):
        pairs(path)
    reading = tasks.read("text", "train", path, Columns(empty="skip"))
    assert len(reading.records) == 3 and "; 4 left out: rows with an empty field" in reading.sentence()
    with pytest.raises(UserError, match="every row of the train split has an empty field"):
        pairs(save(tmp_path / "train.jsonl", EMPTY), Columns(empty="skip"))
    with pytest.raises(UserError, match='no column "target"'):  # a row that is wrong is not empty
        pairs(save(tmp_path / "train.jsonl", [*ROWS[:1], {"source": "e"}]), Columns(empty="skip"))


def test_empty_labels_are_skipped_too(tmp_path):
    path = save(
        tmp_path / "train.jsonl", [{"text": "a", "label": 1}, {"text": "b", "label": None}, {"text": "c", "label": 0}]
    )
    assert pairs(path, Columns(empty="skip"), task="classification") == [("a", "1"), ("c", "0")]


def test_duplicates_are_kept_and_counted(tmp_path):
    path = save(tmp_path / "train.jsonl", [*ROWS[:3], ROWS[0], ROWS[0]])
    reading = tasks.read("text", "train", path)
    assert len(reading.records) == 5 and reading.sentence().endswith("; 2 duplicates kept")


@pytest.mark.parametrize("form", ["NFC", "NFD", "NFKC", "NFKD"])
def test_unicode_forms(tmp_path, form):
    text = "Café ﬁn Å ガ"
    path = save(tmp_path / "train.jsonl", [{"source": text, "target": [text, unicodedata.normalize("NFD", text)]}])
    (record,) = tasks.inputs("text", "train", path, Columns(unicode=form))
    assert {record.source, *record.references} == {unicodedata.normalize(form, text)}


@pytest.mark.parametrize(
    ("format", "text", "inside", "alone"),
    [
        ("{title}: {body}", "{title}: {body}", "<{source}>", False),
        ("Title: {title}, by {a.b}. TL;DR:", "{title}, by {a.b}", "<Title: {source}. TL;DR:>", False),
        ("{bos}{title} {body}{eos}", "{title} {body}", "{bos}{source}{eos}", True),
        ("{source} =>", "", "{source} =>", True),
        ("", "", "<{source}>", True),
    ],
)
def test_templates_are_taken_apart(format, text, inside, alone):
    found = templates.parse(format, "source")
    assert (found.text, found.within("<{source}>", "source"), found.whole) == (text, inside, alone)


def test_templates_over_columns(tmp_path):
    rows = [{"title": "T{x}", "body": "B", "n": 3, "tags": {"first": "f"}}]
    path = save(tmp_path / "train.jsonl", rows)
    columns = Columns(source_template="{title}: {body}", target_template="{n} {tags.first}")
    assert pairs(path, columns) == [("T{x}: B", "3 f")]
    assert [(r.source, r.target) for r in records_of(rows, "train", columns)] == [("T{x}: B", "3 f")]
    assert [(r.source, r.target) for r in records_of([("s", "t")], "train", columns)] == [("s", "t")]  # a pair is whole
    path_of_two = save(tmp_path / "y_train.jsonl", [{"question": "q", "answer": "a"}])
    named = Columns("question", "answer", source_template="{question}")
    assert pairs(path_of_two, named) == [("q", "a")]
    named = Columns("question", "answer", source_template="{question} or {answer}")
    assert pairs(path_of_two, named) == [("q or a", "a")]
    with pytest.raises(UserError, match=r'no column "boddy" \(--config.data.source_format chooses it\); did you mean'):
        pairs(path, Columns(source_template="{title}: {boddy}", target="n"))
    with pytest.raises(UserError, match=r"task xsum makes its sources itself; write \{source\}"):
        pairs(path, columns, task="xsum")
    with pytest.raises(UserError, match="between two columns"):
        templates.parse("{title}{eos}{body}", "source")


@pytest.mark.parametrize("family", ["gpt2", "t5"])
def test_a_template_stands_inside_the_models_own_format(tiny_models, tmp_path, family):
    config = tiny.configuration(tiny_models[family], tmp_path)
    plain = session.open_without_weights(config).formats
    config.data.source_format = "Title: {title}, {body} TL;DR:"
    config.data.target_format = "{n}"
    found = session.open_without_weights(config).formats
    assert found == Formats(plain.source.replace("{source}", "Title: {source} TL;DR:"), plain.target)
    assert selection.columns(config).source_template == "{title}, {body}"


LONG = {"source": "word " * 400, "target": "x"}, {"source": "x", "target": "word " * 200}


def test_long_rows_are_cut_dropped_or_refused(tiny_models, tmp_path, capsys):
    config = tiny.configuration(tiny_models["gpt2"], tmp_path)
    config.data.path = save(tmp_path / "train.jsonl", [*tiny.rows(6), *LONG])
    config.data.max_source_length = 64
    opened = session.open_without_weights(config)
    records = selection.text_pairs(config, "train")
    with pytest.raises(UserError, match="has a target of .* over the 128 allowed"):
        token_sets.fitting(opened, records, "train")
    config.data.too_long = "drop"
    kept, data = token_sets.fitting(opened.of(config), records, "train")
    assert [r.source for r in kept] == [row["source"] for row in tiny.rows(6)] and len(data) == 6
    assert "train: 2 of 8 records are too long and left out" in capsys.readouterr().err
    whole = token_sets.tokenised(opened, records[:6])
    assert np.array_equal(data.sources.ids, whole.sources.ids) and np.array_equal(data.targets.ids, whole.targets.ids)
    assert sum(batch.weights.sum() for batch in trainer._batches(opened.of(config), "train", {}, False).epoch()) == len(
        whole.targets.ids
    )
    config.data.too_long = "refuse"
    with pytest.raises(UserError, match="train: 1 of 7 sources are cut to 64 tokens .*too_long=refuse"):
        token_sets.fitting(opened.of(config), records[:7], "train")
    config.data.too_long = "drop"
    with pytest.raises(UserError, match="no record fits"):
        token_sets.fitting(opened.of(config), records[6:], "train")


@pytest.mark.parametrize("name", ["too_long", "empty", "unicode"])
def test_choices_of_reading_are_checked(name):
    config = default_config()
    config.data[name] = "dorp"
    with pytest.raises(UserError, match=f'data.{name} is "dorp"'):
        check_ranges(config)


def test_a_validation_split_is_drawn_from_training(tmp_path):
    path = save(tmp_path / "x_train.jsonl", [*ROWS, {**ROWS[0], "target": "another"}])
    with pytest.raises(UserError, match="validation_fraction=0.1 takes it from the training data|no file for that"):
        tasks.pairs("text", "validation", path)
    drawn = lambda split, seed=0, fraction=0.25: tasks.read(
        "text", split, path, Columns(validation_fraction=fraction, validation_seed=seed)
    )
    train, validation = drawn("train"), drawn("validation")
    sources = [{r.source for r in part.records} for part in (train, validation)]
    assert len(sources[1]) == 10 and not sources[0] & sources[1] and len(sources[0] | sources[1]) == 40
    assert len(train.records) + len(validation.records) == 41
    assert "drawn from 41 training records (data.validation_fraction=0.25, seed 0)" in validation.sentence()
    assert "for validation (data.validation_fraction=0.25, seed 0)" in train.sentence()
    assert {r.source for r in drawn("validation", 1).records} != sources[1]
    assert {r.source for r in drawn("validation", 0, 0.1).records} < sources[1]
    assert len(drawn("train", fraction=0.999).records) >= 1


def test_a_file_without_a_split_keeps_its_test_part(tmp_path):
    path = save(tmp_path / "rows.jsonl", ROWS)
    columns = Columns(validation_fraction=0.5)
    parts = {split: {pair[0] for pair in pairs(path, columns, split)} for split in tasks.SPLITS}
    assert [len(parts[split]) for split in tasks.SPLITS] == [18, 18, 4]
    assert parts["test"] == {pair[0] for pair in pairs(path, None, "test")}
    assert len(set.union(*parts.values())) == 40
    assert "divided 90/10 into training and test" in tasks.read("text", "train", path, columns).sentence()
    assert "divided 80/10/10" in tasks.read("text", "train", path).sentence()


def test_in_memory_records_give_a_validation_split(tiny_models):
    config = default_config()
    config.data.validation_fraction = 0.25
    held = api.data.source_of([(row["source"], row["target"]) for row in ROWS], None, Columns()).held
    counts = [len(selection.text_pairs(config, split, held)) for split in ("train", "validation")]
    assert counts == [30, 10]


def test_generators_and_data_sets_in_memory():
    import datasets

    wanted = [tuple(row.values()) for row in ROWS]
    given = (lambda: (row for row in ROWS), lambda: datasets.Dataset.from_list(ROWS), lambda: iter(wanted),
             lambda: datasets.Dataset.from_list(ROWS).to_iterable_dataset())  # fmt: skip
    for make in given:
        assert [(r.source, r.target) for r in records_of(make(), "train")] == wanted


def test_the_validation_rows_of_the_hub_are_not_trained_on(monkeypatch):
    import datasets

    from prefix_jax.data import hub

    table = datasets.Dataset.from_list([{"question": f"q{i}", "answer": f"{i} #### {i}"} for i in range(600)])

    def load(name, configuration, split):
        instruction = datasets.ReadInstruction.from_spec(split)
        (part,) = instruction.to_absolute({"train": len(table), "test": len(table)})
        return table.select(range(part.from_, part.to)), ""

    monkeypatch.delenv("PREFIX_JAX_DATA", raising=False)
    monkeypatch.setattr(hub, "_load", load)
    train, validation = ({r.source for r in tasks.pairs("gsm8k", split)} for split in ("train", "validation"))
    assert (len(train), len(validation), train & validation) == (100, 500, set())
