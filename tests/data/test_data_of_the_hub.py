"""Data sets of the hub, as `datasets` itself loads them from a hub on this machine, in a process of its own."""

import io
import json
import subprocess
import sys

import pytest

from tests.conftest import ROOT
from tests.loopback_hub import LoopbackHub

XSUM = "EdinburghNLP/xsum"
SUMMARIES = [{"document": f"text {i}", "summary": f"sum {i}", "id": str(i)} for i in range(3)]
PROBLEMS = [{"question": f"How many {i}?", "answer": f"#### {i}"} for i in range(600)]
CONFIGS = "---\nconfigs:\n- config_name: main\n  data_files:\n  - split: train\n    path: main/train-*\n---\n"
MEANINGS = [{"meaning_representation": "name[Gull], food[French]", "human_reference": "Gull is French."}]
TRIPLES = [
    {
        "category": "Food", "eid": "Id1", "lex": {"text": ["A has b."], "lid": ["Id1"], "comment": ["good"]},
        "modified_triple_sets": {"mtriple_set": [["A | has | b"]]},
        "original_triple_sets": {"otriple_set": [["A | has | b"]]},
    }
]  # fmt: skip


def parquet(rows: list[dict]) -> bytes:
    import pyarrow
    from pyarrow import parquet as files

    out = io.BytesIO()
    files.write_table(pyarrow.Table.from_pylist(rows), out)
    return out.getvalue()


@pytest.fixture(scope="module")
def hub():
    """Sets as the hub has them: by split, with configurations, and with a script and a branch that it converted."""
    with LoopbackHub() as server:
        name = "data/{}-00000-of-00001.parquet".format
        server.add(XSUM, {name("train"): parquet(SUMMARIES), name("test"): parquet(SUMMARIES[:1])}, "datasets")
        server.add(
            "openai/gsm8k", {"README.md": CONFIGS, "main/train-00000-of-00001.parquet": parquet(PROBLEMS)}, "datasets"
        )
        for set, configuration, rows in (
            ("tuetschek/e2e_nlg", "default", MEANINGS), ("webnlg-challenge/web_nlg", "webnlg_challenge_2017", TRIPLES),
        ):  # fmt: skip
            server.add(set, {f"{set.split('/')[1]}.py": "raise SystemExit"}, "datasets")
            files = {f"{configuration}/{split}/0000.parquet": parquet(rows) for split in ("train", "dev")}
            files |= {"release_v1/full/0000.parquet": parquet(TRIPLES)}
            server.add(set, files, "datasets", ref="refs/convert/parquet")
        yield server


class Reader:
    """A process that reads splits of tasks."""

    def __init__(self, hub, home, **variables):
        command = [sys.executable, str(ROOT / "tests" / "data" / "of_the_hub.py")]
        pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        self.process = subprocess.Popen(
            command, **pipes, text=True, cwd=home, env=hub.environment(home, PYTHONPATH=str(ROOT), **variables)
        )

    def __call__(self, question: str) -> dict:
        self.process.stdin.write(f"{question}\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def close(self):
        self.process.communicate()


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def read(hub, home):
    reader = Reader(hub, home)
    yield reader
    reader.close()


@pytest.fixture(autouse=True)
def whole(hub):
    yield
    hub.forget()


def test_splits(read):
    found = read("xsum train")
    assert [record[0] for record in found["records"]] == [row["document"] for row in SUMMARIES]
    assert f"{XSUM} from the hub (revision " in found["name"]
    assert len(read("xsum test")["records"]) == 1
    assert 'Unknown split "validation"' in read("xsum validation")["error"]


def test_configurations_and_parts_of_splits(read):
    assert [len(read(f"gsm8k {split}")["records"]) for split in ("train", "validation")] == [100, 500]


def test_sets_with_a_script_come_from_the_branch_that_the_hub_converted(hub, read):
    found = read("e2e train")
    assert found["records"] == [["name : Gull | food : French", "Gull is French."]]
    assert hub.repositories["datasets", "tuetschek/e2e_nlg"].refs["refs/convert/parquet"] in found["name"]
    assert [len(read(f"webnlg {split}")["records"]) for split in ("train", "validation")] == [1, 1]
    assert "has not converted its split test" in read("webnlg test")["error"]
    hub.fail(".", 500)
    assert [len(read(f"webnlg {split}")["records"]) for split in ("train", "validation")] == [1, 1]


def test_what_is_in_the_cache_serves_without_the_hub(hub, read, home):
    for status in (0, 403, 500):
        hub.forget()
        hub.fail(".", status)
        found = read("gsm8k train")
        assert len(found["records"]) == 100 and found["waited"] < 6
    hub.forget()
    offline = Reader(hub, home, HF_HUB_OFFLINE="1")
    assert len(offline("gsm8k train")["records"]) == 100 and not hub.asked
    assert "HF_HUB_OFFLINE is set" in offline("dart train")["error"]
    offline.close()


@pytest.mark.parametrize(
    ("place", "status", "words"),
    [
        ("cnn_dailymail", 403, "has no right to it"),
        ("cnn_dailymail", 429, "takes no more requests for now"),
        ("cnn_dailymail", 500, "an error of its own (500)"),
        ("cnn_dailymail", 0, "connection to the hub was cut"),
        ("HEAD .*resolve", 0, "connection to the hub was cut"),
        ("GET .*tree", 403, "has no right to it"),
        ("GET /objects", 500, "an error of its own (500)"),
    ],
)
def test_failures(hub, read, place, status, words):
    hub.add("abisee/cnn_dailymail", {"3.0.0/train-00000-of-00001.parquet": parquet(SUMMARIES)} | {
        "README.md": CONFIGS.replace("main", "3.0.0")}, "datasets")  # fmt: skip
    hub.fail(place, status)
    said = read("cnn_dm train")["error"]
    for part in ("abisee/cnn_dailymail", words, "--config.data.path"):
        assert part in said
    assert "\n" not in said and "LocalEntryNotFound" not in said


def test_a_connection_that_is_cut_once_is_made_again(hub, read):
    hub.add("Yale-LILY/dart", {"data/train.parquet": parquet([{"a": "1"}])}, "datasets")
    hub.fail("HEAD .*resolve", 0, times=1)
    assert "cut" not in read("dart train").get("error", "")


def test_sets_that_are_not_for_this_user(hub, read, home):
    hub.add("rajpurkar/squad", {"data/train.parquet": parquet(SUMMARIES)}, "datasets", gated=True)
    assert 'the dataset "rajpurkar/squad" is gated' in read("squad train")["error"]
    assert 'the hub has no dataset "rajpurkar/squad_v2" (if private, ' in read("squad_v2 train")["error"]
    stranger = Reader(hub, home, HF_TOKEN="hf_wrong")
    assert "does not accept the token" in stranger("cnn_dm train")["error"]
    stranger.close()
