"""From `sweep()` to rows, and from rows to programs."""

import pytest

from prefix_jax.config import default_config
from prefix_jax.errors import UserError
from prefix_jax.sweeping.groups import groups
from prefix_jax.sweeping.rows import make_rows, read_rows


def names(found):
    return [[row.name for row in group] for group in found]


def test_rows_are_named_by_their_options_alone():
    rows = make_rows(
        [{"prefix.length": 5, "training.seed": 1}, {"training.seed": 2}, {"data.seed": 3}], default_config()
    )
    assert [row.name for row in rows] == ["length=5,training.seed=1", "training.seed=2", "data.seed=3"]
    assert rows[0].config.prefix.length == 5 and rows[1].config.prefix.length == 10


def test_a_text_makes_a_name_that_a_folder_can_have():
    (row,) = make_rows([{"prefix.text": "summarise: a/b \n c"}], default_config())
    assert row.name == "text=summarise-a-b-c"


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([], "yields no rows"),
        ([{"prefix.lenght": 5}], 'row 1 .* "prefix.lenght"; did you mean "prefix.length"'),
        ([{"prefix.length": "five"}], "sets prefix.length to 'five'; it must be of type int"),
        ([{"prefix.length": 5}, {"prefix.length": 5}], "the row length=5.* twice"),
        ([{"prefix": {"length": 5}}], 'an option "prefix"'),
        ([5], "row 1 .* not a dictionary of options"),
    ],
)
def test_bad_rows_are_named(rows, said):
    with pytest.raises(UserError, match=said):
        make_rows(rows, default_config())


def test_a_recipe_without_a_sweep_is_named(tmp_path):
    recipe = tmp_path / "recipe.py"
    recipe.write_text("def get_config(): pass\n")
    with pytest.raises(UserError, match=r"recipe.py has no sweep\(\)"):
        read_rows(str(recipe), default_config())


def test_a_recipe_reads_the_argument_after_its_name(tmp_path):
    recipe = tmp_path / "recipe.py"
    recipe.write_text("def sweep(name):\n    yield {'model.source': name}\n")
    assert read_rows(f"{recipe}:gpt2", default_config())[0].config.model.source == "gpt2"


def test_rows_that_differ_in_traced_numbers_share_a_program():
    rows = make_rows(
        [{"prefix.length": p, "optimizer.learning_rate": r} for p in (1, 10, 200) for r in (1e-3, 2e-3)],
        default_config(),
    )
    assert names(groups(rows, 8)) == [
        [f"length={p},learning_rate={r}" for p in (1, 10) for r in (0.001, 0.002)],
        ["length=200,learning_rate=0.001", "length=200,learning_rate=0.002"],
    ]


def test_rows_of_other_programs_stand_apart():
    rows = make_rows(
        [
            {"prefix.hidden": 64},
            {"training.seed": 1},
            {"prefix.sites": "decoder"},
            {"data.limit": 9},
            {"decoding.beams": 2},
        ],
        default_config(),
    )
    assert names(groups(rows, 8)) == [["hidden=64"], ["seed=1", "beams=2"], ["sites=decoder"], ["limit=9"]]


def test_a_program_has_no_more_members_than_asked():
    rows = make_rows([{"training.seed": s} for s in range(5)], default_config())
    assert [len(group) for group in groups(rows, 2)] == [2, 2, 1]
