"""A study from its sweep to its README, on a tiny model; and what its table says of given results."""

import importlib
import json
import sys
import xml.etree.ElementTree as ElementTree

import pytest

from experiments import naming, published, readme, results, studies
from experiments.results import Result
from experiments.studies import Figure, Study
from prefix_jax import tasks
from tests import runs
from tests.conftest import ROOT

SWEEP = """

_plain = get_config

def get_config(scale):
    assert scale == "cpu"
    return _plain()

def sweep(scale):
    for length in (1, 3):
        for seed in (1, 2):
            yield {{"prefix.length": length, "training.seed": seed}}
    for seed in (1, 2):
        rate = {{"optimizer.learning_rate": 3e38, "training.seed": seed}}
        yield {{"prefix.length": 2, "prefix.reparameterisation": "none", **rate}}
"""
README = "# A study\n\n<!-- results -->\n\nNo runs yet.\n\n<!-- end of results -->\n\nThe end.\n"


def labels(result: Result) -> dict:
    return {"prefix length": result.option("prefix.length")}


@pytest.fixture
def study(tiny_models, tmp_path, monkeypatch) -> Study:
    """A study of two lengths, two seeds each, and of a third whose loss is not finite."""
    folder = tmp_path / "study"
    recipe = runs.write_recipe(folder, tiny_models["llama"], steps=4)
    recipe.write_text(recipe.read_text() + SWEEP.format())
    (folder / "README.md").write_text(README)
    monkeypatch.chdir(ROOT)
    for name, value in runs.environment(tmp_path / "cache").items():
        monkeypatch.setenv(name, value)
    figures = (Figure("BLEU", "prefix length"),)
    return Study(folder, labels, {"cpu": ("--limit=2", "--spread")}, metrics=("BLEU", "chrF"), figures=figures)


def call(study: Study, monkeypatch, *words: str) -> None:
    monkeypatch.setattr(sys, "argv", ["study", *words])
    with pytest.raises(SystemExit) as ended:
        studies.main(study)
    assert ended.value.code == 0


def test_a_study_runs_is_tabulated_and_goes_on(study, tiny_models, tmp_path, monkeypatch):
    workdir = tmp_path / "sweep"
    call(study, monkeypatch, "--workdir", str(workdir))
    found = results.read(study.results)
    assert [r.status for r in found] == ["scored"] * 4 + ["diverged"] * 2
    assert [(r.option("prefix.length"), r.seeds["training"]) for r in found[:4]] == [(1, 1), (1, 2), (3, 1), (3, 2)]
    first = json.loads((workdir / "runs" / found[0].name / "scores.json").read_text())["test"]
    assert found[0].scores == first["tuned"] and found[0].tuned == first["prefix"]
    assert found[0].scoring == {"split": "test", "limit": 2, "spread": True, "records": 2}
    assert found[0].config["training.steps"] == 4 and "data.seed" not in found[0].config and found[0].commit
    samples = (workdir / "runs" / found[0].name / "samples.jsonl").read_text().splitlines()
    inputs = tasks.inputs("text", "test", str(study.folder / "rows.jsonl"))
    assert len(inputs) == 4 and [json.loads(line)["id"] for line in samples] == [inputs[0].id, inputs[2].id]
    text, model = (study.folder / "README.md").read_text(), tiny_models["llama"]
    assert f"| 3 | {model} | 2 |" in text and f"| 2 | {model} | 2, 2 diverged | - |" in text and "The end." in text
    assert "![BLEU against prefix length](cpu-BLEU.svg)" in text
    drawing = ElementTree.parse(study.folder / "cpu-BLEU.svg").getroot()
    assert drawing.tag == "{http://www.w3.org/2000/svg}svg"
    before = {path: path.stat().st_mtime_ns for path in (workdir / "runs").rglob("*") if path.is_file()}
    call(study, monkeypatch, "--workdir", str(workdir))
    assert before == {path: path.stat().st_mtime_ns for path in (workdir / "runs").rglob("*") if path.is_file()}
    assert (study.folder / "README.md").read_text() == text


