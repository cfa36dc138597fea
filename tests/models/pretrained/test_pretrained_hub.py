"""Models of the hub, as huggingface_hub's own client downloads them from a hub on this machine."""

import re

import pytest

from prefix_jax.errors import UserError
from prefix_jax.models import pretrained
from tests.loopback_hub import LoopbackHub, point_to
from tests.models.pretrained import hf


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A model in shards, with files of other libraries beside it."""
    pytest.importorskip("torch")
    folder = tmp_path_factory.mktemp("files")
    hf.save(hf.random_model("gpt2"), folder, "sharded")
    for other in ("pytorch_model.bin", "tf_model.h5", "flax_model.msgpack", "onnx/model.onnx", "README.md"):
        (folder / other).parent.mkdir(exist_ok=True)
        (folder / other).write_bytes(b"not this one")
    return folder


@pytest.fixture
def hub(tmp_path, monkeypatch, files):
    with LoopbackHub() as server, server.in_this_process(monkeypatch, tmp_path / "cache"):
        server.add("someone/small", files)
        server.add("someone/gated", files, gated=True)
        server.waits = []
        monkeypatch.setattr("time.sleep", server.waits.append)
        yield server


def test_a_model_of_the_hub(hub, files, monkeypatch):
    """Only what is needed is downloaded, its commit is recorded, and without the hub its cache serves."""
    first = pretrained.load("someone/small")
    assert first.model_config.d_model == 24
    commit = hub.repositories["models", "someone/small"].refs["main"]
    assert (first.identity["source"], first.identity["revision"]) == ("hub", commit)
    assert pretrained.same_model(first.identity, pretrained.load(str(files)).identity)
    sent = {name.split("/")[-1] for name in hub.bodies}
    assert {"config.json", "model.safetensors.index.json"} <= sent
    assert not sent & {"pytorch_model.bin", "tf_model.h5", "flax_model.msgpack", "model.onnx", "README.md"}
    hub.forget()
    assert pretrained.load("someone/small").identity == first.identity
    assert not hub.bodies and len(hub.asked) < 4
    point_to(monkeypatch, "http://127.0.0.1:1")
    assert pretrained.load("someone/small").identity == first.identity


def test_torch_files_where_there_are_no_safetensors(hub, tmp_path):
    (tmp_path / "bin").mkdir()
    hf.save(hf.random_model("gpt2"), tmp_path / "bin", "bin")
    hub.add("someone/torch", tmp_path / "bin")
    assert pretrained.load("someone/torch").identity["source"] == "hub"


def test_a_branch_that_moves_while_it_is_downloaded(hub, files, monkeypatch):
    """All files are those of one commit: what is pushed between two of them is not mixed in."""
    from prefix_jax import hub as client

    other = {"README.md": "moved"}
    fetch, before = client.Snapshot.fetch, hub.repositories["models", "someone/small"].refs["main"]

    def moving(self, *patterns):
        hub.add("someone/small", other)
        fetch(self, *patterns)

    monkeypatch.setattr(client.Snapshot, "fetch", moving)
    assert pretrained.load("someone/small").identity["revision"] == before


def test_a_revision_of_a_model(hub, tmp_path):
    (tmp_path / "other").mkdir()
    hf.save(hf.random_model("gpt2", seed=1), tmp_path / "other", "safetensors")
    hub.add("someone/small", tmp_path / "other", ref="v1")
    main, v1 = (pretrained.load(f"someone/small{at}").identity for at in ("", "@v1"))
    assert main["weights"] != v1["weights"] and v1["name"] == "someone/small@v1"
    commit = hub.repositories["models", "someone/small"].refs["v1"]
    assert pretrained.load(f"someone/small@{commit}").identity["weights"] == v1["weights"]
    with pytest.raises(UserError, match='"someone/small" has no revision "v2"'):
        pretrained.load("someone/small@v2")


@pytest.mark.parametrize("place", ["GET /api/models", "HEAD .*resolve", "GET .*(objects|resolve-cache)"])
@pytest.mark.parametrize("status", [0, 429, 500, 503])
def test_errors_that_pass_are_waited_for(hub, place, status):
    hub.fail(place, status, times=2)
    assert pretrained.load("someone/small").model_config.d_model == 24
    assert hub.waits or "HEAD" in place  # which is tried again at once


def test_a_hub_that_fails_is_replaced_by_its_cache(hub, capsys):
    first = pretrained.load("someone/small").identity
    for status in (0, 429, 500, 403):
        hub.forget()
        hub.fail(".", status)
        assert pretrained.load("someone/small").identity == first
        said = capsys.readouterr().err
        assert said.startswith("Using someone/small from the cache: ") and said.count("\n") == 1, said


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("someone/smal", 'the hub has no model "someone/smal" (if private, run: hf auth login, or set HF_TOKEN)'),
        ("gpt2-mediun", 'did you mean "gpt2-medium"?'),
        ("someone/a b", 'the hub has no model "someone/a b"'),
        ("someone/gated", "accept its terms at http"),
    ],
)
def test_names_the_hub_does_not_give(hub, source, words):
    with pytest.raises(UserError, match=re.escape(words)):
        pretrained.load(source)


@pytest.mark.parametrize("place", ["GET /api/models", "HEAD .*resolve", "GET .*(objects|resolve-cache)"])
@pytest.mark.parametrize(
    ("status", "words"),
    [
        (0, "the connection to the hub was cut"),
        (429, "takes no more requests for now"),
        (500, "an error of its own (500)"),
        (403, "has no right to it"),
    ],
)
def test_a_hub_that_fails_for_good(hub, place, status, words):
    hub.fail(place, status)
    with pytest.raises(UserError, match=re.escape(words)) as raised:
        pretrained.load("someone/small")
    assert "someone/small" in str(raised.value) and "\n" not in str(raised.value)


def test_what_is_downloaded_before_a_failure_is_kept(hub):
    hub.fail("GET .*objects", 500, times=1000)
    with pytest.raises(UserError):
        pretrained.load("someone/small")
    assert any("config.json" in path for path in hub.bodies)
    hub.forget()
    assert pretrained.load("someone/small").model_config.d_model == 24
    assert not any("/config.json" in path for path in hub.bodies)


def test_no_hub_at_all(hub, monkeypatch):
    point_to(monkeypatch, "http://127.0.0.1:1")
    with pytest.raises(UserError, match=r"the hub cannot be reached \(http://127.0.0.1:1\)"):
        pretrained.load("someone/small")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="HF_HUB_OFFLINE is set"):
        pretrained.load("someone/small")


def test_a_page_in_place_of_a_hub(hub, monkeypatch):
    """A firewall, or an address with a path too much."""
    point_to(monkeypatch, f"{hub.address}/someone/page/resolve/main/index.html#")
    hub.add("someone/page", {"index.html": "<html>log in</html>"})
    with pytest.raises(UserError, match="is not a hub"):
        pretrained.load("someone/small")


def test_a_token_that_the_hub_does_not_know(hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(UserError, match="does not accept the token"):
        pretrained.load("someone/small")
    hub.add("someone/private", {"config.json": "{}"}, private=True, members={"someone"})
    monkeypatch.setenv("HF_TOKEN", "hf_stranger")
    with pytest.raises(UserError, match="the token's rights if it is private"):
        pretrained.load("someone/private")
    with pytest.raises(UserError, match="accept its terms"):
        pretrained.load("someone/gated")
    hub.repositories["models", "someone/gated"].members.add("stranger")
    assert pretrained.load("someone/gated").model_config.d_model == 24
