"""Each command says which files it reads and how many records they have."""

import json

import pytest

from tests import runs, tiny

FILES = {
    "train": [f"train-0000{part}-of-00003.jsonl" for part in range(3)],
    "validation": ["validation.jsonl"],
    "test": ["test_0.jsonl", "test_1.jsonl"],
}


@pytest.fixture(scope="module")
def setting(tiny_models, tmp_path_factory):
    folder = tmp_path_factory.mktemp("what_is_read")
    data = folder / "data"
    data.mkdir()
    rows = iter(tiny.rows(36))
    for name in (name for files in FILES.values() for name in files):
        (data / name).write_text("".join(json.dumps(next(rows)) + "\n" for _ in range(6)))
    recipe = folder / "recipe.py"
    sweep = "\n\ndef sweep():\n    yield {'prefix.length': 3}\n"
    recipe.write_text(runs.RECIPE.format(source=str(tiny_models["gpt2"]), data=str(data), steps=1) + sweep)
    return recipe, folder / "cache", folder


def lines_of(err: str, folder) -> dict[str, str]:
    """Returns what is said of each split; asserts that it is said once, with every file and the count of records."""
    found = [line for line in err.splitlines() if line.partition(":")[0] in FILES and " records " in line]
    said = dict(line.split(": ", 1) for line in found)
    assert len(said) == len(found), err
    for split, line in said.items():
        names, count = FILES[split], len(FILES[split])
        files = f"1 file ({folder / 'data' / names[0]})" if count == 1 else f"{count} files in {folder / 'data'} "
        assert line.startswith(f"{6 * count} records of {files}"), line
        assert all(name in line for name in names)
    return said


@pytest.mark.slow
def test_each_command_names_every_file_once(setting):
    recipe, cache, folder = setting
    run = str(folder / "run")
    _, err = runs.run("demo", "--recipe", str(recipe), "--workdir", run, cache=cache)
    assert set(lines_of(err, folder)) == {"train", "validation", "test"}
    _, err = runs.run("evaluate", "--workdir", run, "--split", "test", cache=cache)
    assert set(lines_of(err, folder)) == {"test"}
    _, err = runs.run("inspect", "--workdir", run, "--limit", "2", cache=cache)
    assert set(lines_of(err, folder)) == {"validation"}
    _, err = runs.run("sweep", "--config", str(recipe), "--workdir", str(folder / "sweep"), cache=cache)
    assert set(lines_of(err, folder)) == {"train", "validation", "test"}


@pytest.mark.slow
def test_a_pattern_on_the_command_line_chooses_the_files(setting):
    recipe, cache, folder = setting
    path = f"--config.data.path={folder}/data/train-0000[01]-of-00003.jsonl"
    _, err = runs.run("train", "--config", str(recipe), "--workdir", str(folder / "part"), path, cache=cache)
    assert "train: 12 records of 2 files in" in err and "validation: 6 records of 1 file" in err
    assert "00002-of" not in err
