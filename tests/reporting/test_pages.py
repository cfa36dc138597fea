"""Pages as Chromium shows them, on a desk and on a phone, light and dark: no text overlaps, is cut, faint or tiny."""

import functools
import http.server
import json
import shutil
import threading
from pathlib import Path

import pytest

from prefix_jax.reporting import sweep_page
from prefix_jax.reporting.data_page import write_data_page
from prefix_jax.reporting.export import write_figures
from prefix_jax.reporting.report import figures_of, write_report
from prefix_jax.reporting.run import read_run
from tests import report_runs
from tests.browser import DESK, PHONE, browser
from tests.conftest import ROOT

VIEWS = [pytest.param(size, dark, id=f"{size[0]}-{'dark' if dark else 'light'}")
         for size in (DESK, PHONE) for dark in (False, True)]  # fmt: skip
SITE = ROOT / "build" / "site" / "index.html"


@pytest.fixture(scope="module")
def chromium():
    with browser() as found:
        yield found


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("pages")


@pytest.fixture(scope="module")
def run_page(folder) -> Path:
    return write_report(report_runs.write_more(report_runs.write_run(folder / "run")))


@pytest.fixture(scope="module")
def page_of_a_sweep(folder) -> Path:
    sweep_page.write_sweep(report_runs.write_sweep(folder / "sweep"))
    return folder / "sweep" / "report.html"


@pytest.fixture(scope="module")
def page_of_data(folder) -> Path:
    lengths = {"median": 31.5, "p95": 60, "max": 71, "histogram": [[10 * i, 10 * i + 9, 40 - 5 * i] for i in range(8)]}
    entry = {"records": 1234, "inputs": 1100, "duplicates": 7, "source": lengths, "target": lengths}
    entry |= {"read": "train: 1,234 records of a file with a name that is not short", "warnings": ["7 rows repeat"]}
    parts = [{"kind": kind, "tokens": ["name", " :", " Gull", " Light", "</s>"] * 8}
             for kind in ("masked", "source", "target")]  # fmt: skip
    packing = {"steps": 100, "records_per_step": 16, "rows": 4, "first": 256, "second": 128, "fill": 0.97}
    splits = {"train": entry, "validation": {"missing": "no file"}}
    summary = {"task": "e2e", "model": "flan-t5-small", "splits": splits, "packing": packing}
    summary |= {"rows": [{"id": "train-0", "parts": parts}], "virtual_tokens": 10}
    write_data_page(folder / "data.html", summary)
    return folder / "data.html"