def result(**changes) -> Result:
    made = dict(
        name="a", scale="cpu", status="scored", commit="abcdef123456", config={"data.task": "webnlg"},
        seeds={"training": 1, "data": 0}, counts={"trained": 20, "stored": 10, "base": 1000},
        scoring={"split": "test", "records": 7}, scores={"BLEU_all": 40.0, "TER_all": 0.5}, steps=5,
        seconds=120.0, tuned="00",
    )  # fmt: skip
    return Result(**{**made, **changes})


def test_a_table_has_means_deviations_and_the_papers_numbers(tmp_path):
    found = [result(), result(scores={"BLEU_all": 42.0, "TER_all": 0.4}, commit="123456abcdef")]
    paper = lambda one: {"BLEU_all": 55.1}
    study = Study(tmp_path, lambda one: {"method": naming.method(one)}, {"cpu": ()}, ("BLEU_all", "TER_all"), paper)
    head, _, ours, theirs = readme.table(study, found).splitlines()
    assert head == "| method | model | runs | BLEU_all | TER_all | trained | stored | commit |"
    assert (
        ours
        == "| prefix 10 | flan-t5-small | 2 | 41.0 ± 1.4 | 0.450 ± 0.071 | 20 | 10 (1 %) | `abcdef12`, `123456ab` |"
    )
    assert theirs == "| prefix 10 | the paper |  | 55.1 |  |  |  |  |"
    assert readme.heading(found) == (
        "**webnlg, scale `cpu`**: flan-t5-small; 5 steps of 16 records; 7 test records scored, beam 5."
    )


def test_names_make_a_figure_of_dots(tmp_path):
    words = ("keep", "banana")
    found = [result(config={"prefix.text": w}, scores={"BLEU": 30.0 + i}) for i, w in enumerate(words)]
    study = Study(tmp_path, lambda one: {"words": one.option("prefix.text")}, {"cpu": ()})
    drawn = ElementTree.fromstring(readme.chart(study, Figure("BLEU", "words"), found))
    assert {"keep", "banana"} <= {text.text for text in drawn.iter("text")}
    left, right = (float(dot.attrib["cx"]) for dot in drawn.iter("circle"))
    assert left < right


def test_results_of_another_scale_and_of_rows_that_have_not_ended_again_stay(tmp_path):
    path, scoring = tmp_path / "results.jsonl", {"split": "test"}

    def keep(scale, **rows):
        """Each row's length, and whether it has ended."""
        asked = []
        for name, (length, ended) in rows.items():
            config = {"prefix.length": length}
            one = result(name=name, scale=scale, config=config, scoring={**scoring, "records": 7}) if ended else None
            asked.append(results.Asked(name, config, scoring, one))
        results.keep(path, scale, asked)

    keep("paper", a=(1, True))
    keep("cpu", a=(2, True), b=(2, False), gone=(2, True), other=(2, True))
    keep("cpu", c=(2, False), b=(3, True), a=(2, False), other=(5, False))
    found = [(r.scale, r.name, r.config["prefix.length"]) for r in results.read(path)]
    assert found == [("paper", "a", 1), ("cpu", "b", 3), ("cpu", "a", 2)]


@pytest.mark.parametrize(
    ("words", "ended", "own"),
    [((), False, True), (("--config.training.steps=2",), True, False), (("--only=a", "--members=2"), True, True)],
    ids=["failed", "changed", "part"],
)
def test_what_a_study_published_is_replaced_only_by_its_own_results(words, ended, own, tmp_path, monkeypatch):
    study = Study(tmp_path / "study", lambda one: {"length": one.option("prefix.length")}, {"cpu": ()})
    before, new = result(name="a", scale="cpu"), result(name="a", scale="cpu", steps=9)
    results.keep(study.results, "cpu", [results.Asked("a", {}, {}, before)])
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "sweep.json").write_text("{}")
    monkeypatch.setattr(studies, "run_sweep", lambda *_: 0)
    monkeypatch.setattr(results, "of_sweep", lambda *_: [results.Asked("a", {"x": 1}, {}, new if ended else None)])
    monkeypatch.setattr(studies, "write_readme", lambda _: None)
    monkeypatch.setattr(sys, "argv", ["study", "--workdir", str(tmp_path / "sweep"), *words])
    with pytest.raises(SystemExit):
        studies.main(study)
    assert results.read(study.results) == [new if own and ended else before]
    assert results.read(tmp_path / "sweep" / results.FILE_NAME) == ([] if own else [new])


