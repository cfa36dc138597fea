"""report.html of a synthetic run directory: it parses, escapes, fetches nothing and bears missing or broken files."""

import csv
import json
import math
import re
import shlex
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from prefix_jax import cli, train
from prefix_jax.config import default_config
from prefix_jax.errors import UserError
from prefix_jax.options import flat
from prefix_jax.reporting import __main__ as command
from prefix_jax.reporting.export import write_figures
from prefix_jax.reporting.figures import Figure, Matrix
from prefix_jax.reporting.report import figures_of, write_report
from prefix_jax.reporting.run import read_run
from prefix_jax.reporting.sections.options import command_lines, without_recipe
from tests import report_runs
from tests.report_runs import record

EVIL = "<script>alert('x')</script><img src=http://evil.example/a.png onerror=alert(1)>\"'&\x00\x1b[31m\ud800"
VOID = {"meta", "link", "br", "hr", "img", "input"}


class Page(HTMLParser):
    """A strict reading: every element closed in order; keeps elements, attributes and text."""

    def __init__(self, path: Path):
        super().__init__(convert_charrefs=True)
        self.open, self.elements, self.texts = [], [], []
        self.feed(path.read_text(encoding="utf-8"))
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.texts.append((self.open[-1], data))

    @property
    def text(self) -> str:
        return "\n".join(data for _, data in self.texts)

    def all(self, tag: str) -> list[dict]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture
def workdir(tmp_path) -> Path:
    return report_runs.write_run(tmp_path / "run")


def test_the_page_holds_what_the_run_directory_says(workdir):
    page = Page(write_report(workdir))
    assert ("title", "Prefix tuning of flan-t5-small on e2e") in page.texts
    for said in ("6,310,912", "245,760", "76,961,152", "0.32 %", "64.31", "+63.07", "\u22120.49", "630 records",
                 "The Eagle serves Japanese food .", "Tuned text .", "Lowest validation loss 1, at step 1,000.",
                 "prefix.length", "git checkout 3f1d8c9ab0172ee5\n", "0.10.2", "1,000 steps", "7 min of training",
                 "python -m prefix_jax.train --config configs/e2e.py --workdir runs/e2e"):  # fmt: skip
        assert said in page.text, said
    # The test split opens the page though validation comes first in the file; lower TER is better.
    assert "630 test records" in page.text
    assert sum(attributes.get("class") == "worse" for attributes in page.all("span")) == 0
    charts = [attributes for attributes in page.all("svg") if attributes["class"].startswith("chart")]
    assert len(charts) == 2 + 3 + 6


def test_a_run_that_looks_failed_says_so_in_a_box_and_nothing_in_it_is_better(workdir):
    assert "This run looks failed" not in Page(write_report(workdir)).text
    scores = json.loads((workdir / "scores.json").read_text())
    scores["test"]["verdict"] = [{"finding": "outputs_alike", "detail": "all 630 outputs are alike: <b>"}]
    scores["test"]["not_measured"] = {"NIST": "no word is rarer than another"}
    (workdir / "scores.json").write_text(json.dumps(scores))
    page = Page(write_report(workdir))
    assert "This run looks failed" in page.text and "All 630 outputs are alike: <b>." in page.text
    assert sum(attributes.get("class") == "better" for attributes in page.all("span")) == 0
    assert "No NIST: no word is rarer than another." in page.text


def test_a_plain_text_has_a_table_of_its_own(workdir):
    scores = json.loads((workdir / "scores.json").read_text())
    losses = {"loss_bare": 3.0, "loss_tuned": 3.25, "perplexity_bare": 20.09, "change": 0.25}
    for split in scores:  # the same text for both
        scores[split]["forgetting"] = {"file": "<wiki>.txt", "checksum": "ab", "tokens": 12345, **losses}
    (workdir / "scores.json").write_text(json.dumps(scores))
    page = Page(write_report(workdir))
    assert page.text.count("Plain text <wiki>.txt, 12,345 tokens predicted") == 1
    assert ("span", "+0.250") in page.texts
    assert sum(attributes.get("class") == "worse" for attributes in page.all("span")) == 1
    for damaged in ([], {"change": "x"}, {"change": 0.5, "file": [1]}):
        scores["test"]["forgetting"] = damaged
        (workdir / "scores.json").write_text(json.dumps(scores))
        Page(write_report(workdir))


