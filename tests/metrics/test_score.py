import io
import json
import subprocess
import sys

import pytest
from common import ROWS, needs_java

from prefix_jax import cli
from prefix_jax import score as command
from prefix_jax.tasks import score


def run(words):
    return cli.call(command.main, command.define_flags, words)


@pytest.fixture
def rows_file(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS), encoding="utf-8")
    return path


def test_json_is_one_object(rows_file, capsys):
    assert run(["--task", "xsum", "--file", str(rows_file), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == score("xsum", ROWS)


def test_table_is_aligned(rows_file, capsys):
    assert run(["--task", "e2e", "--file", str(rows_file), "--no-java"]) == 0
    scores = score("e2e", ROWS, java=False)
    expected = f"e2e, 4 rows\nBLEU  {scores['BLEU']:.2f}\nNIST  {scores['NIST']:.4f}".splitlines()
    printed = capsys.readouterr().out.splitlines()
    assert [line.split() for line in printed] == [line.split() for line in expected]
    assert len({len(line) for line in printed[1:]}) == 1


def test_standard_input_and_byte_order_mark(rows_file, capsys, monkeypatch):
    content = b"\xef\xbb\xbf" + rows_file.read_bytes() + b"\n \n"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    assert run(["--task", "text", "--file", "-", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == score("text", ROWS)


GOOD = b'{"hypothesis": "a", "references": ["b"]}\n'


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "holds no rows"),
        (b"\n\n", "holds no rows"),
        (GOOD + b"{'hypothesis': 1}\n", "Line 2 of FILE is not valid JSON"),
        (GOOD + b'{"hypothesis": "caf\xe9", "references": ["b"]}\n', "Line 2 of FILE is not UTF-8"),
        (b"[" * 100_000, "Line 1 of FILE is not valid JSON"),
        (b"[1]", "Line 1 of FILE is not an object"),
        (GOOD + b'\n{"references": ["b"]}', 'Line 3 of FILE has no "hypothesis"'),
        (b'{"hypothesis": "a"}', 'Line 1 of FILE has no "references"'),
        (b'{"hypothesis": null, "references": ["b"]}', '"hypothesis" must be a string, not null'),
        (b'{"hypothesis": "a", "references": "b"}', '"references" must be a list of strings, not a string'),
        (b'{"hypothesis": "a", "references": []}', '"references" holds no text'),
        (b'{"hypothesis": "a", "references": ["", " "]}', '"references" holds no text'),
        (b'{"hypothesis": "a", "references": ["b", null]}', '"references" must hold strings only, not null'),
        (b'{"hypothesis": "a", "references": ["b", 3]}', '"references" must hold strings only, not a number'),
        (b'{"hypothesis": "a", "references": ["b"], "category": 3}', '"category" must be a string, not a number'),
    ],
)
def test_bad_rows_are_one_sentence_and_exit_code_2(content, message, tmp_path, capsys):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content)
    assert run(["--task", "text", "--file", str(path), "--json"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert len(captured.err.splitlines()) == 1
    assert message in captured.err.replace(str(path), "FILE")


def test_bad_files_and_tasks(tmp_path, rows_file, capsys):
    assert run(["--task", "text", "--file", str(tmp_path / "none.jsonl")]) == 2
    assert "none.jsonl cannot be read: no such file or directory" in capsys.readouterr().err
    assert run(["--task", "text", "--file", str(tmp_path)]) == 2
    assert "is a directory" in capsys.readouterr().err
    assert run(["--task", "webnlg2017", "--file", str(rows_file)]) == 2
    assert 'did you mean "webnlg"?' in capsys.readouterr().err
    assert run(["--tusk", "text", "--file", str(rows_file)]) == 2


@needs_java
def test_the_command_prints_only_json(rows_file):
    command = [sys.executable, "-m", "prefix_jax.score", "--task", "e2e", "--file", str(rows_file), "--json"]
    result = subprocess.run(command, check=True, capture_output=True, text=True)
    assert list(json.loads(result.stdout)) == ["BLEU", "NIST", "METEOR", "ROUGE_L", "CIDEr"]
    assert result.stderr == ""


def test_starting_loads_nothing_heavy():
    loaded = "import sys, prefix_jax.score; print({'jax', 'numpy', 'sacrebleu', 'rouge_score'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", loaded], check=True, capture_output=True, text=True)
    assert result.stdout.strip() == "set()"
