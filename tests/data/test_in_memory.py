"""Records that a caller in Python holds are those of a file with the same rows."""

import json

import pytest

from prefix_jax import tasks
from prefix_jax.data.data_set import Columns
from prefix_jax.data.in_memory import InMemory, records_of

ROWS = [("a : b", "first"), ("c : d", "second"), ("a : b", "third")]
LONG = [{"article": source, "summary": target} for source, target in ROWS]


def forms():
    import datasets
    import pandas

    columns = {"article": [row["article"] for row in LONG], "summary": [row["summary"] for row in LONG]}
    return {
        "pairs": ROWS, "lists": [list(row) for row in ROWS], "a generator": (row for row in ROWS), "rows": LONG,
        "columns": columns, "a frame": pandas.DataFrame(LONG), "a data set": datasets.Dataset.from_dict(columns),
        "several targets": [("a : b", ["first", "third"]), ("c : d", "second")],
    }  # fmt: skip


@pytest.mark.parametrize("name", ["pairs", "lists", "a generator", "rows", "columns", "a frame", "a data set"])
def test_every_form_gives_the_records_of_a_file(name, tmp_path):
    file = tmp_path / "train.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in LONG))
    columns = Columns("article", "summary")
    assert records_of(forms()[name], "train", columns) == tasks.pairs("text", "train", str(file), columns)


def test_several_targets_are_references_of_one_input():
    found = records_of(forms()["several targets"], "test")
    assert [(one.id, one.target) for one in found] == [
        ("test-0#0", "first"),
        ("test-0#1", "third"),
        ("test-1#0", "second"),
    ]


def test_the_checksum_is_of_the_texts():
    sums = [InMemory({"train": records_of(rows, "train")}).record()["records"]["train"]["sha256"]
            for rows in (ROWS, [list(row) for row in ROWS], [*ROWS[:2], ("a : b", "fourth")])]  # fmt: skip
    assert sums[0] == sums[1] != sums[2]
