"""The steps of docs/adding_a_task.md and docs/adding_a_metric.md, with a toy of each in a package of a user's own."""

import importlib
import json
import sys

import pytest

from prefix_jax import inference, tasks
from prefix_jax.config import default_config
from prefix_jax.errors import UserError
from prefix_jax.evaluation import scorers
from prefix_jax.reporting.report import write_report
from prefix_jax.training import pipeline
from tests import tiny

TASK = """
from prefix_jax.data.data_set import DataSet
from prefix_jax.data.records import pair
from prefix_jax.metrics import METRICS
from prefix_jax.tasks import Task


def records(items, split, columns, notes):
    return [pair(row["source"], row["target"], None, f"{split}-{i}", 0) for i, (where, row) in enumerate(items)]


TASK = Task(name="toy", data=DataSet(records=records), metrics=(METRICS["chrF"],), as_read=str.upper)
NUMBER = 7
"""

METRIC = """
from prefix_jax.metrics import Metric


def ratio(rows, how):
    return sum(1 + len(row["hypothesis"]) for row in rows) / sum(1 + len(row["references"][0]) for row in rows)


def records_scored(rows, how):
    return float(len(rows))


METRIC = length_ratio = Metric("length_ratio", ratio, decimals=4, higher_is_better=False)
NUMBER = 7
"""


@pytest.fixture
def package(tmp_path, monkeypatch):
    folder = tmp_path / "toypackage"
    folder.mkdir()
    for name, text in (
        ("__init__", ""),
        ("mytask", TASK),
        ("metrics", METRIC),
        ("broken", "import nothing_of_this_name"),
    ):
        (folder / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] == "toypackage"]:
        monkeypatch.delitem(sys.modules, name)


def test_a_task_and_a_metric_of_a_users_own(package, tiny_models, tmp_path):
    config = tiny.configuration(tiny_models["llama"], tmp_path)
    config.data.task = "toypackage.mytask"
    config.evaluation.metrics = "toypackage.metrics:length_ratio, chrF, toypackage.metrics:records_scored"
    config.training.update(steps=3, batch=4, evaluate_records=4, tensorboard=False)
    config.decoding.update(strategy="greedy", max_length=3)
    workdir = tmp_path / "run"
    assert pipeline.tune(config, workdir, []).finished
    entry = inference.evaluate(workdir, "test", bare=True)
    saved = json.loads((workdir / "scores.json").read_text())["test"]
    assert list(saved["tuned"]) == ["length_ratio", "chrF", "records_scored"]
    assert saved["tuned"]["records_scored"] == saved["records"] and saved["task"] == "toypackage.mytask"
    assert saved["metrics"]["length_ratio"] == {"decimals": 4, "higher_is_better": False}
    assert saved["metrics"]["records_scored"] == {"decimals": 2, "higher_is_better": True}
    # Lower is better: outputs that are shorter than the bare model's are shown as an improvement.
    saved["bare"]["length_ratio"] = saved["tuned"]["length_ratio"] + 0.0012
    saved["verdict"] = []
    (workdir / "scores.json").write_text(json.dumps({"test": saved}))
    (workdir / "metrics.jsonl").unlink()
    page = write_report(workdir).read_text()
    assert f"{entry['tuned']['length_ratio']:.4f}" in page
    assert '<span class="better">\u22120.0012</span>' in page
    # The task's own metrics, where none are chosen; its reader's form of a typed source.
    assert [m.name for m in tasks.metrics_of("toypackage.mytask")] == ["chrF"]
    assert tasks.find("toypackage.mytask").as_read("ab") == "AB"


@pytest.mark.parametrize(
    ("task", "metrics", "message"),
    [
        ("toypackage.mytusk", "", "cannot be imported"),
        ("toypackage.mytask:TUSK", "", 'has no "TUSK"; did you mean "TASK"'),
        ("toypackage.mytask:NUMBER", "", "is not a prefix_jax.tasks.Task"),
        ("toypackage.broken", "", "cannot be imported.*nothing_of_this_name"),
        ("text", "chrf", '"chrf", which is not a metric; did you mean "chrF"'),
        ("text", "toypackage.metrics:length_ration", 'has no "length_ration"; did you mean "length_ratio"'),
        ("text", "toypackage.metrics:NUMBER", "neither a Metric nor a function"),
        ("text", "toypackage.metrics, toypackage.metrics:length_ratio", 'two metrics that are called "length_ratio"'),
    ],
)
def test_what_is_wrong_is_said_before_the_model_loads(package, tmp_path, monkeypatch, task, metrics, message):
    monkeypatch.setattr(pipeline, "open_session", lambda *_: pytest.fail("the model is loaded"))
    config = tiny.configuration(tmp_path, tmp_path)
    config.data.task, config.evaluation.metrics = task, metrics
    with pytest.raises(UserError, match=message) as raised:
        pipeline.tune(config, tmp_path / "run", [])
    assert "\n" not in str(raised.value)


def test_missing_files_are_found_before_the_model_loads(tmp_path, monkeypatch):
    monkeypatch.setattr(pipeline, "open_session", lambda *_: pytest.fail("the model is loaded"))
    config = default_config()
    config.data.update(task="text", path=str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="does not exist"):
        pipeline.tune(config, tmp_path / "run", [])


def test_chosen_metrics_need_java_only_where_they_use_it(monkeypatch):
    from prefix_jax.metrics import coco

    def no_java():
        raise UserError("there is no Java")

    monkeypatch.setattr(coco, "java", no_java)
    config = default_config()
    config.data.task = "e2e"
    with pytest.raises(UserError, match="no Java"):
        scorers.try_out(config)
    config.evaluation.metrics = "BLEU,NIST"
    scorers.try_out(config)
    rows = [
        {"hypothesis": "a b c d e", "references": ["a b c d e"]},
        {"hypothesis": "f g h i j", "references": ["f g h i k"]},
    ]
    assert list(tasks.score("e2e", rows, metrics="NIST,rouge1")) == ["NIST", "rouge1"]
    own = tasks.score("e2e", rows, java=False)
    assert tasks.score("e2e", rows, metrics="BLEU") == {"BLEU": own["BLEU"]}


def test_the_earlier_name_of_the_embedded_set_is_read_with_one_line(capsys):
    tasks.registry._renamed.cache_clear()
    assert tasks.find("table") is tasks.find("table") is tasks.TASKS["lighthouse"]
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and '"table" is now called "lighthouse"' in said
    assert inference.merged({"data": {"task": "table"}}, {}).data.task == "lighthouse"
