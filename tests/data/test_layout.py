"""Which files of a folder are a split: a matrix of layouts, each with what is read or why it is refused."""

import gzip
import json

import pyarrow
import pyarrow.parquet
import pytest

from prefix_jax import tasks
from prefix_jax.errors import UserError


def lay(folder, names):
    """Writes files of two rows each; a row says in which file it is."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = [{"source": f"{name} {row}", "target": "text"} for row in range(2)]
        suffix = path.name.removesuffix(".gz").rpartition(".")[2]
        if suffix == "parquet":
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
            continue
        if suffix == "arrow":
            table = pyarrow.Table.from_pylist(rows)
            with pyarrow.ipc.new_stream(path, table.schema) as writer:  # as `datasets` saves it
                writer.write_table(table)
            continue
        if suffix in ("csv", "tsv"):
            mark = "," if suffix == "csv" else "\t"
            text = "".join(mark.join(cells) + "\n" for cells in [["source", "target"], *([*r.values()] for r in rows)])
        elif suffix == "json":
            text = json.dumps(rows)
        else:
            text = "".join(json.dumps(row) + "\n" for row in rows)
        path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())


def read(path, split="train"):
    """Returns the names of the files whose rows are read, in their order."""
    records = tasks.read("text", split, str(path)).records
    names = [record.source.rpartition(" ")[0] for record in records]
    assert [record.source for record in records] == [f"{name} {row % 2}" for row, name in enumerate(names)]
    return names[::2]


HUB = [f"train-0000{part}-of-00003.parquet" for part in range(3)]
MANY = [f"train_{part}.jsonl" for part in range(12)]
SPARK = "-9dcb7a1f-1111-4222-8333-444455556666-c000.snappy.parquet"


@pytest.mark.parametrize(
    "files",
    [
        ["train.csv"],
        HUB,
        [f"data/{name}" for name in HUB],
        [f"train-0000{part}-of-00002-{mark * 16}.parquet" for part, mark in ((0, "f"), (1, "a"))],
        ["train-1-of-2.jsonl", "train-2-of-2.jsonl"],
        ["train (1 of 2).jsonl", "train (2 of 2).jsonl"],
        MANY,
        ["train.1.csv", "train.2.csv"],
        ["train1.tsv", "train2.tsv"],
        ["train-part-0.csv", "train-part-1.csv"],
        ["my_train_1.json", "my_train_2.json"],
        ["train-00000.csv.gz", "train-00001.csv.gz"],
        ["train-0.csv", "train-1.csv.gz"],
        ["TRAIN-0.JSONL", "TRAIN-1.JSONL"],
        [f"train/part-0000{part}.jsonl" for part in range(3)],
        [f"train/part-0000{part}{SPARK}" for part in range(2)],
        ["train/0000.parquet", "train/0001.parquet"],
        ["data/train/0000.parquet", "data/train/0001.parquet"],
        ["train/news.jsonl", "train/sport.jsonl"],
        ["train/2019.csv", "train/2020.csv"],
        ["train/data-00000-of-00002.arrow", "train/data-00001-of-00002.arrow"],
        ["training/rows.csv"],
        ["train_2020.csv"],
    ],
)
def test_every_part_of_a_split_is_read_in_order(tmp_path, files):
    lay(tmp_path, [*reversed(files), "test.csv", ".train.csv", "notes.csv"])
    assert read(tmp_path) == files
    assert read(tmp_path, "test") == ["test.csv"]


def test_what_datasets_keeps_beside_a_split_is_not_of_it(tmp_path):
    lay(tmp_path, ["train/data-00000-of-00001.arrow", "train/state.json", "train/dataset_info.json"])
    assert read(tmp_path) == ["train/data-00000-of-00001.arrow"]


def refused(path, split="train", task="text"):
    with pytest.raises(UserError) as caught:
        tasks.read(task, split, str(path))
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (HUB[:2], ["train-00002-of-00003.parquet is missing"]),
        (HUB[1:], ["train-00000-of-00003.parquet is missing"]),
        (HUB[:1], ["train-00001-of-00003.parquet, train-00002-of-00003.parquet are missing"]),
        (MANY[:3] + MANY[4:], ["train_3.jsonl is missing"]),
        (["train/part-00002.csv"], ["part-00001.csv is missing"]),
        (["train_1.csv", "train_01.csv"], ["twice", "train_1.csv", "train_01.csv"]),
        (["train-0.csv", "train-0.csv.gz"], ["twice", "train-0.csv.gz"]),
        ([*HUB, "train-00000-of-00002.parquet"], ["not numbered as parts", "train-00000-of-00002.parquet"]),
        ([*HUB, "train-00003-of-00003.parquet"], ["not numbered as parts", "train-00003-of-00003.parquet"]),
        (["train.csv", "train_full.csv"], ["train.csv", "train_full.csv", "--config.data.path="]),
        (["train.csv", "train (1).csv"], ["train (1).csv"]),
        (["train.csv", "train_1.csv"], ["train_1.csv"]),
        (["train.csv", "train.csv.gz"], ["train.csv.gz"]),
        (["train.csv", "train.jsonl"], ["train.csv", "train.jsonl"]),
        (["train.csv", "train/a.csv"], ["train.csv", "train/a.csv"]),
        (["train.csv", "data/train.csv"], ["data/train.csv"]),
        (["train_v1.csv", "train_v2.csv"], ["train_v1.csv, train_v2.csv"]),
        (["train_seed0.csv", "train_seed1.csv"], ["train_seed0.csv, train_seed1.csv"]),
        (["fold1_train.csv", "fold2_train.csv"], ["fold1_train.csv"]),
        (["train_2019.csv", "train_2020.csv"], ["train_2019.csv"]),
        (["a_train.csv", "b_train.csv"], ["a_train.csv", "b_train.csv"]),
        (["train_test.csv"], ["2 splits (train, test)"]),
        (["train/train.csv", "train/train_full.csv"], ["train_full.csv"]),
        (["train/test.csv"], ["names a different split"]),
        (["train/a.csv", "train/more/b.csv"], ["more/b.csv", "by a pattern"]),
        (["default/train.csv"], ["has no train file", "--config.data.path=", "default"]),
        (["train.csv.bz2"], ["has no train file", "train.csv.bz2 cannot be read"]),
    ],
)
def test_what_is_not_clear_or_not_whole_is_refused_by_name(tmp_path, files, said):
    lay(tmp_path, [*files, "dev.csv"])
    message = refused(tmp_path)
    assert all(part in message for part in said), message
    assert read(tmp_path, "validation") == ["dev.csv"]


def test_two_names_of_one_split_are_refused(tmp_path):
    lay(tmp_path, ["dev.csv", "validation.csv"])
    assert "dev.csv, validation.csv" in refused(tmp_path, "validation")


def test_one_file_chooses_its_set_and_the_other_splits_are_found_beside_it(tmp_path):
    lay(tmp_path, ["train.csv", "train_full.csv", "dev.csv", "dev_full.csv", "test.csv", "other_test.csv"])
    assert [read(tmp_path / "train_full.csv", split) for split in tasks.SPLITS] == [
        ["train_full.csv"],
        ["dev_full.csv"],
        ["test.csv"],
    ]
    assert read(tmp_path / "train.csv", "validation") == ["dev.csv"]
    reading = tasks.read("text", "validation", str(tmp_path / "train.csv"))
    assert reading.sentence().endswith("not of dev_full.csv beside")
    assert "holds the test split" in refused(tmp_path / "other_test.csv", "validation")


@pytest.mark.parametrize(
    ("pattern", "split", "files"),
    [
        ("train-*.parquet", "train", HUB),
        ("train-0000[01]-of-00003.parquet", "train", HUB[:2]),
        ("train-*.parquet", "test", ["test.csv"]),
        ("*.parquet", "train", HUB),
        ("train_*.csv", "train", ["train_a.csv", "train_b.csv"]),
        ("t*.csv", "test", ["test.csv"]),
    ],
)
def test_a_pattern_chooses_files_and_the_other_splits_are_found_beside_them(tmp_path, pattern, split, files):
    lay(tmp_path, [*HUB, "train_a.csv", "train_b.csv", "test.csv"])
    assert read(tmp_path / pattern, split) == files


def test_a_folders_own_brackets_are_not_a_pattern(tmp_path):
    lay(tmp_path, [f"[x]/{name}" for name in HUB])
    assert read(tmp_path / "[x]") == read(tmp_path / "[x]" / "train-*.parquet") == [f"[x]/{name}" for name in HUB]


def test_files_of_a_pattern_that_name_no_split_are_divided_as_one(tmp_path):
    lay(tmp_path, [f"part-{number}.csv" for number in range(20)])
    readings = [tasks.read("text", split, str(tmp_path / "part-*.csv")) for split in tasks.SPLITS]
    assert [len(reading.records) for reading in readings] == [32, 4, 4]
    assert len({record.source for reading in readings for record in reading.records}) == 40
    assert "40 records divided 80/10/10" in readings[0].sentence()


def test_a_pattern_of_a_splits_folder_is_that_split(tmp_path):
    lay(tmp_path, ["train/a.csv", "train/more/b.csv", "test/a.csv"])
    assert read(tmp_path / "train/**/*.csv") == ["train/a.csv", "train/more/b.csv"]
    assert read(tmp_path / "train/**/*.csv", "test") == ["test/a.csv"]


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("train-*.parquet", "train-00001-of-00003.parquet is missing"),
        ("*.jsonl", "matches no file"),
        ("*", "is not a table"),
        ("*.csv", "name none (notes.csv)"),
    ],
)
def test_a_pattern_that_is_not_clear_is_refused(tmp_path, pattern, said):
    lay(tmp_path, [HUB[0], HUB[2], "train.csv", "notes.csv", "train.txt"])
    assert said in refused(tmp_path / pattern)


def test_published_folders_are_read_by_their_tasks_rule_which_is_said(tmp_path):
    for name, text in (
        ("src1_test.txt", "name : X||X .\n"),
        ("testset.csv", "MR\n"),
        ("testset_w_refs.csv", "mr,ref\n"),
    ):
        (tmp_path / name).write_text(text)
    reading = tasks.read("e2e", "test", str(tmp_path))
    assert [path.name for path in reading.files] == ["src1_test.txt"]
    assert "src1_test.txt), not of testset.csv, testset_w_refs.csv beside" in reading.sentence()
    (tmp_path / "src1_test.txt").unlink()
    (tmp_path / "testset_w_refs.csv").write_text('mr,ref\nname[X],"It is X."\n')
    assert [path.name for path in tasks.read("e2e", "test", str(tmp_path)).files] == ["testset_w_refs.csv"]


def test_rows_of_one_source_in_two_parts_are_one_input(tmp_path):
    for part in range(2):
        (tmp_path / f"test-{part}.jsonl").write_text(json.dumps({"source": "a", "target": f"b{part}"}) + "\n")
    assert [record.references for record in tasks.inputs("text", "test", str(tmp_path))] == [("b0", "b1")]


@pytest.mark.parametrize(
    ("task", "files"),
    [
        ("e2e", ["src1_train.txt", "src1_valid.txt", "src1_test.txt"]),
        ("webnlg", ["train.json", "dev.json", "test.json"]),
        ("dart", ["dart-v1.1.1-train-rebuilt.json", "dart-v1.1.1-full-dev.json", "dart-v1.1.1-full-test.json"]),
    ],
)
def test_the_published_sets_are_found(real_data, task, files):
    from prefix_jax.data.layout import Search, in_folder

    found = tasks.TASKS[task].data
    for split, name in zip(tasks.SPLITS, files, strict=True):
        chosen = in_folder(real_data / found.folder, Search(split, found.suffixes, found.prefer))
        assert chosen is not None and [path.name for path in chosen.files] == [name]


def test_a_home_folder_in_the_variable_is_found(tmp_path, monkeypatch):
    (tmp_path / "e2e").mkdir()
    (tmp_path / "e2e" / "src1_train.txt").write_text("name : X||X .\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PREFIX_JAX_DATA", "~")
    assert len(tasks.pairs("e2e", "train")) == 1
