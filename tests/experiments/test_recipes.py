"""Each study's recipe at both scales: rows, methods that fit their models, programs that are shared, the paper's
numbers.
"""

import importlib
import json
from pathlib import Path

import pytest

from experiments import published, scales
from experiments.studies import Study
from prefix_jax import tuning
from prefix_jax.errors import UserError
from prefix_jax.inspection.counting import parameters
from prefix_jax.models import build
from prefix_jax.planning.shapes import spec_of
from prefix_jax.sweeping.groups import groups
from prefix_jax.sweeping.rows import Row, read_rows
from prefix_jax.training.trainer import check_options
from tests.conftest import ROOT

NAMES = sorted(path.parent.name for path in (ROOT / "experiments").glob("*/recipe.py"))


def study(name: str) -> Study:
    return importlib.import_module(f"experiments.{name}.__main__").STUDY


def rows(name: str, scale: str) -> list[Row]:
    recipe = importlib.import_module(f"experiments.{name}.recipe")
    path = (ROOT / "experiments" / name / "recipe.py").relative_to(Path.cwd())
    return read_rows(f"{path}:{scale}", recipe.get_config(scale))


CASES = [(name, scale) for name in NAMES for scale in study(name).scored]


@pytest.mark.parametrize(("name", "scale"), CASES)
def test_rows_are_runs_that_their_models_can_do(name: str, scale: str):
    for row in rows(name, scale):
        check_options(row.config)
        model = build(spec_of(row.config.model.source.rpartition("/")[2]))
        texts = {section: [5, 6] for section in tuning.names(row.config) if row.config[section].get("text", "")}
        assert tuning.build(row.config, model, texts).export
        assert row.config.training.steps > 0 or row.config.training.epochs > 0


@pytest.mark.parametrize("name", NAMES)
def test_a_study_says_what_it_is(name: str):
    readme = (ROOT / "experiments" / name / "README.md").read_text(encoding="utf-8")
    recipe = importlib.import_module(f"experiments.{name}.recipe")
    for text in (readme, recipe.__doc__):
        assert f"python -m experiments.{name} --" in text
    assert "<!-- results -->" in readme
    assert study(name).folder == ROOT / "experiments" / name


def test_another_scale_is_refused():
    with pytest.raises(UserError, match='"papre" is not a scale; did you mean "paper"'):
        scales.check("papre")


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("prefix_length", [8, 7]),
        ("initialisation", [8, 8, 8, 3]),
        ("stability", [8, 7, 8, 7]),
        ("extrapolation", [3, 1, 1, 1, 3, 1, 1, 1]),
    ],
)
def test_rows_train_together(name: str, sizes: list[int]):
    assert [len(group) for group in groups(rows(name, "cpu"), 8)] == sizes


def test_seeds_are_of_what_a_method_draws():
    """Fine-tuning starts from the model itself: with another `training.seed` alone it would be the same run."""
    for name, scale in CASES:
        for row in (r for r in rows(name, scale) if r.config.method == "finetune"):
            assert "training.seed" not in row.overrides, (name, scale)
    drawn = scales.seeded({"method": "lora"}, (7, 8)), scales.seeded({"method": "finetune"}, (7, 8))
    assert [list(row.values())[1] for kind in drawn for row in kind] == [7, 8, 0, 1]


def test_low_data_draws_every_size_from_the_same_subsets():
    found = rows("low_data", "paper")
    assert len(found) == 2 * 4 * 2 * 5 * 2
    for task in ("e2e", "xsum"):
        drawn = {(r.config.data.limit, r.config.data.limit_seed) for r in found if r.config.data.task == task}
        assert drawn == {(size, subset) for size in (50, 100, 200, 500) for subset in range(5)}


