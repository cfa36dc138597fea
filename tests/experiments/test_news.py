"""The splits of the news, and the summarising recipes on a tiny BART: on rows made here."""

import json

import pytest

from experiments.news.recipe import get_config, sweep
from experiments.news.sections import addresses, section, write_split
from experiments.xsum import recipe as xsum
from prefix_jax import inference
from prefix_jax.sweeping.rows import make_rows
from prefix_jax.training import pipeline
from prefix_jax.training.selection import text_inputs, text_pairs

URLS = {
    "http://www.bbc.co.uk/sport/football/1234": "sport",
    "https://www.bbc.com/news/world-europe-1234": "world",
    "https://www.bbc.co.uk/news/uk-england-norfolk-1234": "uk",
    "https://www.bbc.co.uk/news/business-1234": "business",
    "https://www.bbc.co.uk/news/health-1234": "health",
    "https://www.bbc.co.uk/newsround/1234": None,
    "": None,
}


def write(folder, names=("train", "validation", "test")):
    """Writes XSUM's rows for each split, with each article's address in a file of its own."""
    folder.mkdir()
    for name in names:
        rows = [
            {
                "id": f"{name}{i}",
                "document": f"Story {i} of {name} .\nIt is about {wanted} .",
                "summary": f"Story {i} .",
            }
            for i, wanted in enumerate(URLS.values())
        ]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    lines = [json.dumps({"id": f"{name}{i}", "url": url}) for name in names for i, url in enumerate(URLS)]
    (folder / "urls.jsonl").write_text("\n".join(lines))
    return folder


@pytest.fixture
def sections(tmp_path):
    """XSUM with sections, as the command writes it."""
    raw, out = write(tmp_path / "raw"), tmp_path / "sections"
    urls = addresses(raw / "urls.jsonl")
    for name in ("train", "validation", "test"):
        counts = write_split(raw / f"{name}.jsonl", urls, out / f"{name}.jsonl")
        assert counts == {"sport": 1, "world": 1, "uk": 1, "business": 1, "health": 1}
    return out


@pytest.mark.parametrize(("url", "name"), URLS.items())
def test_an_address_tells_the_section(url, name):
    assert section(url) == name


def test_splits_train_and_test_on_other_sections(sections):
    seen = {}
    for row in make_rows(sweep("paper"), get_config("paper")):
        row.config.data.path = str(sections)
        trained = {record.category for record in text_pairs(row.config, "train")}
        assert trained == {record.category for record in text_pairs(row.config, "validation")}
        seen[row.name] = trained, {record.category for record in text_inputs(row.config, "test")}
    to_sports, within = ({"world", "uk", "business", "health"}, {"sport"}), ({"world", "uk", "business"}, {"health"})
    assert list(seen.values()) == [to_sports, to_sports, within, within]


@pytest.mark.parametrize("study", ["xsum", "news"])
def test_a_row_of_the_papers_scale_trains_and_is_scored(study, sections, tiny_models, tmp_path, monkeypatch):
    monkeypatch.setenv("PREFIX_JAX_CACHE", str(tmp_path / "cache"))
    config, overrides = (
        (xsum.get_config("paper"), xsum.sweep("paper")) if study == "xsum" else (get_config("paper"), sweep("paper"))
    )
    first = make_rows(overrides, config)[0].config
    first.model.source = str(tiny_models["bart"])
    first.data.update(path=str(sections), max_source_length=64)
    first.prefix.update(length=3, hidden=16)
    first.training.update(steps=2, batch=2, tensorboard=False, log_every=1)
    first.decoding.update(min_length=2, max_length=6)
    outcome = pipeline.tune(first, tmp_path / "run", [])
    assert outcome.finished and outcome.step == 2
    entry = inference.evaluate(tmp_path / "run", "test", limit=2)
    assert set(entry["tuned"]) == {"rouge1", "rouge2", "rougeL"}
    assert entry["records"] == (2 if study == "xsum" else 1)
