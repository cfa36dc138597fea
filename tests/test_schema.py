"""Schemas of JSON files: a value is taken as it is, or a sentence has the path of the field."""

import json
from typing import NotRequired, TypedDict

import pytest

from prefix_jax import disk
from prefix_jax.errors import UserError
from prefix_jax.schema import Size, checked, matching, problem


class Row(TypedDict):
    name: str
    step: NotRequired[Size]
    scores: NotRequired[dict[str, float | None]]
    folder: NotRequired[matching("^runs/")]


class Table(TypedDict):
    rows: list[Row]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({}, "rows[0] has no name"),
        ({"name": 1}, "rows[0].name must be str, not int"),
        ({"name": "a", "step": True}, "rows[0].step must be int, not bool"),
        ({"name": "a", "step": -2}, "rows[0].step must be int >= 0"),
        ({"name": "a", "scores": {"x": "1"}}, "rows[0].scores[...] must be float | null, not str"),
        ({"name": "a", "folder": "../x"}, "rows[0].folder must be str matching regex '^runs/'"),
    ],
)
def test_what_is_of_another_type_is_named_by_its_path(row, said):
    assert problem({"rows": [row]}, Table) == said
    with pytest.raises(UserError, match="x.json is damaged: .*; write it again"):
        checked({"rows": [row]}, Table, "x.json", "write it again")


def test_what_is_of_the_schema_stays_as_it_is():
    value = {"rows": [{"name": "\ud800", "scores": {"x": 1, "y": None, "z": float("nan")}, "more": [1]}], "later": {}}
    assert checked(value, Table, "x.json", "") is value
    assert problem([], Table) == "it must be object, not array"


@pytest.mark.parametrize("content", ["[" * 100_000, b'{"a":' * 3000, "9" * 25, "9" * 6000, b"\xff", "{", f"{2**64}"])
def test_json_that_no_program_here_writes_is_a_value_error(content):
    with pytest.raises(ValueError):
        disk.from_json(content)
    assert disk.from_json(json.dumps({"a": 2**64 - 1, "b": -1.5})) == {"a": 2**64 - 1, "b": -1.5}


def test_a_message_is_one_line_of_bounded_length():
    said = str(UserError(f"the option is \x1b[31m\n{'x' * 100_000}\u202e; shorten it"))
    assert said.isprintable() and len(said) < 2000 and said.endswith("; shorten it")
    assert said.startswith("the option is \\x1b[31m\\nxxx")
