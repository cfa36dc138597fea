"""The notebooks run from top to bottom on tiny models, by changing the one cell that they say, and leave JAX alone."""

import json
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from packaging.requirements import Requirement

from tests import tiny
from tests.conftest import ROOT

FOLDER = ROOT / "experiments" / "notebooks"
NAMES = sorted(path.stem for path in FOLDER.glob("*.ipynb"))
COMMON = (
    'PACKAGE, DTYPE = {package!r}, "float32"\nMODEL = {model!r}\nSTEPS, BATCH, RECORDS = 3, 4, 2\nWORKDIR = "run"\n'
)


def read(name: str) -> nbformat.NotebookNode:
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


def tagged(notebook: nbformat.NotebookNode, tag: str) -> nbformat.NotebookNode:
    (cell,) = [cell for cell in notebook.cells if tag in cell.metadata.get("tags", ())]
    return cell


def outputs(notebook: nbformat.NotebookNode) -> str:
    return json.dumps([cell.get("outputs", []) for cell in notebook.cells])


def executed(name: str, settings: str, folder: Path, monkeypatch) -> nbformat.NotebookNode:
    """Runs a notebook with another settings cell, in `folder`, and nothing else changed."""
    monkeypatch.setenv("PREFIX_JAX_CACHE", str(folder / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    notebook = read(name)
    tagged(notebook, "settings").source = settings
    NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    ).execute()
    return notebook


def settings(model: Path, more: str) -> str:
    return COMMON.format(package=str(ROOT), model=str(model)) + more


def data(folder: Path) -> str:
    return str(tiny.save_rows(folder / "rows.jsonl", 40))


@pytest.mark.slow
def test_quick_start(tiny_models, tmp_path, monkeypatch):
    more = f"DATA = {data(tmp_path)!r}"
    found = outputs(executed("quick_start", settings(tiny_models["t5"], more), tmp_path, monkeypatch))
    assert "with prefix" in found and "of its attention goes to the prefix" in found and "image/svg+xml" in found
    assert (tmp_path / "run" / "tuned" / "prefix.safetensors").is_file()
    assert (tmp_path / "run" / "report.html").is_file()


@pytest.mark.slow
def test_prefix_length(tiny_models, tmp_path, monkeypatch):
    more = f"DATA = dict(task='text', path={data(tmp_path)!r})\nLENGTHS, SEEDS = (1, 3), (1, 2)"
    found = outputs(executed("prefix_length", settings(tiny_models["llama"], more), tmp_path, monkeypatch))
    assert "numbers stored" in found and "image/svg+xml" in found and "2 scored" in found
    assert (tmp_path / "run" / "scores.csv").read_text().startswith("series,prefix length,")
    together = json.loads((tmp_path / "run" / "sweep.json").read_text())["groups"]
    assert [len(group) for group in together] == [4]


@pytest.mark.slow
def test_main_table(tiny_models, tmp_path, monkeypatch):
    more = f"TASKS = {{'text': {data(tmp_path)!r}}}\nSTRATEGY = 'greedy'"
    notebook = executed("main_table", settings(tiny_models["gpt2"], more), tmp_path, monkeypatch)
    (table,) = [out.data["text/markdown"] for cell in notebook.cells for out in cell.get("outputs", ())
                if "text/markdown" in out.get("data", {})]  # fmt: skip
    lines = table.splitlines()[2:]
    assert [line.split(" | ")[1] for line in lines] == ["FINE-TUNE", "FT-TOP2", "ADAPTER(3%)", "LoRA", "PREFIX(0.1%)"]
    assert lines[0].split(" | ")[3] == "1e+02 %"


def test_the_papers_numbers_are_those_it_printed(data_root):
    tables = json.loads((data_root / "paper" / "tables.json").read_text(encoding="utf-8"))
    printed = tables["main_table_arxiv_v1_Table1"]["GPT2-MEDIUM"]
    (source,) = [cell.source for cell in read("main_table").cells if "PAPER = {" in cell.source]
    written = eval(source[source.index("PAPER = ") + 8 : source.index("\ntable = ")])
    places = {"e2e": ("E2E", 0), "webnlg": ("WebNLG", tables["columns"]["WebNLG"].index("BLEU_A")), "dart": ("DART", 0)}
    assert written.keys() == places.keys()
    for task, (name, place) in places.items():
        assert written[task] == {method: printed[method][name][place] for method in written[task]}
        assert len(written[task]) == 4


@pytest.mark.parametrize("name", NAMES)
def test_notebooks_are_kept_clean(name):
    notebook = read(name)
    nbformat.validate(notebook)
    assert outputs(notebook).strip("[], ") == "" and all(c.get("execution_count") is None for c in notebook.cells)
    assert tagged(notebook, "install").source == tagged(read(NAMES[0]), "install").source
    assert tagged(notebook, "settings").source.startswith("PACKAGE = ")
    assert len(notebook.cells) < 22 and notebook.cells[0].cell_type == "markdown"


@pytest.mark.parametrize("runtimes_jax", ["0.9.1", metadata.version("jax")])
def test_the_runtimes_jax_stays(runtimes_jax, tmp_path, monkeypatch, capsys):
    """Where other packages are missing, pip gets them with JAX pinned to what is there, and JAX itself never."""
    asked: list[list[str]] = []
    real = metadata.version

    def version(name: str) -> str:
        if name in ("optax", "sacrebleu"):
            raise metadata.PackageNotFoundError(name)
        return runtimes_jax if name in ("jax", "jaxlib") else real(name)

    monkeypatch.setattr(metadata, "version", version)
    monkeypatch.setattr(subprocess, "run", lambda words, check: asked.append(words))
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    exec(tagged(read("quick_start"), "install").source, {"PACKAGE": str(ROOT)})
    (words,) = asked
    wanted = [Requirement(word).name for word in words[words.index("constraints.txt") + 1 :]]
    assert words[:4] == [sys.executable, "-m", "pip", "install"] and wanted == ["optax", "sacrebleu"]
    pinned = (tmp_path / "constraints.txt").read_text().splitlines()
    assert f"jax=={runtimes_jax}" in pinned and f"jaxlib=={runtimes_jax}" in pinned
    assert ("outside the tested range" in capsys.readouterr().out) == (runtimes_jax == "0.9.1")
