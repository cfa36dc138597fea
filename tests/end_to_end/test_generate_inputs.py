"""What `generate` reads: lines, a text of several lines, rows in the columns of the task."""

import io
import json
from types import SimpleNamespace

import pytest

from prefix_jax import api, cli, generate, tasks
from prefix_jax.errors import UserError
from prefix_jax.tasks import Columns
from prefix_jax.training import pipeline
from tests import tiny

TEXT = "name : Place 3\n| food : Thai\n\n| area : centre\n"
QUICK = ["--config.decoding.strategy=greedy", "--config.decoding.max_length=4"]


@pytest.fixture(scope="module")
def run(tiny_models, tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    config = tiny.configuration(tiny_models["gpt2"], folder)
    rows = [{"title": row["source"], "body": i, "text": row["target"]} for i, row in enumerate(tiny.rows(12))]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config.data.update(source_format="{title}: {body}", target_column="text")
    config.training.update(steps=1, batch=2, evaluate_every=0, tensorboard=False)
    pipeline.tune(config, folder / "run", [])
    return folder / "run"


def told(run, capsys, *words):
    code = cli.call(generate.main, generate.define_flags, ["--workdir", str(run), "--json", *QUICK, *words])
    out, err = capsys.readouterr()
    return [json.loads(line)["source"] for line in out.splitlines()] if code == 0 else err


def test_files_are_read_as_lines_a_text_or_rows(run, tmp_path, capsys, monkeypatch):
    file = tmp_path / "prompt.txt"
    file.write_text(TEXT, encoding="utf-8")
    assert told(run, capsys, f"--input-file={file}", "--input-format=text") == [TEXT.strip()]
    assert "--input-format=text if the file is one source" in told(run, capsys, f"--input-file={file}")
    file.write_text(TEXT.replace("\n\n", "\n"), encoding="utf-8")
    assert len(told(run, capsys, f"--input-file={file}")) == 3
    rows = [{"title": "A\nB", "body": 3}, {"title": "C", "body": "d", "text": "unread"}]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    wanted = ["A\nB: 3", "C: d"]
    (tmp_path / "rows.jsonl").write_text(lines)
    assert told(run, capsys, f"--input-file={tmp_path / 'rows.jsonl'}") == wanted
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(lines.encode())))
    assert told(run, capsys, "--input-file=-", "--input-format=jsonl") == wanted
    (tmp_path / "rows.csv").write_text('title,body\n"A\nB",3\nC,d\n')
    assert told(run, capsys, f"--input-file={tmp_path / 'rows.csv'}") == wanted
    (tmp_path / "rows.jsonl").write_text('{"title": "A"}\n')
    assert "line 1 of" in (said := told(run, capsys, f"--input-file={tmp_path / 'rows.jsonl'}")) and "body" in said
    assert "are both given" in told(run, capsys, "--input=x", "--input-format=text")


def test_rows_in_python(run, tiny_models):
    tuned = api.load(run, options={"decoding.strategy": "greedy", "decoding.max_length": 4})
    one = tuned.generate({"title": "C", "body": 1})
    assert isinstance(one, str) and tuned.generate([{"title": "C", "body": 1}, "C: 1"]) == [one, one]
    with pytest.raises(UserError, match='input 1 has no column "body"'):
        tuned.generate({"title": "C"})


ROWS = {
    "text": {"source": "s", "target": "t"},
    "classification": {"text": "s", "label": 1},
    "multiple_choice": {"question": "q", "choices": ["a", "b"], "answer": 1},
    "squad": {"context": "c d", "question": "q", "answers": {"text": ["c"], "answer_start": [0]}},
    "gsm8k": {"question": "q", "answer": "1 #### 1"},
    "xsum": {"document": "a\nb", "summary": "s"},
    "cnn_dm": {"article": "a\nb", "highlights": "s"},
    "translation": {"translation": {"en": "a", "de": "b"}},
    "glue_sst2": {"sentence": "s", "label": 1},
    "superglue_copa": {"premise": "p", "question": "cause", "choice1": "x", "choice2": "y", "label": 0},
    "superglue_record": {"query": "q", "passage": "p", "entities": ["A", "B"], "answers": ["A"]},
}


@pytest.mark.parametrize("task", ROWS)
def test_a_row_without_an_answer_has_the_source_and_choices_of_training(tmp_path, task):
    columns = Columns("en", "de") if task == "translation" else Columns()
    row = ROWS[task]
    other = {"classification": [{"text": "z", "label": 0}]}.get(task, [])
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(one) + "\n" for one in (row, *other)))
    record = tasks.inputs(task, "train", str(tmp_path), columns)[0]
    answers = ("target", "label", "answer", "answers", "summary", "highlights")
    source, choices = tasks.prompt(task, ("row 1", {k: v for k, v in row.items() if k not in answers}), columns)
    shared = tasks.shared_choices(task, str(tmp_path), columns)
    assert (source, choices or shared) == (record.source, record.choices)
