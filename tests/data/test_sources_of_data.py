"""Where data comes from, the forms of files, and what is said of bad ones."""

import json

import pyarrow
import pyarrow.parquet
import pytest

from prefix_jax import tasks
from prefix_jax.data import hub
from prefix_jax.errors import UserError
from prefix_jax.tasks import Columns

DEFAULT = Columns()
ROWS = [{"source": f"question {i}", "target": f"answer {i}"} for i in range(40)]


def write(path, rows):
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif path.suffix == ".json":
        path.write_text(json.dumps({"data": rows}))
    else:
        mark = "\t" if path.suffix == ".tsv" else ","
        path.write_text(mark.join(rows[0]) + "\n" + "".join(mark.join(row.values()) + "\n" for row in rows))
    return path


def refused(path, task="text", split="train", columns=DEFAULT):
    with pytest.raises(UserError) as caught:
        tasks.pairs(task, split, str(path), columns)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "json", "parquet"])
def test_every_form_of_table_gives_the_same_records(tmp_path, suffix):
    write(tmp_path / f"train.{suffix}", ROWS)
    records = tasks.pairs("text", "train", str(tmp_path))
    assert [(r.source, r.target) for r in records] == [(r["source"], r["target"]) for r in ROWS]


def test_one_file_is_divided_without_overlap(tmp_path):
    path = write(tmp_path / "rows.jsonl", [*ROWS, *ROWS])
    parts = {split: tasks.pairs("text", split, str(path)) for split in tasks.SPLITS}
    sources = {split: {r.source for r in part} for split, part in parts.items()}
    assert [len(sources[split]) for split in tasks.SPLITS] == [32, 4, 4]
    assert set.union(*sources.values()) == {r["source"] for r in ROWS}
    assert sum(map(len, parts.values())) == 80


def test_a_file_named_after_a_split_is_that_split(tmp_path):
    path = write(tmp_path / "my_test.csv", ROWS)
    assert len(tasks.pairs("text", "test", str(path))) == 40
    assert "holds the test split" in refused(path, split="train")


def test_rows_of_one_source_are_one_input(tmp_path):
    path = write(tmp_path / "test.jsonl", [*ROWS[:2], {"source": "question 0", "target": "another"}])
    records = tasks.inputs("text", "test", str(path))
    assert [r.references for r in records] == [("answer 0", "another"), ("answer 1",)]


def test_quoted_cells_may_hold_commas_and_lines(tmp_path):
    path = tmp_path / "train.csv"
    path.write_text('source,target\n"a, b","first\nsecond"\nc,\n')
    assert "line 4" in refused(path)
    path.write_text('source,target\n"a, b","first\nsecond"\nc,d\n')
    assert tasks.pairs("text", "train", str(path))[0].target == "first\nsecond"


def test_summaries_join_the_lines_of_the_article(tmp_path):
    write(tmp_path / "train.jsonl", [{"article": "one\ntwo \n three", "highlights": " short \n and sweet "}])
    record = tasks.pairs("cnn_dm", "train", str(tmp_path))[0]
    assert (record.source, record.target) == ("one two three", "short \n and sweet")


@pytest.mark.parametrize("nested", [True, False])
def test_translation(tmp_path, nested):
    languages = {"de": "Guten Tag", "en": "Good day"}
    write(tmp_path / "test.jsonl", [{"translation": languages} if nested else languages])
    record = tasks.inputs("translation", "test", str(tmp_path), Columns("en", "de"))[0]
    assert (record.source, record.target) == ("Good day", "Guten Tag")
    assert 'no language "fr"' in refused(tmp_path / "test.jsonl", "translation", "test", Columns("en", "fr"))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", ["is empty"]),
        (b"\n\n", ["is empty"]),
        (b"source,target\n", ["has no rows"]),
        (b"source,target\na,b\n\xff\xfe,d\n", ["not UTF-8", "line 3", "0xff"]),
        (b"source,target\na,b\nc,\n", ["line 3", 'empty "target"']),
        (b"source,target\na,b\n  ,d\n", ["line 3", 'empty "source"']),
        (b"source,target\na,b,c\n", ["line 2", "3 cells"]),
        (b"source,tarqet\na,b\n", ["line 2", 'no column "target"', 'did you mean "tarqet"', "target_column"]),
        (b'source,target\n"a,b\n', ["not well-formed CSV"]),
    ],
)
def test_bad_csv_is_named(tmp_path, content, said):
    path = tmp_path / "train.csv"
    path.write_bytes(content)
    message = refused(path)
    assert "train.csv" in message
    assert all(part in message for part in said), message


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"source": "a", "target": "b"}\n{"source": "a"}\n', ["line 2", 'no column "target"']),
        ('{"source": "a", "target": "b"}\n\n{"source": "a", "target": null}\n', ["line 3", "empty"]),
        ('{"source": "a", "target": {"b": 3}}\n', ["line 1", "dict", "not text", "target.b"]),
        ('{"source": "a", "target": "b"}\n{"source": \n', ["line 2", "not valid JSON"]),
        ("[1, 2]\n", ["line 1", "not a JSON object"]),
        ('{"source": "a", "references": []}\n', ["line 1", 'empty "references"']),
    ],
)
def test_bad_jsonl_is_named(tmp_path, content, said):
    path = tmp_path / "train.jsonl"
    path.write_text(content)
    message = refused(path)
    assert all(part in message for part in said), message


