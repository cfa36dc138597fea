"""Documents with known facts: the text holds them, and README.md holds what the results say."""

import dataclasses

import jax
import numpy as np
import pytest

from experiments.documents import __main__ as main
from experiments.documents import facts, report
from prefix_jax.distillation import document
from tests.parity.cases import CASES


def test_a_document_says_each_fact_once_and_is_the_same_for_a_seed():
    made = facts.document(1)
    assert made == facts.document(1) != facts.document(2)
    parts = made.text.split("\n\n")
    assert len(parts) == 24 and len(made.facts) == 96
    for place, fact in enumerate(made.facts):
        said = "closed|not allowed|never" if fact.answer == "never" else fact.answer
        assert any(words in parts[place // 4] for words in said.split("|")), fact
        assert fact.question not in fact.training


def test_closed_slots_behind_a_prefix_change_nothing():
    """By which prefixes of all lengths share a program."""
    pair = CASES["llama"].pair()
    read = document.read(pair.model, pair.variables, np.arange(3, 20, dtype=np.int32))
    short = document.first(read, 5)
    padded = main._padded(short, 9)
    assert padded.decoder.key.shape[2] == 9 and int(padded.position_offset) == 5
    tokens = np.arange(30, 36)[None]
    expected = pair.model.apply(pair.variables, tokens, prefix=short)
    np.testing.assert_allclose(pair.model.apply(pair.variables, tokens, prefix=padded), expected, atol=1e-5)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(dataclasses.replace(padded.decoder, bias=None)))


def test_the_readme_holds_what_the_results_say():
    lines = report.read()
    if not lines:
        pytest.skip("no results are stored")
    readme = (report.FOLDER / "README.md").read_text(encoding="utf-8")
    for seed in {line["seed"] for line in lines}:
        own = [line for line in lines if line["seed"] == seed]
        assert report.markdown_table(report.rows(own), report.COLUMNS) in readme
        assert all(line["commit"] and not line["commit"].endswith("+") for line in own)
    teacher = next(line for line in lines if line["method"] == report.TEACHER)
    assert teacher["kl"] == 0 and report.of(teacher).recovery(report.of(lines[1]), report.of(teacher)) == 1