def test_losses_above_the_bare_models_are_enough_for_the_box(workdir):
    with open(workdir / "metrics.jsonl", "a") as file:
        file.write('{"step": 1000, "validation_loss": 1.1, "bare_validation_loss": 1.05}\n')
    assert "at step 1000, 1.1, is above the bare model's, 1.05." in Page(write_report(workdir)).text


def test_the_page_is_accessible(workdir):
    page = Page(write_report(workdir))
    assert page.all("html") == [{"lang": "en"}]
    assert len(page.all("h1")) == 1 and len(page.all("main")) == 1
    assert page.all("table") and len(page.all("caption")) == len(page.all("table"))
    assert all(attributes.get("scope") in ("row", "col") for attributes in page.all("th"))
    for svg in page.all("svg"):
        assert svg.get("aria-hidden") == "true" or (svg["role"] == "img" and len(svg["aria-label"]) > 10)
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    for _, attributes in page.elements:
        assert attributes.get("aria-labelledby", ids[0]) in ids
    links = [link for link in page.all("a") if "download" not in link]
    assert all(link["href"].startswith("#") and link["href"][1:] in ids for link in links)
    scrolling = [one for one in page.all("div") if one.get("class") == "scroll"]
    assert scrolling and all(one["tabindex"] == "0" and one["aria-label"] for one in scrolling)


def luminance(colour: str) -> float:
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_text_contrast_reaches_wcag_aa_in_light_and_dark():
    from prefix_jax.reporting.svg.theme import STYLE

    themes = [
        dict(re.findall(r"--(\w+): (#[0-9a-fA-F]{6})", block)) for block in re.findall(r":root {(.*?)}", STYLE, re.S)
    ]
    assert len(themes) == 2 and themes[0].keys() == themes[1].keys()
    for theme in themes:
        for text in ("ink", "soft", "accent", "worse"):
            for ground in ("page", "card", "wash") if text in ("ink", "accent") else ("page", "card"):
                light, dark = sorted((luminance(theme[text]), luminance(theme[ground])), reverse=True)
                assert (light + 0.05) / (dark + 0.05) >= 4.5, (text, ground)


def test_the_page_fetches_and_runs_nothing(workdir):
    path = write_report(workdir)
    page = Page(path)
    assert not {tag for tag, _ in page.elements} & {
        "script",
        "link",
        "img",
        "iframe",
        "object",
        "embed",
        "base",
        "form",
    }
    names = {name for _, attributes in page.elements for name in attributes}
    assert not names & {"src", "srcset", "xlink:href", "action", "style"} and not any(n.startswith("on") for n in names)
    text = path.read_text()
    assert not re.search(r"https?://|url\(|@import|//[a-z]", text)
    (policy,) = [meta["content"] for meta in page.all("meta") if "http-equiv" in meta]
    assert policy.startswith("default-src 'none'")


def test_malicious_text_is_shown_and_not_obeyed(workdir):
    config = default_config().to_dict()
    config["model"]["source"], config["data"]["task"], config["method"] = EVIL, EVIL, EVIL
    config[EVIL] = {EVIL: EVIL}
    evil = record(config=config, versions={EVIL: EVIL}, commit=EVIL, command=EVIL, started=EVIL, platform=EVIL)
    (workdir / "config.json").write_text(json.dumps(evil))
    scores = {"task": EVIL, "records": EVIL, "tuned": {EVIL: 1.0}, "bare": {EVIL: 2.0}, "decoding": {"strategy": EVIL}}
    (workdir / "scores.json").write_text(json.dumps({EVIL: scores}))
    sample = {"source": EVIL, "references": [EVIL, EVIL], "tuned": EVIL, "bare": EVIL}
    (workdir / "samples.jsonl").write_text(json.dumps(sample) + "\n")
    about = {"layers": {"encoder": [EVIL] * 4}, "length": EVIL, "sites": [EVIL], "model": EVIL}
    (workdir / "tuned" / "prefix.json").write_text(json.dumps(about))
    path = write_report(workdir)
    page, text = Page(path), path.read_text(encoding="utf-8")
    assert not {tag for tag, _ in page.elements} & {"script", "img"}
    assert not any(name.startswith("on") for _, attributes in page.elements for name in attributes)
    assert "<script" not in text and not set("\x00\x1b") & set(text)
    assert page.text.count("<script>alert('x')</script>") > 10


