"""The hub, as huggingface_hub's own client speaks to it: a server here plays its part."""

import hashlib
import http.server
import json
import re
import threading
from pathlib import Path

import pytest

from prefix_jax.errors import UserError
from prefix_jax.models import pretrained
from tests.models.pretrained import hf

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def _oid(path: Path) -> str:
    return hashlib.sha1(path.read_bytes()).hexdigest()


class _Hub(http.server.BaseHTTPRequestHandler):
    files: Path
    asked: list[str]

    def do_HEAD(self):
        self.do_GET(body=False)

    def do_GET(self, body: bool = True):
        parts = self.path.split("?")[0].strip("/").split("/")
        if parts[:4] == ["api", "models", "someone", "gated"] or parts[:2] == ["someone", "gated"]:
            return self._answer(403, b"{}", body, **{"X-Error-Code": "GatedRepo", "X-Error-Message": "gated"})
        if parts[:4] == ["api", "models", "someone", "small"]:
            if "tree" in parts:
                paths = [p for p in sorted(self.files.rglob("*")) if p.is_file()]
                entries = [
                    {"type": "file", "path": str(p.relative_to(self.files)), "size": p.stat().st_size, "oid": _oid(p)}
                    for p in paths
                ]
                return self._answer(200, json.dumps(entries).encode(), body)
            names = [str(p.relative_to(self.files)) for p in sorted(self.files.rglob("*")) if p.is_file()]
            info = {"id": "someone/small", "sha": COMMIT, "siblings": [{"rfilename": n} for n in names]}
            return self._answer(200, json.dumps(info).encode(), body)
        file = self.files / "/".join(parts[4:])
        if parts[:3] == ["someone", "small", "resolve"] and file.is_file():
            data = file.read_bytes()
            if body:
                self.asked.append(file.name)
            return self._answer(200, data, body, **{"ETag": f'"{_oid(file)}"', "X-Repo-Commit": COMMIT})
        return self._answer(404, b"{}", body, **{"X-Error-Code": "RepoNotFound"})

    def _answer(self, code: int, data: bytes, body: bool, **headers: str):
        self.send_response(code)
        for name, value in ({"Content-Length": str(len(data)), "Content-Type": "application/json"} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(data)

    def log_message(self, *_):
        pass


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A server of one model, and a function that loads from it, or from an address where nothing answers."""
    pytest.importorskip("torch")
    files = tmp_path / "files"
    handler = type("Handler", (_Hub,), {"files": files, "asked": []})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)

    def load(source: str, port: int = server.server_port) -> pretrained.Pretrained:
        address = f"http://127.0.0.1:{port}"
        template = address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
        return pretrained.load(source)

    yield files, handler.asked, load
    server.shutdown()
    server.server_close()


def test_a_model_of_the_hub(hub):
    """Only what is needed is brought, its commit is remembered, and without the hub its cache serves."""
    files, asked, load = hub
    hf.save(hf.random_model("gpt2"), files, "sharded")
    for other in ("pytorch_model.bin", "tf_model.h5", "flax_model.msgpack", "onnx/model.onnx", "README.md"):
        (files / other).parent.mkdir(exist_ok=True)
        (files / other).write_bytes(b"not this one")
    first = load("someone/small")
    assert first.model_config.d_model == 24
    assert (first.identity["source"], first.identity["revision"]) == ("hub", COMMIT)
    assert pretrained.same_model(first.identity, pretrained.load(str(files)).identity)
    assert {"config.json", "model.safetensors.index.json"} <= set(asked)
    assert not set(asked) & {"pytorch_model.bin", "tf_model.h5", "flax_model.msgpack", "model.onnx", "README.md"}
    assert load("someone/small", port=1).identity == first.identity


def test_torch_files_where_there_are_no_safetensors(hub):
    files, asked, load = hub
    files.mkdir()
    hf.save(hf.random_model("gpt2"), files, "bin")
    assert load("someone/small").identity["source"] == "hub"
    assert "pytorch_model.bin" in asked


@pytest.mark.parametrize(
    ("source", "port", "words"),
    [
        ("someone/smal", None, 'the hub has no model "someone/smal"'),
        ("gpt2-mediun", None, 'did you mean "gpt2-medium"?'),
        ("someone/gated", None, "accept its terms"),
        ("someone/small", 1, "the hub cannot be reached"),
    ],
)
def test_names_the_hub_does_not_give(hub, source, port, words):
    _, _, load = hub
    with pytest.raises(UserError, match=re.escape(words)):
        load(source, **({"port": port} if port else {}))