@pytest.mark.parametrize(
    ("config", "share", "name", "bleu"),
    [
        ({"prefix.length": 5}, 0.001, "prefix 5", 69.7),
        ({"model.source": "gpt2-large"}, 0.001, "prefix 10", 70.3),
        ({"prefix.reparameterisation": "none"}, 0.001, "prefix 10, direct", None),
        ({"method": "adapter"}, 0.03, "adapters, 3 %", 68.9),
        ({"method": "adapter"}, 0.001, "adapters, 0.1 %", 66.3),
        ({"method": "finetune"}, 1.0, "fine-tuning", 68.2),
        ({"method": "finetune", "finetune.layers": 2}, 0.1, "fine-tuning, last 2 layers", 68.1),
        ({"method": "prompt", "prompt.reparameterisation": "mlp"}, 0.001, "prompt 20, MLP", None),
        ({"method": "lora"}, 0.001, "LoRA, rank 8", None),
        ({"method": "prefix+lora"}, 0.001, "prefix 10 + LoRA, rank 8", None),
        ({"method": "ia3"}, 0.001, "ia3", None),
    ],
)
def test_methods_are_named_and_found_in_the_papers_table(config, share, name, bleu, data_root, monkeypatch):
    monkeypatch.setenv("PREFIX_JAX_DATA", str(data_root))
    published.tables.cache_clear()
    stored = {"trained": 1, "stored": round(1000 * share), "base": 1000}
    one = result(config={"data.task": "e2e", **config}, counts=stored)
    assert naming.method(one) == name
    assert naming.main_table(one).get("BLEU") == bleu


def test_the_ablations_rows_are_found(data_root, monkeypatch):
    monkeypatch.setenv("PREFIX_JAX_DATA", str(data_root))
    published.tables.cache_clear()
    rows = ({}, {"method": "infix", "infix.length": 1}, {"method": "prompt", "prompt.length": 10})
    assert [naming.ablation(result(config=row))["BLEU"] for row in rows] == [69.7, 67.9, 62.2]
    assert naming.ablation(result(config={"method": "lora"})) == {}


def test_without_the_papers_tables_its_rows_are_left_out(tmp_path, monkeypatch):
    monkeypatch.setenv("PREFIX_JAX_DATA", str(tmp_path))
    published.tables.cache_clear()
    assert naming.main_table(result()) == {}
    published.tables.cache_clear()


def test_every_committed_number_has_its_run():
    """Each line of a study's results is whole, and its README is what these lines make."""
    files = sorted((ROOT / "experiments").glob("*/results.jsonl"))
    for path in (p for p in files if (p.parent / "recipe.py").is_file()):
        for one in results.read(path):
            assert len(one.commit) == 12 and not one.commit.endswith("+"), (path, one.name)
            assert one.seeds and one.config and one.steps > 0
            assert one.status == "diverged" or (one.scores and len(one.tuned) == 64)


def test_committed_tables_are_what_their_results_make(data_root, monkeypatch):
    if not (data_root / "paper" / "tables.json").is_file():
        pytest.skip("the paper's tables are absent")
    monkeypatch.setenv("PREFIX_JAX_DATA", str(data_root))
    published.tables.cache_clear()
    for path in sorted((ROOT / "experiments").glob("*/recipe.py")):
        study = importlib.import_module(f"experiments.{path.parent.name}.__main__").STUDY
        text = (study.folder / "README.md").read_text(encoding="utf-8")
        for same in results.grouped(results.read(study.results), lambda r: [r.scale, r.option("data.task")]):
            assert readme.table(study, same) in text, path
