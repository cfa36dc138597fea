"""`prefix-jax serve` as a process: what it says, how it ends, and what it refuses."""

import contextlib
import http.client
import json
import re
import signal
import subprocess
import sys
import threading
import urllib.request

import pytest

from prefix_jax import cli, serve
from tests.serving.conftest import PAIRS
from tests.test_house import ROOT

pytest.importorskip("starlette")


def asked(url, **body):
    data = json.dumps({"model": "late", "prompt": PAIRS[0][0], "temperature": 0, **body}).encode()
    request = urllib.request.Request(f"{url}/v1/completions", data, {"content-type": "application/json"})
    return urllib.request.urlopen(request, timeout=120)


@contextlib.contextmanager
def command(served, port=0):
    """Runs the command; yields its process and its address. A process that still runs is killed."""
    model, _, folder = served
    words = ["-m", "prefix_jax.serve", f"--model={model}", f"--tuned=formal={folder / 'formal'}", f"--port={port}"]
    words += [f"--tuned-dir={folder / 'dir'}", "--context=128", "--nowarm"]
    process = subprocess.Popen([sys.executable, *words], cwd=ROOT, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        said = next(line for line in process.stderr if "serving" in line)
        assert re.match(r"serving tiny-llama with formal, late, lora, prompt on http://127\.0\.0\.1:\d+ \(Ctrl-C", said)
        yield process, re.search(r"http://\S+", said)[0]
    finally:
        process.kill()
        process.wait()


def test_it_serves_until_it_is_told_to_end_and_ends_what_runs(served):
    with command(served) as (process, url):
        with asked(url, max_tokens=2) as answer:
            assert json.load(answer)["choices"][0]["finish_reason"] in ("length", "stop")
        with asked(url, max_tokens=60, min_tokens=60, stream=True) as stream:
            stream.readline()
            process.send_signal(signal.SIGTERM)
            assert stream.read().endswith(b"data: [DONE]\n\n")
        rest: list[str] = []
        reader = threading.Thread(target=lambda: rest.extend(process.stderr))
        reader.start()
        assert process.wait(60) in (0, -signal.SIGTERM, 128 + signal.SIGTERM)
        reader.join()
    assert "Traceback" not in "".join(rest)
    lines = [json.loads(line) for line in rest if line.startswith("{")]
    assert lines and all(line["status"] == 200 and line["id"] for line in lines)


@pytest.mark.slow
def test_clients_and_servers_that_are_killed(served):
    """A killed client disturbs nobody; a killed server ends its streams, and answers again where it is restarted."""
    long = dict(max_tokens=100, min_tokens=100, stream=True)
    with command(served) as (process, url):
        port = url.rpartition(":")[2]
        with asked(url, max_tokens=30) as answer:
            before = json.load(answer)["choices"]
        one = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from tests.serving.test_command import asked\n"
        one += f"stream = asked({url!r}, **{long!r}); print(stream.readline(), flush=True); stream.read()"
        client = subprocess.Popen([sys.executable, "-c", one], stdout=subprocess.PIPE)
        assert client.stdout is not None and client.stdout.readline().startswith(b"b'data")
        with asked(url, **long) as stream:
            client.kill()
            assert stream.read().endswith(b"data: [DONE]\n\n")
        client.wait()
        with asked(url, **long) as stream:
            stream.readline()
            process.kill()
            with contextlib.suppress(http.client.IncompleteRead, ConnectionError):
                assert b"[DONE]" not in stream.read()
    with command(served, port) as (_, url), asked(url, max_tokens=30) as answer:
        assert json.load(answer)["choices"] == before


MISTAKES = [
    ([], "--model is missing"),
    (["--tuned=runs/a"], "has no name; give it one, as --tuned formal=runs/a"),
    (["--model={model}", "--tuned_dir={folder}/nothing"], "is not a directory"),
    (["--model={model}", "--tuned=a={folder}/nothing"], "nothing"),
    (["--model={model}", "--tuned=a={folder}/adapter"], "the server takes prefixes, prompts and LoRA"),
    (["--model={model}", "--tuned=a+b={folder}/formal"], "cannot be the name of a tuned state"),
    (["--model={model}", "--tuned=tiny-llama={folder}/formal", "--nowarm"], "name of the model and of a prefix"),
    (["--model={model}", "--tuned=a={folder}/casual", "--max_prefix=4"], "has 9 virtual tokens"),
    (["--model={model}", "--host=256.1.1.1", "--nowarm"], "cannot listen on 256.1.1.1:8000"),
]


@pytest.mark.parametrize(("words", "said"), MISTAKES)
def test_a_mistake_has_one_sentence(words, said, served, capsys):
    model, _, folder = served
    argv = [word.format(model=model, folder=folder) for word in words]
    assert cli.call(serve.main, serve.define_flags, argv) == 2
    err = capsys.readouterr().err
    assert said in err.strip().split("\n")[-1]
