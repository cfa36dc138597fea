"""Lines end at line ends alone: what the product writes as JSON lines it reads back."""

import json

import pytest

from prefix_jax import disk, inference
from prefix_jax.errors import first_line
from prefix_jax.training.writers import MetricWriter

SEPARATORS = ("\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\x1d", "\x1e", "\r", "\n", "\r\n")


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_lines_end_at_line_ends_alone(end):
    texts = [f"one{mark}two" for mark in SEPARATORS if mark not in ("\n", "\r", "\r\n")]
    assert disk.lines(end.join(texts)) == disk.lines(end.join(texts) + end) == texts
    assert disk.lines("") == [] and disk.lines(f"a{end}{end}b") == ["a", "", "b"]


def test_a_carriage_return_within_a_line_is_text():
    assert disk.lines("one\rtwo\nthree\r\n") == ["one\rtwo", "three"]


@pytest.mark.parametrize("mark", SEPARATORS)
def test_samples_are_read_back(tmp_path, mark):
    rows = [{"split": "test", "source": f"a{mark}b", "tuned": mark}, {"split": "test", "source": "c", "tuned": "d"}]
    disk.write_text(tmp_path / "samples.jsonl", "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows))
    assert inference.read_samples(tmp_path) == rows


def test_metrics_are_read_back(tmp_path):
    with MetricWriter(tmp_path, tensorboard=False) as writer:
        writer.write(1, {"a\u2028b": 1.0})
        writer.write(2, {"loss": 2.0})
    rows = disk.read_json_lines(tmp_path / "metrics.jsonl")
    assert rows == [{"step": 1, "a\u2028b": 1.0}, {"step": 2, "loss": 2.0}]


def test_collected_samples_are_whole_lines(tmp_path):
    from experiments.collect import keep

    run = tmp_path / "run"
    rows = [json.dumps({"source": f"a\u2028{number}"}, ensure_ascii=False) for number in range(3)]
    for name in ("config.json", "metrics.jsonl", "scores.json"):
        disk.write_text(run / name, "{}\n")
    disk.write_text(run / "samples.jsonl", "".join(row + "\n" for row in rows))
    keep(run, tmp_path / "out", samples=2)
    assert [row["source"] for row in disk.read_json_lines(tmp_path / "out/run/samples.jsonl")] == [
        "a\u20280",
        "a\u20281",
    ]


def test_the_first_line_of_an_error_that_says_nothing_is_its_name():
    assert first_line(ValueError("one\u2028still one\ntwo")) == "one\u2028still one"
    assert first_line(ValueError("")) == first_line(ValueError("\n")) == "ValueError"
