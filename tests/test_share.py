"""What is shared on the hub and read from it, through huggingface_hub and PEFT, with a hub on this machine."""

import json
import subprocess
import sys

import jax
import numpy as np
import pytest
import yaml

import prefix_jax as pj
from prefix_jax import cli, generate, share
from prefix_jax.api.language_model import configuration
from prefix_jax.api.tuned import Tuned
from prefix_jax.config import default_config
from prefix_jax.errors import UserError
from prefix_jax.options import flat
from tests import tiny
from tests.conftest import ROOT
from tests.loopback_hub import LoopbackHub, point_to

PAIRS = [(row["source"], row["target"]) for row in tiny.rows(24)]
QUICK = {"training.batch": 4, "training.log_every": 1, "decoding.strategy": "greedy", "decoding.max_length": 8}
TEXTS = [source for source, _ in PAIRS[:3]]
METHODS = {
    "prefix": pj.Prefix(length=3, hidden=16), "lora": pj.LoRA(rank=2), "prompt": pj.Prompt(length=4),
}  # fmt: skip


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory):
    pytest.importorskip("torch")
    return tiny.save_model(tmp_path_factory.mktemp("models") / "tiny-llama", "llama")


@pytest.fixture
def hub(tmp_path, monkeypatch, model_dir):
    with LoopbackHub() as server, server.in_this_process(monkeypatch, tmp_path / "cache", token="hf_someone"):
        server.add("maker/tiny", model_dir)
        server.repositories["models", "maker/tiny"].files["README.md"] = b"---\nlicense: mit\n---\n"
        monkeypatch.setattr("time.sleep", lambda seconds: None)
        yield server


@pytest.fixture(scope="module")
def local(model_dir):
    return pj.load_model(model_dir)


@pytest.fixture(scope="module")
def runs(local, tmp_path_factory):
    """A run of a prefix, and states of other methods on the same model, which is in a directory of this machine."""
    folder = tmp_path_factory.mktemp("runs")
    rows = tiny.save_rows(folder / "rows.jsonl", 24)
    options = {**QUICK, "data.task": "text", "optimizer.learning_rate": 0.05}
    found = {"prefix": pj.tune(local, str(rows), METHODS["prefix"], steps=3, workdir=folder / "run", options=options)}
    for name in ("lora", "prompt"):
        session = local._session.of(configuration(found["prefix"]._session, METHODS[name], {}))
        kept = session.method.export(session.method.init(jax.random.key(1), session.base), session.base)
        leaves, form = jax.tree.flatten(kept)
        keys = jax.random.split(jax.random.key(2), len(leaves))
        moved = [leaf + 0.3 * jax.random.normal(key, leaf.shape) for key, leaf in zip(keys, leaves, strict=True)]
        found[name] = Tuned(session, jax.tree.unflatten(form, moved), step=3)
    return found


def files(hub, name="someone/gull"):
    return hub.repositories["models", name].files


@pytest.mark.parametrize("method", METHODS)
def test_what_is_pushed_loads_and_gives_the_same_texts_here_and_in_peft(hub, runs, method, monkeypatch):
    run = runs[method]
    address = run.push_to_hub("someone/gull", base_model="maker/tiny")
    assert address == f"{hub.address}/someone/gull"
    there = pj.load("someone/gull")
    assert there.lm.source == "maker/tiny" and there.workdir is None
    assert there.generate(TEXTS) == run.generate(TEXTS)
    assert len(there.history) == len(run.history) and repr(there).endswith("3 steps)")
    assert "adapter_model.safetensors" not in {path.split("/")[-1] for path in hub.bodies}
    assert_same_logits(there, "someone/gull")
    assert hub.repositories["models", "someone/gull"].private is False


