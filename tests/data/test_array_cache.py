"""What is kept in files: made once, made again where it is damaged, never in the way."""

import numpy as np
import pytest

from prefix_jax.data import array_cache

MADE = {"a": np.arange(1000), "b": np.zeros((0, 2), np.float32)}


def same(found):
    return found.keys() == MADE.keys() and all(
        np.array_equal(found[name], MADE[name]) and found[name].dtype == MADE[name].dtype for name in MADE
    )


def test_made_once_and_again_where_the_file_is_damaged(tmp_path):
    assert same(array_cache.kept(tmp_path / "new", [b"x"], lambda: MADE))
    assert same(array_cache.kept(tmp_path / "new", [b"x"], lambda: pytest.fail("made a second time")))
    (file,) = (tmp_path / "new").iterdir()
    whole = file.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", whole[:300] + b"\0\1\2\3" + whole[304:], b"nonsense"):
        file.write_bytes(damaged)
        assert same(array_cache.kept(tmp_path / "new", [b"x"], lambda: MADE))
        assert file.read_bytes() == whole


def test_parts_are_told_apart_with_their_bounds(tmp_path):
    for parts in ([b"ab", b"c"], [b"a", b"bc"], [b"abc"], [b"ab", b"c", b""]):
        array_cache.kept(tmp_path, parts, lambda: MADE)
    assert len(list(tmp_path.iterdir())) == 4


def test_a_folder_that_cannot_be_written_does_not_stop_the_run(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("{}")
    assert same(array_cache.kept(blocked, [b"x"], lambda: MADE))