class _Server(http.server.BaseHTTPRequestHandler):
    """Answers as `prefix-jax serve` does what its page asks for: itself, and the models."""

    def do_GET(self):
        known = {"/": ("text/html", (ROOT / "prefix_jax/serving/page.html").read_bytes())}
        names = ["smollm2-135m", "formal", "a-name-that-is-rather-long-for-a-box-on-a-phone-of-today-or-tomorrow"]
        known["/v1/models"] = ("application/json", json.dumps({"data": [{"id": name} for name in names]}).encode())
        kind, body = known.get(self.path, ("text/plain", b"not found"))
        self.send_response(200 if self.path in known else 404)
        self.send_header("content-type", kind)
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        events = [{"choices": [{"text": "A lighthouse " * 30}]}, {"choices": [], "usage": {"completion_tokens": 60}}]
        self.send_response(200)
        self.end_headers()
        self.wfile.write("".join(f"data: {json.dumps(event)}\n\n" for event in events).encode() + b"data: [DONE]\n\n")

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def server():
    found = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Server)
    threading.Thread(target=found.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{found.server_port}/"
    found.shutdown()


class _Files(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def site():
    """The address of the documentation, whose colours follow the reader's only where it comes from a server."""
    handler = functools.partial(_Files, directory=str(SITE.parent))
    found = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=found.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{found.server_port}/"
    found.shutdown()


@pytest.mark.parametrize("size, dark", VIEWS)
@pytest.mark.parametrize("name", ["run_page", "page_of_a_sweep", "page_of_data"])
def test_a_page_is_shown_without_faults(chromium, request, name, size, dark):
    chromium.open(request.getfixturevalue(name).as_uri(), size, dark)
    assert chromium.evaluate("document.querySelectorAll('h2').length") > 2
    assert chromium.faults() == []


@pytest.mark.parametrize("size, dark", VIEWS)
def test_the_page_of_a_server_is_shown_without_faults(chromium, server, size, dark):
    chromium.open(server, size, dark)
    chromium.wait_until("document.querySelector('#names input')")
    assert chromium.faults() == []
    chromium.evaluate("at('prompt').value = 'name : Gull Light'; document.querySelector('button').click()")
    chromium.wait_until("!document.querySelector('button').disabled && document.querySelector('small')")
    assert "60 tokens in" in chromium.evaluate("document.querySelector('small').textContent")
    assert chromium.faults() == []


@pytest.mark.skipif(not SITE.exists(), reason="the documentation is not built: make docs")
@pytest.mark.parametrize("size, dark", VIEWS)
def test_the_front_page_of_the_documentation_is_shown_without_faults(chromium, site, size, dark):
    chromium.open(site, size, dark)
    wanted = "slate" if dark else "default"
    chromium.wait_until(f"document.body.getAttribute('data-md-color-scheme') == '{wanted}'")
    assert chromium.faults() == []


def test_numbers_of_a_figure_are_saved_from_the_page(chromium, run_page, tmp_path):
    chromium.open(run_page.as_uri())
    chromium.save_downloads(tmp_path)
    chromium.evaluate("document.querySelector('a.data').click()")
    chromium.wait_for(tmp_path / "loss.csv")
    lines = (tmp_path / "loss.csv").read_text(encoding="utf-8").split("\n")
    assert lines[0] == "series,step,nats per target token" and lines[1] == "training,10,1.904837"


def test_figures_as_files_are_shown_without_faults(chromium, run_page, tmp_path):
    write_figures(tmp_path, figures_of(read_run(run_page.parent)), "Prefix tuning of a model on some data")
    names = sorted(path.name for path in tmp_path.glob("*.svg"))
    assert len(names) > 15
    shown = "".join(f"<div>{(tmp_path / name).read_text(encoding='utf-8')}</div>" for name in names)
    page = tmp_path / "all.html"
    page.write_text(f"<!doctype html><meta charset=utf-8><html lang=en><body>{shown}", encoding="utf-8")
    for dark in (False, True):
        chromium.open(page.as_uri(), DESK, dark)
        assert [fault for fault in chromium.faults() if "contrast" not in fault] == []


FAULTY = {
    "overlaps": "<p>one text</p><p style='margin-top: -2.2em'>another text</p>",
    "is cut by": "<div style='width: 60px; overflow: hidden; white-space: nowrap'>a text that is too long</div>",
    "without a hint": "<div style='width: 60px; overflow: auto; white-space: nowrap'>a text that is too long</div>",
    "wide on a screen": "<div style='width: 3000px'>wide</div>",
    "a contrast of": "<p style='color: #999'>grey on white</p>",
    "pixels high": "<p style='font-size: 6px'>tiny</p>",
    "lies outside": "<p style='position: absolute; left: -60px'>outside on the left</p>",
}


@pytest.mark.parametrize("said", FAULTY)
def test_each_fault_is_found(chromium, tmp_path, said):
    page = tmp_path / "page.html"
    page.write_text(f"<!doctype html><html lang=en><body style='background: #fff; color: #000'>{FAULTY[said]}")
    chromium.open(page.as_uri())
    assert any(said in fault for fault in chromium.faults())


def test_turned_texts_overlap_where_their_letters_do(chromium, tmp_path):
    page = tmp_path / "page.html"
    draw = "<svg width=300 height=300><text transform='translate(20 200) rotate(-50)'>one name</text>" \
           "<text transform='translate({} 200) rotate(-50)'>another name</text></svg>"  # fmt: skip
    for distance, overlap in ((50, False), (24, True)):
        page.write_text(f"<!doctype html><html lang=en><body style='background: #fff'>{draw.format(distance)}")
        chromium.open(page.as_uri())
        assert any("overlaps" in fault for fault in chromium.faults()) == overlap


def test_where_no_browser_is_these_tests_are_skipped(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(pytest.skip.Exception, match="install one of chromium"), browser():
        pass