def assert_same_logits(tuned, name):
    """Compares with `PeftModel.from_pretrained` of the same repository, token by token."""
    import torch
    from peft import PeftConfig, PeftModel
    from transformers import AutoModelForCausalLM

    base = PeftConfig.from_pretrained(name).base_model_name_or_path
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), name).eval()
    tokens = np.array([tuned.lm.tokenizer(TEXTS[0])["input_ids"]])
    with torch.no_grad():
        theirs = model(input_ids=torch.tensor(tokens)).logits.numpy()
        new = model.generate(input_ids=torch.tensor(tokens), max_new_tokens=8, do_sample=False)[0]
    reserved = theirs.shape[1] - tokens.shape[1]
    ours = tuned.model.apply(
        tuned.variables, np.pad(tokens, ((0, 0), (reserved, 0))), prefix=tuned.prefix
    )  # a prompt's places come first
    ours = getattr(ours, "logits", ours)
    np.testing.assert_allclose(np.asarray(ours)[:, reserved:], theirs[:, reserved:], atol=2e-4)
    assert len(new) > tokens.shape[1]


@pytest.mark.parametrize("method", METHODS)
def test_repositories_of_peft_alone(hub, runs, method, tmp_path):
    """Only PEFT's two files, the base model by its name; texts are those of PEFT for the text as it is."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    runs[method].push_to_hub("someone/gull", base_model="maker/tiny")
    own = {path: data for path, data in files(hub).items() if path.startswith("adapter_")}
    hub.add("other/adapter", own | {"optimizer.pt": b"large", "README.md": "---\nbase_model: maker/tiny\n---\n"})
    hub.forget()
    found = pj.load("other/adapter")
    assert not any("optimizer" in path or "README" in path for path in hub.bodies)
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("maker/tiny"), "other/adapter").eval()
    tokenizer = found.lm.tokenizer
    tokens = torch.tensor([tokenizer(TEXTS[0])["input_ids"]])
    new = model.generate(input_ids=tokens, max_new_tokens=8, do_sample=False, pad_token_id=0)[0]
    start = 0 if method == "prompt" and len(new) <= 8 else tokens.shape[1]
    expected = tokenizer.decode(new[start:], skip_special_tokens=True)
    assert found.generate(TEXTS[0], strategy="greedy", max_length=8).strip() == expected.strip()
    PeftModel.save_pretrained(model, tmp_path / "folder")
    assert pj.load(tmp_path / "folder", found.lm).generate(TEXTS[0], strategy="greedy", max_length=8) == found.generate(
        TEXTS[0], strategy="greedy", max_length=8
    )


def test_the_card(hub, runs):
    from huggingface_hub import ModelCard

    run = runs["prefix"]
    scores = run.evaluate(PAIRS[:4])
    run.push_to_hub("someone/gull", base_model="maker/tiny", scores=scores)
    card = ModelCard.load("someone/gull")
    about = card.data
    assert (about.base_model, about.library_name, about.license) == ("maker/tiny", "peft", "mit")
    assert about.pipeline_tag == "text-generation" and "prefix-tuning" in about.tags
    found = {result.metric_name: result.metric_value for result in about.eval_results}
    assert found == {name: pytest.approx(value, abs=1e-4) for name, value in scores.items()}
    for part in (
        'pj.load("someone/gull")',
        "PeftModel.from_pretrained",
        "--config.optimizer.learning_rate=0.05",
        "| BLEU",
    ):
        assert part in card.text, part
    everything = b"".join(files(hub).values())
    assert (
        str(ROOT).encode() not in everything and b"/tmp" not in everything and b"rows.jsonl" in files(hub)["README.md"]
    )


def test_the_command_of_the_card_has_the_options_of_the_run(hub, runs):
    runs["prefix"].push_to_hub("someone/gull", base_model="maker/tiny")
    line = next(line for line in files(hub)["README.md"].decode().split("\n") if line.startswith("prefix-jax train"))
    options = dict(word[len("--config.") :].split("=") for word in line.split() if word.startswith("--config."))
    default, own = flat(default_config("prefix").to_dict()), flat(runs["prefix"].options)
    named = {name: str(own[name]) for name in own if own[name] != default[name] and name != "training.tensorboard"}
    assert options == {
        name: value for name, value in named.items() if name.split(".")[1] not in ("source", "path", "task")
    }
    assert {"prefix.length", "optimizer.learning_rate", "training.batch"} <= set(options)


def test_another_upload_replaces_the_files_of_the_first(hub, runs):
    runs["lora"].push_to_hub("someone/gull", base_model="maker/tiny")
    hub.repositories["models", "someone/gull"].files["notes.txt"] = b"mine"
    runs["prefix"].push_to_hub("someone/gull", base_model="maker/tiny")
    assert not any("collections" in path for path in files(hub)) and "notes.txt" in files(hub)
    before = hub.repositories["models", "someone/gull"].refs["main"]
    runs["prefix"].push_to_hub("someone/gull", base_model="maker/tiny")
    assert hub.repositories["models", "someone/gull"].refs["main"] == before
    first = next(iter(hub.repositories["models", "someone/gull"].commits))
    with pytest.raises(UserError, match="holds nothing that was tuned"):
        pj.load(f"someone/gull@{first}")


def test_private_repositories(hub, runs, monkeypatch, tmp_path):
    runs["prefix"].push_to_hub("someone/hidden", private=True, base_model="maker/tiny")
    assert hub.repositories["models", "someone/hidden"].private
    assert pj.load("someone/hidden").generate(TEXTS) == runs["prefix"].generate(TEXTS)
    runs["prefix"].push_to_hub("someone/gull", base_model="maker/tiny")
    with pytest.raises(UserError, match="someone/gull is public"):
        runs["prefix"].push_to_hub("someone/gull", private=True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "other"))
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(UserError, match='the hub has no model "someone/hidden" .if private, run: hf auth login'):
        pj.load("someone/hidden")


@pytest.mark.parametrize(
    ("place", "status", "words"),
    [
        ("POST /api/repos/create", 500, "an error of its own (500)"),
        ("POST .*preupload", 429, "takes no more requests"),
        ("PUT ", 500, "an error of its own (500)"),
        ("POST .*commit", 0, "connection to the hub was cut"),
    ],
)
def test_uploads_that_fail_change_nothing_and_can_be_repeated(hub, runs, place, status, words):
    run = runs["prefix"]
    hub.fail(place, status, times=2 if "commit" in place else 1)
    run.push_to_hub("someone/once", base_model="maker/tiny")
    hub.objects.clear()  # what is there is not sent again
    hub.fail(place, status)
    with pytest.raises(UserError) as raised:
        run.push_to_hub("someone/gull", base_model="maker/tiny")
    assert words in str(raised.value) and "not uploaded" in str(raised.value) and "someone/gull" in str(raised.value)
    if ("models", "someone/gull") in hub.repositories:
        assert set(files(hub)) == {".gitattributes"}
    hub.forget()
    run.push_to_hub("someone/gull", base_model="maker/tiny")
    assert "tuned/prefix.json" in files(hub)


def test_who_may_not_upload(hub, runs, monkeypatch):
    run = runs["prefix"]
    with pytest.raises(UserError, match="the token has no right to it"):
        run.push_to_hub("maker/gull", base_model="maker/tiny")
    with pytest.raises(UserError, match=r'"gull" is not a repository'):
        run.push_to_hub("gull")
    with pytest.raises(UserError, match="so nothing was uploaded; run: hf auth login"):
        run.push_to_hub("someone/gull", token="hf_wrong")
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(UserError, match="so nothing was uploaded; run: hf auth login"):
        run.push_to_hub("someone/gull")
    point_to(monkeypatch, "http://127.0.0.1:1")
    with pytest.raises(UserError, match="cannot be reached"):
        run.push_to_hub("someone/gull")


def test_the_command_writes_a_folder_or_uploads(hub, runs, tmp_path, capsys):
    workdir = str(runs["prefix"].workdir)
    call = lambda *words: cli.call(share.main, share.define_flags, ["--workdir", workdir, *words])
    out = tmp_path / "out"
    assert call("--folder", str(out), "--base_model", "maker/tiny", "--license", "apache-2.0") == 0
    about = yaml.safe_load((out / "README.md").read_text().split("---")[1])
    assert about["license"] == "apache-2.0" and not hub.bodies
    assert pj.load(out, options={"model.source": "maker/tiny"}).generate(TEXTS) == runs["prefix"].generate(TEXTS)
    assert call("--folder", str(out)) == 2 and "not an empty folder" in capsys.readouterr().err
    assert call("--repo", "someone/gull", "--private", "--base_model", "maker/tiny") == 0
    assert f"{hub.address}/someone/gull" in capsys.readouterr().out
    assert set(files(hub)) - {".gitattributes"} == {
        path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()
    }
    assert cli.call(share.main, share.define_flags, ["--workdir", workdir]) == 2
    assert "--repo is missing" in capsys.readouterr().err


def test_a_model_without_a_name_on_the_hub(hub, runs, local):
    runs["prefix"].push_to_hub("someone/gull")
    assert json.loads(files(hub)["tuned/prefix.json"])["model"]["name"] == "tiny-llama"
    with pytest.raises(UserError, match='a directory "tiny-llama", which has no name on the hub'):
        pj.load("someone/gull")
    assert pj.load("someone/gull", local).generate(TEXTS) == runs["prefix"].generate(TEXTS)


def test_what_peft_has_no_form_for_is_shared_without_it(hub, runs):
    prefix, lora = runs["prefix"], runs["lora"]
    config = prefix._session.config.copy_and_resolve_references()
    config.method, config.data.path = "prefix+lora", "(in memory)"
    both = Tuned(prefix._session.of(config), prefix._kept.joined(lora._kept))
    both.push_to_hub("someone/gull", base_model="maker/tiny")
    assert "adapter_config.json" not in files(hub)
    card = files(hub)["README.md"].decode()
    assert "library_name: prefix_jax" in card and "PEFT has no form for prefix and lora" in card and "FILE" in card
    there = pj.load("someone/gull")
    for ours, theirs in zip(jax.tree.leaves(both._kept), jax.tree.leaves(there._kept), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_generate_reads_a_repository(hub, runs, capsys):
    runs["prefix"].push_to_hub("someone/gull", base_model="maker/tiny")
    words = ["--tuned", "someone/gull@main", "--input", TEXTS[0]]
    assert cli.call(generate.main, generate.define_flags, words) == 0
    assert capsys.readouterr().out.strip() == " ".join(runs["prefix"].generate(TEXTS[0]).split("\n")).strip()
    assert cli.call(generate.main, generate.define_flags, ["--tuned", "someone/gul", *words[2:]]) == 2
    assert 'the hub has no model "someone/gul"' in capsys.readouterr().err


LOAD = 'import prefix_jax as pj; print(float(abs(pj.load("someone/hidden").prefix.decoder.key).sum()))'


def test_the_variables_of_the_library_apply_in_a_process_of_its_own(hub, runs, tmp_path):
    """HF_ENDPOINT, HF_HOME, HF_TOKEN, HTTP_PROXY, then HF_HUB_OFFLINE."""
    runs["prefix"].push_to_hub("someone/hidden", base_model="maker/tiny", private=True)
    hub.forget()
    through = {"HF_ENDPOINT": "http://hub.test", "HTTP_PROXY": hub.address, "HF_TOKEN": "hf_someone"}
    run = lambda **more: subprocess.run(
        [sys.executable, "-c", LOAD], capture_output=True, text=True, cwd=ROOT, env=hub.environment(tmp_path, **more)
    )
    first = run(**through)
    assert float(first.stdout) == float(abs(runs["prefix"].prefix.decoder.key).sum()), first.stderr
    assert {"hub.test", "storage.test"} <= hub.hosts and (tmp_path / "hub").is_dir()
    hub.forget()
    assert run(HF_HUB_OFFLINE="1").stdout == first.stdout and not hub.asked
    refused = run(**through | {"HTTP_PROXY": "http://127.0.0.1:1"}, HF_HOME=str(tmp_path / "empty"))
    assert "cannot be reached" in refused.stderr.strip().split("\n")[-1]
