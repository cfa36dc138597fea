"""Pages of anything: texts of data, models and files are shown as they are, and nothing is loaded from outside."""

import json
import re
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from prefix_jax.config import default_config
from prefix_jax.reporting import data_page, export, report, sweep, sweep_page
from prefix_jax.sharing.card import Card
from tests.reporting.test_report import EVIL, Page, record

RUNNING = {"script", "img", "iframe", "object", "embed", "base", "form", "link", "foreignobject", "animate", "set"}


def check(text: str, folder: Path, shown: int) -> Page:
    """Asserts that a page is whole, runs and loads nothing, and shows the evil text so many times or more."""
    (folder / "page.html").write_text(text, encoding="utf-8")
    page = Page(folder / "page.html")
    assert not {tag.lower() for tag, _ in page.elements} & RUNNING
    for tag, attributes in page.elements:
        assert not any(re.match("on|style|src|action", name) for name in attributes), tag
        assert re.match(r"#|runs/|data:text/csv;", attributes.get("href", "#")), attributes
    assert not set("\x00\x1b") & set(text) and "<script" not in text and not re.search(r"url\(|@import", text)
    assert page.text.count("<script>alert('x')</script>") >= shown
    return page


INSPECTION: dict[str, Any] = {
    "change": 0.5, "changed_words": 0.25, "tokens": 3, "records": 2, "split": EVIL, "source": EVIL, "target": EVIL,
    "against": EVIL, "prefix_share": {EVIL: [[0.5, 0.25]]}, "change_by_place": [0.1, 0.2],
    "attention": {EVIL: {"layer": 0, "head": 0, "share": 0.5, "slots": 1, "queries": [EVIL, EVIL],
                         "keys": [EVIL, EVIL, EVIL], "weights": [[0.5, 0.25, 0.25]] * 2}},
    "parameters": {"by_method": {EVIL: [3, 2, 100]}, "by_length": {"length": [1, 2], EVIL: [3, 4]}},
    "next_words": [{"token": EVIL, "change": 0.5, "bare": [[EVIL, 0.5]], "tuned": [[EVIL, 0.25]]}],
    "nearest_words": [[EVIL, EVIL]],
    "distance": {EVIL: {kind: {"cosine": [0.5], "relative": [1.0]} for kind in ("key", "value")}},
}  # fmt: skip


def test_what_was_seen_inside_a_model_is_shown_and_not_obeyed(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(record()))
    (tmp_path / "inspection.json").write_text(json.dumps(INSPECTION))
    notes = report.read_run(tmp_path).notes
    assert not notes
    page = check(report.page(report.read_run(tmp_path)), tmp_path, 10)
    assert len(page.all("svg")) > 4
    written = export.write_figures(tmp_path / "figures", report.figures_of(report.read_run(tmp_path)), EVIL)
    assert written and all(path.parent == tmp_path / "figures" and path.is_file() for path in written)


def test_a_sweep_is_shown_and_not_obeyed(tmp_path):
    rows = [
        {
            "name": f"{number}{EVIL}", "options": {"prefix.length": number, EVIL: EVIL}, "directory": f"runs/{number}",
            "status": EVIL, "error": EVIL, "scores": {EVIL: 1.5}, "verdict": [{"detail": EVIL}],
        }
        for number in (1, 2)
    ]  # fmt: skip
    (tmp_path / "runs" / "1").mkdir(parents=True)
    (tmp_path / "runs" / "1" / "report.html").write_text("")
    (tmp_path / "sweep.json").write_text(json.dumps({"rows": rows, "split": EVIL, "command": EVIL}))
    check(sweep_page.page(sweep.read_sweep(tmp_path)), tmp_path, 8)
    for markdown in (False, True):
        table = sweep.sweep_table(sweep.read_sweep(tmp_path), markdown)
        assert not set("\x00\x1b\ud800") & set(table)


@pytest.mark.parametrize("directory", ["javascript:alert(1)", "../elsewhere", "runs/..", "runs/a/b", "/tmp", "//x/y"])
def test_a_row_of_a_sweep_is_inside_its_folder(directory, tmp_path):
    row = {"name": "a", "options": {}, "directory": directory, "status": "scored"}
    (tmp_path / "sweep.json").write_text(json.dumps({"rows": [row]}))
    with pytest.raises(sweep.UserError, match=r"sweep.json is damaged: rows\[0\].directory"):
        sweep.read_sweep(tmp_path)


def test_data_are_shown_and_not_obeyed(tmp_path):
    lengths = {"median": 1.0, "p95": 2.0, "max": 3, "min": 1, "mean": 1.0, "tokens": 4, "histogram": [[1, 2, 3]]}
    entry = {
        "read": EVIL, "records": 3, "inputs": 3, "duplicates": 0, "warnings": [EVIL], "findings": {"a": EVIL},
        "source": lengths, "target": lengths, "names": {"source": EVIL},
    }  # fmt: skip
    summary = {
        "task": EVIL, "model": EVIL, "splits": {EVIL: entry, "test": {"missing": EVIL}}, "packing": None,
        "virtual_tokens": 3, "rows": [{"id": EVIL, "parts": [{"kind": "source", "tokens": [EVIL]}]}],
    }  # fmt: skip
    check(data_page.data_page(summary), tmp_path, 8)


def test_the_page_of_the_server_makes_no_markup_of_texts_and_loads_only_from_itself():
    text = resources.files("prefix_jax.serving").joinpath("page.html").read_text(encoding="utf-8")
    text = text.replace("http://www.w3.org/2000/svg", "")  # the name of a namespace
    assert not re.search(r"(inner|outer)HTML|insertAdjacent|document\.write|eval\(|src=|https?:|url\(|import", text)
    assert text.count("textContent") > 3


def test_a_card_quotes_what_files_and_models_are_called():
    config = default_config().to_dict()
    config["data"].update(task="text", path=EVIL, source_column=EVIL)
    evil = 'a`|\n# big\n```\n")\nimport os\n' + EVIL
    scores = {evil: {"tuned": {evil: 1.0}, "bare": {evil: 2.0}, "records": 3}}
    card = Card(evil, "", evil, config, 3, scores=scores, data_name=evil, versions={evil: evil})
    text = card.text()
    body = text.split("\n---\n", 1)[1]
    assert "\n# big" not in body and "\nimport os" not in body
    assert "<script" not in re.sub(r"```.*?```|`[^`]*`", "", body, flags=re.DOTALL)
    assert body.count("```") % 2 == 0 and not set("\x00\x1b") & set(text)
    rows = [line for line in body.split("\n") if line.startswith("| ")]
    assert len({line.count("|") - line.count("\\|") for line in rows}) == 1
