"""Which records of a split are used."""

import pytest

from prefix_jax.config import default_config
from prefix_jax.data.records import pair
from prefix_jax.data.subsets import evenly_spaced, of_categories, random_subset
from prefix_jax.errors import UserError
from prefix_jax.training.selection import text_inputs, text_pairs
from tests import tiny

RECORDS = [pair(f"s{i}", f"t{i}", ("world", "sport", "uk")[i % 3], f"train-{i}", 0) for i in range(30)]


def sources(records):
    return [record.source for record in records]


@pytest.mark.parametrize(
    ("wanted", "kept"),
    [
        ("", {"world", "sport", "uk"}),
        ("world, uk", {"world", "uk"}),
        ("-sport", {"world", "uk"}),
        ("-sport,uk", {"world"}),
    ],
)
def test_categories_are_kept_or_left_out(wanted, kept):
    found = of_categories(RECORDS, wanted)
    assert {record.category for record in found} == kept
    assert sources(found) == [record.source for record in RECORDS if record.category in kept]


def test_a_category_that_no_record_has_is_named():
    with pytest.raises(UserError, match='data.categories has "sprot", .* did you mean "sport"'):
        of_categories(RECORDS, "sprot")
    with pytest.raises(UserError, match="these records have no category"):
        of_categories([pair("s", "t", None, "train-0", 0)], "sport")


def test_a_draw_is_the_seeds_and_holds_the_smaller_ones():
    small, large = sources(random_subset(RECORDS, 5, seed=1)), sources(random_subset(RECORDS, 12, seed=1))
    assert len(small) == 5 and len(large) == 12 and set(small) < set(large)
    assert small != sources(random_subset(RECORDS, 5, seed=2))
    assert large == [source for source in sources(RECORDS) if source in large]
    assert sources(random_subset(RECORDS, 99, seed=1)) == sources(RECORDS)


def test_records_are_spread_evenly():
    assert sources(evenly_spaced(RECORDS, 3)) == ["s0", "s10", "s20"]
    assert evenly_spaced(RECORDS, 99) == RECORDS


def test_only_the_training_split_is_drawn_from(tmp_path):
    config = default_config()
    config.data.update(task="text", path=str(tiny.save_rows(tmp_path / "rows.jsonl", 40)), limit=6)
    first = sources(text_pairs(config, "train"))
    whole = len(text_pairs(config, "validation"))
    config.data.limit_seed = 3
    assert len(first) == 6 and sources(text_pairs(config, "train")) != first
    assert len(text_pairs(config, "validation")) == whole == len(text_inputs(config, "test")) == 4