@pytest.mark.parametrize(
    "missing", ["metrics.jsonl", "scores.json", "samples.jsonl", "tuned/prefix.json", "tuned/prefix.safetensors"]
)
def test_a_missing_file_leaves_a_sensible_page(workdir, missing):
    (workdir / missing).unlink()
    page = Page(write_report(workdir))
    assert "Prefix tuning of flan-t5-small on e2e" in page.text
    assert not any(attributes.get("class") == "notes" for attributes in page.all("aside"))
    if missing == "scores.json":
        assert "Not scored yet" in page.text and "prefix_jax.evaluate" in page.text
    if missing == "metrics.jsonl":
        assert "No metrics yet" in page.text


@pytest.mark.parametrize(
    "config",
    [{}, {"config": {}}, {"config": None, "versions": None, "parameters": None}, {"config": {"method": "lora"}}],
)
def test_the_barest_record_is_enough(tmp_path, config):
    (tmp_path / "config.json").write_text(json.dumps(config))
    page = Page(write_report(tmp_path))
    assert "None" not in page.text and "Not scored yet" in page.text


def test_a_torn_metrics_line_is_left_out_and_said(workdir):
    before = len(read_run(workdir).metrics)
    with open(workdir / "metrics.jsonl", "a") as file:
        file.write('{"step": 1010, "loss": 0.')
    run = read_run(workdir)
    assert len(run.metrics) == before and run.notes == ["Left out 1 line of metrics.jsonl that could not be read."]
    assert run.notes[0] in Page(write_report(workdir)).text


@pytest.mark.parametrize(
    "name", ["scores.json", "samples.jsonl", "tuned/prefix.json", "tuned/prefix.safetensors", "metrics.jsonl"]
)
@pytest.mark.parametrize(
    "content", [b"", b"\xff\xfe\x00", b"[1, 2]\n", b'{"test": 3}\n', b'{"test": {"tuned": [1]}}', b"{"]
)
def test_a_broken_file_never_breaks_the_page(workdir, name, content):
    (workdir / name).write_bytes(content)
    assert "Prefix tuning of flan-t5-small on e2e" in Page(write_report(workdir)).text