@pytest.mark.parametrize(
    ("task", "name", "content", "said"),
    [
        ("e2e", "src1_train.txt", "name : X||It is X.\nname : Y\n", ["line 2", "source||target"]),
        ("e2e", "src1_train.txt", "name : X||  \n", ["line 1"]),
        ("e2e", "trainset.csv", "mr,ref\nname X,It is X.\n", ["line 2", "name[X]"]),
        ("webnlg", "train.json", "[]", ["entries"]),
        ("webnlg", "train.json", '{"entries": [{"1": {"category": "Food"}}]}', ["entry 1", "modifiedtripleset"]),
        ("webnlg", "train.json", '{"entries": [7]}', ["entry 1"]),
        ("dart", "train.json", "{}", ["does not hold a list of items"]),
        ("dart", "train.json", '[{"tripleset": [["a", "b"]], "annotations": []}]', ["item 1", "three texts"]),
        ("dart", "train.json", '[{"tripleset": [["a", "b", "c"]], "annotations": []}]', ["item 1", "no text"]),
    ],
)
def test_bad_task_files_are_named(tmp_path, task, name, content, said):
    (tmp_path / name).write_text(content)
    message = refused(tmp_path, task)
    assert name in message
    assert all(part in message for part in said), message


def test_truncated_parquet(tmp_path):
    path = write(tmp_path / "train.parquet", ROWS)
    path.write_bytes(path.read_bytes()[:-20])
    assert "cannot be read as Parquet" in refused(path)


def test_what_cannot_be_found_is_named(tmp_path, monkeypatch):
    monkeypatch.delenv("PREFIX_JAX_DATA", raising=False)
    assert "does not exist" in refused(tmp_path / "nowhere")
    assert "no train file" in refused(tmp_path)
    assert "--config.data.path" in refused("")
    with pytest.raises(UserError, match=r'"e2f" is not a task.*did you mean "e2e"'):
        tasks.pairs("e2f", "train")
    with pytest.raises(UserError, match='"trian" is not a split; did you mean "train"'):
        tasks.pairs("e2e", "trian")


def unreachable_api(*args, **options):
    from huggingface_hub.errors import OfflineModeIsEnabled

    raise OfflineModeIsEnabled("no route")


def test_unreachable_hub_is_one_sentence_with_the_mend(tmp_path, monkeypatch):
    import datasets

    def unreachable(*args, **options):
        assert datasets.config.HF_HUB_OFFLINE  # or it would try again and again
        raise ConnectionError("Couldn't reach the Hub\nand more")

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    monkeypatch.setattr("huggingface_hub.HfApi.repo_info", unreachable_api)
    monkeypatch.setenv("PREFIX_JAX_DATA", str(tmp_path))
    message = refused("", "webnlg")
    for part in ("webnlg", "PREFIX_JAX_DATA", "webnlg2017", "webnlg-challenge/web_nlg", "--config.data.path"):
        assert part in message
    assert not datasets.config.HF_HUB_OFFLINE


def test_hub_rows_with_an_empty_field_are_left_out(monkeypatch):
    rows = [{"document": "a", "summary": "b"}, {"document": "", "summary": "c"}]
    monkeypatch.delenv("PREFIX_JAX_DATA", raising=False)
    monkeypatch.setattr(hub, "_load", lambda name, configuration, split: (rows, ""))
    assert [r.source for r in tasks.pairs("xsum", "train")] == ["a"]
