"""Checkpoints: what was saved comes back, or is refused; never something else."""

import json
import random
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prefix_jax.errors import UserError
from prefix_jax.training.checkpoint import Checkpoints
from prefix_jax.training.step import TrainState

OPTIONS = [{"prefix.length": 3, "training.seed": 1}]


def state(step: int, length: int = 3) -> TrainState:
    key = jax.random.fold_in(jax.random.key(0), step)
    trained = {"weights": jax.random.normal(key, (length, 8)), "scale": jnp.float32(step)}
    return TrainState(
        jnp.int32(step), trained, {"moments": trained, "count": jnp.int32(step)}, None, jax.random.key(step)
    )


def values(step: int) -> dict:
    patience = {"best": 0.1 * step, "step": step, "last_step": step, "since": 0}
    return {"patience": [patience], "seconds": 0.3 * step, "next_step": step}


def bits(restored) -> list:
    saved, best, progress = restored
    leaves = jax.tree.leaves((jax.random.key_data(saved.key), saved.replace(key=None), best))
    progress = {name: progress[name] for name in ("patience", "seconds", "next_step")}
    return [*(np.asarray(leaf).tobytes() for leaf in leaves), json.dumps(progress, sort_keys=True)]


def restore(folder: Path, options=OPTIONS, length: int = 3):
    with Checkpoints(folder, options) as checkpoints:
        return checkpoints.restore(state(0, length), state(0, length).trainable)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder with the checkpoints 2 and 4, and what each holds."""
    folder = tmp_path_factory.mktemp("run") / "checkpoints"
    with Checkpoints(folder, OPTIONS) as checkpoints:
        for step in (2, 4):
            checkpoints.save(state(step), state(step + 1).trainable, values(step))
    return folder, {step: bits((state(step), state(step + 1).trainable, values(step))) for step in (2, 4)}


@pytest.fixture
def copy(saved, tmp_path):
    return Path(shutil.copytree(saved[0], tmp_path / "checkpoints"))


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_what_was_saved_comes_back(saved, copy):
    assert bits(restore(copy)) == saved[1][4]


def test_no_flipped_bit_gives_another_state(saved, copy):
    chance, told = random.Random(0), 0
    for _ in range(300):
        shutil.rmtree(copy)
        shutil.copytree(saved[0], copy)
        path = chance.choice(files(copy / "4"))
        data = bytearray(path.read_bytes())
        place = chance.randrange(len(data) * 8)
        data[place // 8] ^= 1 << place % 8
        path.write_bytes(data)
        found = bits(restore(copy))
        fell_back = found == saved[1][2]
        assert fell_back or found == saved[1][4], f"bit {place} of {path}"
        assert fell_back == (copy / "damaged-4").exists(), f"bit {place} of {path}"
        told += fell_back
    assert told > 50  # many bits matter


def cut(step: Path) -> None:
    largest = max(files(step / "state"), key=lambda path: path.stat().st_size)
    largest.write_bytes(largest.read_bytes()[:100])


def replaced_by(make):
    def damage(step: Path) -> None:
        shutil.rmtree(step)
        make(step)

    return damage


DAMAGES = {
    "the largest file cut": cut,
    "the manifest gone": lambda step: (step / "state/manifest.ocdbt").unlink(),
    "the metadata gone": lambda step: (step / "_CHECKPOINT_METADATA").unlink(),
    "the values empty": lambda step: (step / "progress/metadata").write_bytes(b""),
    "the values of another kind": lambda step: (step / "progress/metadata").write_text("[]"),
    "the values gone": lambda step: shutil.rmtree(step / "progress"),
    "the arrays gone": lambda step: shutil.rmtree(step / "state"),
    "a file": replaced_by(lambda step: step.write_text("")),
    "a link to nothing": replaced_by(lambda step: step.symlink_to("nowhere")),
    "the step before it": replaced_by(lambda step: shutil.copytree(step.with_name("2"), step)),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_newest_checkpoint_is_set_aside_and_the_one_before_it_used(damage, saved, copy, capsys):
    damage(copy / "4")
    assert bits(restore(copy)) == saved[1][2]
    said = capsys.readouterr().err
    assert f"the checkpoint {copy / '4'} is damaged (" in said and said.count("\n") == 1
    assert {path.name for path in copy.iterdir()} == {"2", "damaged-4"}
    with Checkpoints(copy, OPTIONS) as checkpoints:  # it is in nobody's way
        restored = checkpoints.restore(state(0), state(0).trainable)
        assert restored is not None and bits(restored) == saved[1][2]
        checkpoints.save(state(4), state(5).trainable, values(4))
    assert bits(restore(copy)) == saved[1][4]


def test_an_empty_step_and_unfinished_saves_are_removed_and_folders_of_others_stay(saved, copy):
    for name in ("8", "6.orbax-checkpoint-tmp", "backup"):
        (copy / name).mkdir()
    assert bits(restore(copy)) == saved[1][4]
    assert {path.name for path in copy.iterdir()} == {"2", "4", "backup"}


def test_where_no_checkpoint_is_whole_nothing_is_renamed_and_a_sentence_names_them(copy):
    cut(copy / "2")
    cut(copy / "4")
    with pytest.raises(UserError, match=rf"no checkpoint can be read: {copy}/4 \(.*, {copy}/2 \(.* delete {copy} "):
        restore(copy)
    assert {path.name for path in copy.iterdir()} == {"2", "4"}


def test_checkpoints_of_earlier_versions_have_no_checksum_and_are_read(saved, copy):
    path = copy / "4" / "progress" / "metadata"
    old = {name: value for name, value in json.loads(path.read_text()).items() if name not in ("options", "checksum")}
    path.write_text(json.dumps(old))
    assert bits(restore(copy)) == saved[1][4]


def test_a_checkpoint_of_another_run_is_refused_with_the_option_that_differs(copy):
    with pytest.raises(UserError, match=r"4 is the checkpoint of another run \(training.seed was 1 and is 2\)"):
        restore(copy, [{**OPTIONS[0], "training.seed": 2}])
    assert (copy / "4").is_dir()


def test_arrays_of_other_shapes_are_refused(copy):
    for step in ("2", "4"):
        path = copy / step / "progress" / "metadata"
        old = json.loads(path.read_text())
        path.write_text(json.dumps({name: old[name] for name in ("patience", "seconds", "next_step")}))
    with pytest.raises(UserError, match="no checkpoint can be read"):
        restore(copy, length=5)


@pytest.mark.parametrize("name", ["lr=[0.1]", "a*b", "what?", "{x}", "a b", "'\"", "#%", "é中", "run~", "**", "s_3"])
def test_folders_of_any_name_keep_checkpoints(name, tmp_path):
    folder = tmp_path / name / "checkpoints"
    with Checkpoints(folder, OPTIONS) as checkpoints:
        checkpoints.save(state(2), state(3).trainable, values(2))
    assert bits(restore(folder)) == bits((state(2), state(3).trainable, values(2)))


def test_a_save_in_flight_is_finished_when_the_run_ends_in_an_error(tmp_path):
    for error in (UserError, KeyboardInterrupt, SystemExit, MemoryError, OSError):
        folder = tmp_path / error.__name__
        with pytest.raises(error), Checkpoints(folder, OPTIONS) as checkpoints:
            checkpoints.save(state(2), state(3).trainable, values(2))
            raise error
        assert bits(restore(folder)) == bits((state(2), state(3).trainable, values(2)))
        assert [path.name for path in folder.iterdir()] == ["2"]
