"""Tables for the terminal and Markdown."""

import pytest

from prefix_jax.reporting.tables import (
    is_better,
    markdown_table,
    samples_side_by_side,
    score_table,
    signed,
    text_table,
    text_width,
)

TUNED, BARE = {"BLEU": 64.312, "NIST": 8.37, "TER": 0.4}, {"BLEU": 1.2, "NIST": 10.0, "TER": 0.9}


def test_scores_are_aligned():
    assert score_table(TUNED, BARE, "E2E, 630 test records").splitlines() == [
        "E2E, 630 test records",
        "metric  bare model  with prefix  difference",
        "──────  ──────────  ───────────  ──────────",
        "BLEU          1.20        64.31      +63.11",
        "NIST         10.00         8.37       -1.63",
        "TER           0.90         0.40       -0.50",
    ]


def test_scores_as_markdown():
    assert score_table(TUNED, BARE, markdown=True).splitlines()[:3] == [
        "| metric | bare model | with prefix | difference |",
        "| --- | ---: | ---: | ---: |",
        "| BLEU | 1.20 | 64.31 | +63.11 |",
    ]


def test_scores_without_the_bare_model_and_with_gaps():
    assert score_table({"BLEU": 1.0}).splitlines()[-1] == "BLEU     1.00"
    assert [line.split() for line in score_table({"a": 1.0}, {"b": 2}).splitlines()[2:]] == [
        ["a", "-", "1.00", "-"],
        ["b", "2.00", "-", "-"],
    ]


def test_cells_cannot_break_a_table():
    table = text_table([["a\nb\x1b[31m", 12345], [None, 7]], ["name", "count"])
    assert table.splitlines()[2:] == ["a b\ufffd[31m  12,345", "-" + 14 * " " + "7"]
    assert markdown_table([["a|b\nc"]], ["x"]).splitlines()[-1] == "| a\\|b c |"
    assert text_table([], ["a", "b"]).splitlines() == ["a  b", "─  ─"]


def test_wide_characters_count_two_columns():
    assert [text_width(text) for text in ("abc", "東京", "e\u0301")] == [3, 4, 1]
    rows = text_table([["東京", 1], ["Rome", 2]], ["city", "n"]).splitlines()[2:]
    assert [text_width(row) for row in rows] == [7, 7]


@pytest.mark.parametrize(
    "metric, difference, better",
    [("BLEU", 1.0, True), ("BLEU", -1.0, False), ("BLEU", 0.001, None), ("TER", -0.1, True), ("TER_seen", 0.1, False),
     ("loss", -1.0, True), ("METEOR", 0.1, True), ("BLEU", float("nan"), None)],
)  # fmt: skip
def test_the_direction_of_a_metric(metric, difference, better):
    assert is_better(metric, difference) is better


def test_signed_has_no_negative_zero():
    assert [signed(x) for x in (-0.001, 0.0, 0.005001, -1.234)] == ["0.00", "0.00", "+0.01", "-1.23"]


SAMPLE = {
    "source": "name : The Eagle | food : Japanese",
    "references": ["The Eagle serves Japanese food .", "second"],
    "tuned": "The Eagle is a place that serves Japanese food . " * 3,
    "bare": "The Eagle",
}


@pytest.mark.parametrize("width", [40, 80, 120])
def test_samples_stand_side_by_side_and_fit(width):
    lines = samples_side_by_side([SAMPLE, SAMPLE], width).splitlines()
    assert all(text_width(line) <= width for line in lines)
    assert lines[0].startswith("input      name : The Eagle") and any(line.startswith("reference  ") for line in lines)
    (head, *_) = [line for line in lines if line.startswith("bare model")]
    bar = head.index("│")
    both = [line for line in lines[: lines.index("")] if len(line) > bar and line[bar] == "│"]
    assert head.endswith("│ with prefix") and len(both) >= 3
    assert " ".join(line[bar + 2 :] for line in both[2:]).split() == SAMPLE["tuned"].split()


def test_samples_without_a_bare_text_or_anything():
    assert samples_side_by_side([{"source": "a", "tuned": "", "bare": None}], 60).splitlines() == [
        "input      a",
        "prefix     (empty)",
    ]
    assert samples_side_by_side([]) == ""


def test_samples_cannot_control_the_terminal():
    shown = samples_side_by_side([{**SAMPLE, "tuned": "\x1b]0;owned\x07\u202e", "bare": "東京" * 60}], 60)
    assert not set("\x1b\x07\u202e") & set(shown)
    assert all(text_width(line) <= 60 for line in shown.splitlines())