def test_non_finite_numbers_are_gaps_and_said(workdir):
    losses = [2.0, "NaN", None, "Infinity", 1.0, True, "many"]
    lines = [*({"step": i + 1, "loss": loss} for i, loss in enumerate(losses)), {"loss": 3.0}]
    (workdir / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    steps, losses = read_run(workdir).curve("loss")
    assert steps == [1, 2, 3, 4, 5] and [math.isfinite(loss) for loss in losses] == [True, False, False, False, True]
    assert "At 3 logged steps the loss was not a finite number." in Page(write_report(workdir)).text


def test_pictures_are_mean_norms_relative_where_the_scale_is_known(workdir):
    key = np.zeros((2, 3, 5, 4), np.float32)
    key[1, 2] = 3.0
    save_file({"decoder.key": key, "decoder.value": key}, workdir / "tuned" / "prefix.safetensors")
    (workdir / "tuned" / "prefix.json").write_text(json.dumps({"layers": [0, 7]}))
    (picture,) = read_run(workdir).pictures
    assert picture.layers == (0, 7) and not picture.relative
    assert picture.key.tolist() == [[0, 0, 0], [0, 0, 6.0]]
    scale = {"decoder": [[2.0] * 3] * 2}
    about = {"layers": {"decoder": [1, 3]}, "model_key_norm": scale, "model_value_norm": scale}
    (workdir / "tuned" / "prefix.json").write_text(json.dumps(about))
    (picture,) = read_run(workdir).pictures
    assert picture.relative and picture.key[1, 2] == 3.0 and picture.layers == (1, 3)


@pytest.mark.parametrize("content", [None, "", "{", "[]", "3"])
def test_no_record_is_named_with_the_mend(tmp_path, content, capsys):
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(UserError, match="config.json.*--workdir"):
        write_report(tmp_path)
    assert cli.call(command.main, command.define_flags, ["--workdir", str(tmp_path)]) == 2
    assert "config.json" in capsys.readouterr().err
    assert not (tmp_path / "report.html").exists()


def test_an_older_page_survives_a_failed_write(workdir, monkeypatch):
    path = write_report(workdir)
    before = path.read_bytes()

    def full(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(UserError, match="report.html: no space left on device; free some space"):
        write_report(workdir)
    assert path.read_bytes() == before
    assert not [p for p in workdir.iterdir() if p.name.endswith(".tmp")]


def test_the_command_line(workdir):
    command = [sys.executable, "-m", "prefix_jax.reporting", "--workdir", str(workdir)]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(workdir / "report.html") and (workdir / "report.html").stat().st_size > 10_000
    command[-1] = str(workdir / "nowhere")
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert done.returncode == 2 and "Traceback" not in done.stderr and len(done.stderr.splitlines()) == 1


def test_a_long_run_makes_no_huge_page(workdir):
    with open(workdir / "metrics.jsonl", "w") as file:
        for step in range(50_000):
            file.write(json.dumps({"step": step, "loss": 1.0 + step % 7, "gradient_norm": 1.0}) + "\n")
    assert write_report(workdir).stat().st_size < 400_000


def test_all_maps_of_a_page_have_layers_across_and_one_scale_for_a_kind(workdir):
    figures = figures_of(read_run(report_runs.write_more(workdir)))
    maps = {figure.name: figure.drawn for figure in figures if isinstance(figure.drawn, Matrix)}
    maps = {name: drawn for name, drawn in maps.items() if drawn.row_label == "head"}
    assert len(maps) == 6 + 2 and {drawn.column_label for drawn in maps.values()} == {"layer"}
    for kind in ("keys", "values", "attention"):
        scales = [drawn.scale for name, drawn in maps.items() if kind in name]
        assert len(scales) >= 2 and len(set(scales)) == 1
    attention = maps["attention_to_the_prefix_encoder"]
    assert (len(attention.values), len(attention.values[0])) == (4, 6)
    assert attention.values[1][0] == 100 * report_runs.inspection()["prefix_share"]["encoder"][0][1]


def test_the_caption_of_attention_is_right_in_dark_mode_too(workdir):
    page = Page(write_report(report_runs.write_more(workdir)))
    assert "the stronger the colour, the more" in page.text and "darker" not in page.text


def test_a_conversation_is_shown_by_its_turns(workdir):
    page = Page(write_report(report_runs.write_more(workdir)))
    assert '"messages"' not in page.text and '{"' not in page.text
    said = [text for _, text in page.texts]
    for role, text in (("system", "You are a guide."), ("user", "When was it built?")):
        assert said[said.index(text) - 1] == role
    damaged = '{"messages": [3, {"role": 4}]}'
    (workdir / "samples.jsonl").write_text(json.dumps({"source": damaged, "tuned": "x"}) + "\n")
    assert damaged in Page(write_report(workdir)).text


def test_a_metric_without_a_largest_value_has_bars_only_beside_the_bare_models(workdir):
    assert len(bars_of(write_report(workdir))) == 2  # BLEU, TER: bare and tuned
    scores = {"test": {"tuned": {"CIDEr": 2.5, "BLEU": 64.0}}}
    (workdir / "scores.json").write_text(json.dumps(scores))
    (only,) = bars_of(write_report(workdir))
    assert re.findall(r'class="bar tuned" [^>]*width="([\d.]+)"', only) == ["128.0"]  # of 200, for BLEU's 100


def bars_of(path: Path) -> list[str]:
    return re.findall(r'<svg class="bars".*?</svg>', path.read_text())


def test_numbers_of_figures_are_those_of_the_run(workdir):
    figures = {figure.name: figure for figure in figures_of(read_run(report_runs.write_more(workdir)))}
    rows = list(csv.reader(figures["loss"].csv().split("\n")[:-1]))
    assert rows[0] == ["series", "step", "nats per target token"]
    assert ["validation", "1000", "1"] in rows and sum(row[0] == "training" for row in rows) == 95
    rows = list(csv.reader(figures["confusion_tuned"].csv().split("\n")[:-1]))
    assert rows[1] == ["open", "open", "69.23077"]  # 9 of 13
    odd = Figure("a", "a", None, ["x", "y"], [[math.nan, 1.5], ["a,b", "\ud800"]])
    assert odd.csv() == 'x,y\n,1.5\n"a,b",\ufffd\n'


def test_how_to_reproduce_drops_nothing(workdir):
    scores = json.loads((workdir / "scores.json").read_text())
    scores["test"]["command"] = "python -m prefix_jax.evaluate --workdir w --split test --limit 9 --spread --bare"
    (workdir / "scores.json").write_text(json.dumps(scores))
    (workdir / "inspection.json").write_text(
        json.dumps({"split": "test", "records": 7, "change": 0.5, "changed_words": 0.5})
    )
    lines = command_lines(read_run(workdir))
    assert lines[0] == "git checkout 3f1d8c9ab0172ee5" and lines[1].startswith("# its files had changes")
    assert lines[2:4] == [record()["command"], scores["test"]["command"]]
    assert lines[4].endswith("--split test --limit 7") and "prefix_jax.inspect" in lines[4]
    (workdir / "config.json").write_text(json.dumps(record(given={"optimizer": "lion"})))
    assert any("given in Python" in line for line in command_lines(read_run(workdir)))


def test_a_run_without_its_recipe_has_the_same_options(workdir, monkeypatch):
    config = default_config()
    config.data.update(task="text", path="rows with 'quotes'.jsonl", source_format="{title}: {body}", limit=7)
    config.model.source, config.method = "flan-t5-small", "prefix+lora"
    config.prefix.update(sites="encoder,cross", length=3)
    config.optimizer.learning_rate, config.training.tensorboard = 1e-05, False
    (workdir / "config.json").write_text(json.dumps(record(config=config.to_dict())))
    words = shlex.split(shlex.join(without_recipe(read_run(workdir))))
    found = {}

    def keep(options):
        found.update(cli.configured(options).to_dict())

    monkeypatch.setattr(sys, "argv", ["train", *words[3:]])
    assert cli.call(keep, train.define_flags, words[3:]) == 0
    assert flat(found) == flat(config.to_dict())


def test_figures_are_written_as_files(workdir, tmp_path, capsys):
    words = ["--workdir", str(workdir), "--figures", str(tmp_path / "figures")]
    assert cli.call(command.main, command.define_flags, words) == 0
    text = (tmp_path / "figures" / "loss.svg").read_text(encoding="utf-8")
    assert "Loss. Prefix tuning of flan-t5-small on e2e." in text
    assert str(tmp_path / "figures" / "loss.csv") in capsys.readouterr().out
    words = ["--workdir", str(report_runs.write_sweep(tmp_path / "sweep")), "--figures", str(tmp_path / "swept")]
    assert cli.call(command.main, command.define_flags, words) == 0
    rows = list(csv.reader((tmp_path / "swept" / "BLEU.csv").read_text().split("\n")[:-1]))
    assert rows[0] == ["series", "prefix length", "BLEU", "standard deviation"]
    assert rows[1] == ["learning_rate 0.001", "1", "42", "2.12132"]
    (workdir / "config.json").write_text(json.dumps(record()))
    for name in ("metrics.jsonl", "tuned/prefix.safetensors"):
        (workdir / name).unlink()
    assert cli.call(command.main, command.define_flags, ["--workdir", str(workdir), "--figures", "x"]) == 2
    assert "there are no figures yet" in capsys.readouterr().err


def test_figures_are_drawn_for_papers(workdir, tmp_path):
    pytest.importorskip("matplotlib")
    figures = figures_of(read_run(report_runs.write_more(workdir)))
    paths = [path for path in write_figures(tmp_path, figures, "A run") if path.suffix == ".pdf"]
    assert len(paths) > 10 and all(path.read_bytes().startswith(b"%PDF") for path in paths)
    assert b"Title (Loss. A run.)" in (tmp_path / "loss.pdf").read_bytes()
