"""The embedded set: reproducible, and its test really new."""

from pathlib import Path

from prefix_jax import tasks
from prefix_jax.data import grammar
from prefix_jax.data.words import POOLS


def facts(record):
    return dict(part.split(" : ") for part in record.source.split(" | "))


def test_files_are_what_the_grammar_writes(tmp_path):
    grammar.write(tmp_path)
    committed = Path(grammar.__file__).parent / "lighthouse"
    sizes = 0
    for split in tasks.SPLITS:
        written = (tmp_path / f"{split}.jsonl").read_bytes()
        assert written == (committed / f"{split}.jsonl").read_bytes(), (
            f"run python -m prefix_jax.data.grammar ({split})"
        )
        sizes += len(written)
    assert sizes < 2_500_000


def test_sizes_and_references():
    assert len(tasks.pairs("lighthouse", "train")) >= 3000
    assert len(tasks.inputs("lighthouse", "validation")) == 200
    test = tasks.inputs("lighthouse", "test")
    assert len(test) == 200
    assert all(len(set(record.references)) >= 3 for record in test)


def test_test_records_hold_values_and_combinations_unseen_in_training():
    train = [facts(record) for record in tasks.inputs("lighthouse", "train")]
    seen = {item for record in train for item in record.items()}
    combinations = {tuple(record) for record in train}
    test = [facts(record) for record in tasks.inputs("lighthouse", "test")]
    for attribute in POOLS:
        assert any((attribute, record[attribute]) not in seen for record in test if attribute in record), attribute
    assert all(("name", record["name"]) not in seen for record in test)
    assert sum(tuple(record) not in combinations for record in test) >= 90
    assert not {tuple(r.items()) for r in test} & {tuple(r.items()) for r in train}
    assert 5 <= len(POOLS) <= 8


def test_every_fact_is_said_in_every_reference():
    for split in tasks.SPLITS:
        for record in tasks.inputs("lighthouse", split):
            for key, value in facts(record).items():
                wanted = ("closed to visitors", "not allowed", "never opens") if value == "never" else (value,)
                for text in record.references:
                    assert sum(text.count(w) for w in wanted) >= 1, (key, value, text)


def test_texts_are_varied():
    texts = [record.target for record in tasks.pairs("lighthouse", "train")]
    assert len(set(texts)) > 0.99 * len(texts)
    shapes = set()
    for record in tasks.pairs("lighthouse", "train"):
        text = record.target
        for key, value in facts(record).items():
            text = text.replace(value, f"<{key}>")
        shapes.add(text)
    assert len(shapes) > 2000
