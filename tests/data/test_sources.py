"""Typed sources become what a task's reader makes of the same text."""

import json

import pytest

from prefix_jax import tasks

ODD = ["  two before", "behind \t", "in\tside  it", "a line\nand another", "\u3000wide\u3000", "no-break\u00a0space "]


@pytest.mark.parametrize("text", ODD)
@pytest.mark.parametrize(
    ("task", "columns"),
    [("text", ("source", "target")), ("xsum", ("document", "summary")), ("cnn_dm", ("article", "highlights"))],
)
def test_a_typed_source_is_what_the_reader_makes_of_it(task, columns, text, tmp_path):
    path = tmp_path / "train.jsonl"
    path.write_text(json.dumps({columns[0]: text, columns[1]: "x"}) + "\n", encoding="utf-8")
    (record,) = tasks.pairs(task, "train", str(path))
    assert tasks.find(task).as_read(text) == record.source


@pytest.mark.parametrize("task", ["e2e", "webnlg", "dart"])
def test_a_source_that_a_reader_gave_stays_as_it_is(task, data_home):
    sources = {record.source for record in tasks.inputs(task, "test")}
    assert {tasks.find(task).as_read(source) for source in sources} == sources


def test_typed_sources_take_the_forms_of_e2e_and_webnlg():
    meaning = "name[The Eagle], eatType[pub], priceRange[£20-25]"
    assert tasks.find("e2e").as_read(f" {meaning} ") == "name : The Eagle | Type : pub | price : £ 20 - 25"
    assert tasks.find("e2e").as_read("name : A [b]") == "name : A [b]"
    assert tasks.find("webnlg").as_read("| Alan : born : 1923") == " | Alan : born : 1923"