def test_low_data_is_trained_as_published(data_root):
    theirs = json.loads((data_root / "paper" / "tables.json").read_text())["low_data"]
    places = {size: place for place, size in enumerate(theirs["sizes"])}
    for row in rows("low_data", "paper"):
        c, their = row.config, theirs["E2E" if row.config.data.task == "e2e" else "XSUM"]
        place = places[c.data.limit]
        if c.data.task == "e2e":
            assert c.training.steps == their[f"max_steps_{c.method}_50_100_200_500"][place]
            assert c.training.batch == their["batch"]
        else:
            assert (c.training.steps, c.training.epochs) == (0, their[f"epochs_{c.method}_50_100_200_500"][place])
            assert (c.training.batch, c.optimizer.warmup_steps) == (their[f"batch_{c.method}"], their["warmup_steps"])
        assert (c.optimizer.learning_rate, c.prefix.length) == (their["lr"], their["prefix_len"])
        assert c.prefix.text == their["init_words"] and c.training.evaluate_records == 0.3 * c.data.limit
        assert c.training.evaluate_every * c.training.patience <= 2000 and c.training.evaluate_every > 0


def test_summaries_begin_at_position_0_and_table_to_text_behind_the_prefix():
    """As the authors' BART and GPT-2 had it."""
    for name in ("xsum", "news", "low_data", "prefix_length", "main_table"):
        for row in rows(name, "paper"):
            summary = row.config.data.task == "xsum"
            assert row.config.prefix.position_offset == ("zero" if summary else "length"), (name, row.name)


def test_prefix_lengths_are_those_that_the_paper_tried(data_root):
    ranges = json.loads((data_root / "paper" / "tables.json").read_text())
    ranges = ranges["hyperparameters_lr_epochs_batch_prefixlen"]["search_ranges"]
    for task, kind in (("dart", "table_to_text"), ("xsum", "summarization")):
        lengths = {r.config.prefix.length for r in rows("prefix_length", "paper") if r.config.data.task == task}
        assert sorted(lengths) == ranges[f"prefix_len_{kind}"]


@pytest.mark.parametrize("scale", ["paper", "cpu"])
def test_adapters_have_their_share_of_the_parameters(scale: str):
    methods = importlib.import_module("experiments.main_table.recipe").METHODS[scale]
    model = {"paper": "gpt2-medium", "cpu": "flan-t5-small"}[scale]
    for share, name in ((3.0, "adapter 3 %"), (0.1, "adapter 0.1 %")):
        options = {option: value for option, value in methods[name].items() if option.startswith("adapter.")}
        _, stored, base = parameters(spec_of(model), "adapter", options)
        assert 100 * stored / base == pytest.approx(share, rel=0.05)


@pytest.mark.parametrize("scale", ["paper", "cpu"])
def test_summaries_have_their_share_of_the_parameters(scale: str):
    model = {"paper": "bart-large", "cpu": "flan-t5-small"}[scale]
    for share, row in zip((2.0, 0.1), rows("xsum", scale), strict=True):
        _, stored, base = parameters(spec_of(model), "prefix", {"prefix.length": row.config.prefix.length})
        assert 100 * stored / base == pytest.approx(share, rel=0.1)


def test_hyperparameters_are_the_published_ones(data_root, monkeypatch):
    monkeypatch.setenv("PREFIX_JAX_DATA", str(data_root))
    published.tables.cache_clear()
    theirs = published.tables()["hyperparameters_lr_epochs_batch_prefixlen"]
    names = {"prefix": "Prefix", "finetune": "Fine-tune", "finetune top 2": "FT-top2"}
    tasks = {"e2e": "E2E", "webnlg": "WebNLG", "dart": "DART", "xsum": "XSUM"}
    for method, task in published._PUBLISHED:
        kind, _, share = method.partition(" ")
        if kind == "adapter":
            printed = theirs["Adapter"][f"{tasks[task]}({share.replace(' ', '')})"]
        else:
            printed = theirs[names[method]][tasks.get(task, task)]
        chosen = published.training(method, task)
        assert list(chosen.values()) == printed[:3], (method, task)
        if method == "prefix":
            assert published.PREFIX_LENGTHS[task] == printed[3]
