import math
import subprocess
import sys

import pytest
from common import ROWS, e2e_rows

from prefix_jax.metrics import bleu


def _sacrebleu(directory, rows, *options):
    """Returns the figure that sacrebleu's own command line prints; every row has the same number of references."""
    hypotheses, references = bleu.streams(rows, None)
    for name, lines in [("hypothesis", hypotheses), *((f"reference{i}", lines) for i, lines in enumerate(references))]:
        (directory / name).write_text("\n".join(lines) + "\n")
    names = [f"reference{i}" for i in range(len(references))]
    command = [sys.executable, "-m", "sacrebleu", *names, "-i", "hypothesis", "-b", "-w", "10", *options]
    return float(subprocess.run(command, cwd=directory, check=True, capture_output=True, text=True).stdout)


@pytest.fixture
def two_each():
    return [{"hypothesis": row["hypothesis"], "references": (row["references"] * 2)[:2]} for row in ROWS[:3]]


def _ter(rows):
    return bleu.ter_of(bleu.ter_edits(rows)[0])


def test_command_line_of_sacrebleu_prints_the_same(two_each, tmp_path):
    options = {"tokenize": "13a", "lowercase": False, "smooth": "exp", "pad": None}
    assert bleu.bleu(two_each, **options) == pytest.approx(_sacrebleu(tmp_path, two_each), abs=1e-9)
    assert bleu.chrf(two_each)[0] == pytest.approx(_sacrebleu(tmp_path, two_each, "-m", "chrf"), abs=1e-9)
    assert _ter(two_each) == pytest.approx(_sacrebleu(tmp_path, two_each, "-m", "ter"), abs=1e-9)
    assert bleu.bleu_e2e(two_each) == pytest.approx(_sacrebleu(tmp_path, two_each, "-lc", "--force"), abs=1e-9)


def test_e2e_counts_short_outputs_as_its_scorer_does():
    # 4-grams: 5 - 3 of the first row and 2 - 3 of the second are 1, of which 2 match; all other precisions are 1.
    rows = [{"hypothesis": "a b c d e", "references": ["a b c d e"]}, {"hypothesis": "a b", "references": ["a b"]}]
    assert bleu.bleu_e2e(rows) == pytest.approx(100 * 2**0.25, abs=1e-9)


def test_e2e_empty_output_is_one_token():
    # 5 + 1 tokens of which 5 match, references of 5 + 1: no brevity penalty. n-grams in all: 6, 4, 2, 0 (1e-9).
    rows = [{"hypothesis": "a b c d e", "references": ["a b c d e"]}, {"hypothesis": "", "references": ["f"]}]
    expected = (5 / 6 * 4 / 4 * 3 / 2 * 2 / 1e-9) ** 0.25
    assert bleu.bleu_e2e(rows) == pytest.approx(100 * expected, rel=1e-9)


def test_missing_reference_none_or_empty_line():
    # The second row's output has 4 tokens, its reference 10: an empty line is nearer (4 against 6), nothing is not.
    rows = [
        {"hypothesis": "a b c d e", "references": ["a b c d e", "a b c d e"]},
        {"hypothesis": "f g h i", "references": ["f g h i j k l m n o"]},
    ]
    options = {"tokenize": "none", "lowercase": False, "smooth": "none"}
    assert bleu.bleu(rows, pad="", **options) == pytest.approx(100)
    assert bleu.bleu(rows, pad=None, **options) == pytest.approx(100 * math.exp(1 - 15 / 9))


def test_unequal_counts_ignore_what_is_missing():
    # chrF and TER of unequal counts are those of the row's references, repeated to equal counts.
    rows = [{"hypothesis": row["hypothesis"] or "none", "references": row["references"]} for row in ROWS]
    repeated = [{**row, "references": (row["references"] * 6)[:6]} for row in rows]
    assert bleu.chrf(rows)[0] == pytest.approx(bleu.chrf(repeated)[0])
    assert _ter(rows) == pytest.approx(_ter(repeated))


def test_bleu_of_e2e_is_sacrebleu_on_real_rows():
    from sacrebleu import corpus_bleu

    rows = e2e_rows("devset.csv")[:100]
    assert min(len(row["references"]) for row in rows) < max(len(row["references"]) for row in rows)
    hypotheses, references = bleu.streams(rows, None)
    expected = corpus_bleu(hypotheses, references, lowercase=True, force=True).score
    assert bleu.bleu_e2e(rows) == pytest.approx(expected, abs=1e-9)
