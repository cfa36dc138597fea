"""Text as it is generated: from Python, in a terminal, and in a conversation."""

import io
import os
import pty
import subprocess
import sys

import pytest

import prefix_jax as pj
from prefix_jax import chat, cli
from prefix_jax.errors import UserError
from tests.serving.conftest import PAIRS
from tests.test_house import ROOT

SOURCE = PAIRS[0][0]
HOW = dict(strategy="greedy", max_length=8, min_length=8, banned_tokens=(0, 2))


@pytest.mark.parametrize("method", [pj.LoRA(rank=2), pj.Prompt(length=3), pj.Infix(length=4)])
def test_a_stream_of_any_method_is_the_whole_text(served, method):
    _, lm, _ = served
    options = {"training.batch": 2, "optimizer.learning_rate": 1.0}
    tuned = pj.tune(lm, PAIRS, method, steps=6, options=options)
    assert "".join(tuned.stream(SOURCE, **HOW)) == tuned.generate(SOURCE, **HOW) != lm.generate(SOURCE, **HOW)


def test_an_encoder_decoder_streams_too(tiny_models):
    lm = pj.load_model(tiny_models["t5"])
    how = dict(strategy="sample", seed=2, max_length=8)
    assert "".join(lm.stream(SOURCE, **how)) == lm.generate(SOURCE, **how)


def test_what_cannot_stream_is_refused(served):
    _, lm, _ = served
    with pytest.raises(UserError, match="beam search does not stream"):
        list(lm.stream(SOURCE, strategy="beam"))
    with pytest.raises(UserError, match="no_repeat_ngram"):
        list(lm.stream(SOURCE, no_repeat_ngram=2))
    with pytest.raises(UserError, match="stream takes one text"):
        lm.stream([SOURCE])


def test_a_conversation_is_that_of_transformers(served):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, lm, _ = served
    theirs, tokenizer = AutoModelForCausalLM.from_pretrained(model), AutoTokenizer.from_pretrained(model)
    talk = chat.Chat(lm, "Be brief.")
    messages = [{"role": "system", "content": "Be brief."}]
    for line in ("Where is it?", "And now?"):
        messages.append({"role": "user", "content": line})
        ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
        with torch.no_grad():
            out = theirs.generate(ids["input_ids"], do_sample=False, max_new_tokens=100)
        text = tokenizer.decode(out[0, ids["input_ids"].shape[1] :], skip_special_tokens=True).strip()
        assert "".join(talk.said(line)) == text
        messages.append({"role": "assistant", "content": text})


def test_the_command_keeps_a_conversation(served, monkeypatch, capsys):
    model, lm, folder = served
    lines = ["Where is it?", "/reset", "/nothing", "Where is it?", "/exit", "unread"]
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(lines) + "\n"))
    argv = [f"--workdir={folder / 'formal'}", "--config.decoding.max_length=6"]
    assert cli.call(chat.main, chat.define_flags, argv) == 0
    out, err = capsys.readouterr()
    first, reset, again = out.splitlines()
    tuned = pj.load(folder / "formal", lm)
    assert first == again == tuned.chat("Where is it?", max_length=6).replace("\n", " ") and "anew" in reset
    assert 'there is no "/nothing"' in err


def test_a_model_without_a_template_is_refused(tiny_models, capsys):
    assert cli.call(chat.main, chat.define_flags, [f"--model={tiny_models['gpt2']}"]) == 2
    assert "has no chat template" in capsys.readouterr().err
    assert cli.call(chat.main, chat.define_flags, []) == 2


def test_generate_streams_in_a_terminal(served):
    _, lm, folder = served
    words = ["-m", "prefix_jax.generate", f"--workdir={folder / 'formal'}", f"--input={SOURCE}"]
    words += [f"--config.decoding.{name}={value}" for name, value in HOW.items()]
    terminal, child = pty.openpty()
    done = subprocess.run([sys.executable, *words], cwd=ROOT, stdout=child, stderr=subprocess.PIPE, check=False)
    os.close(child)
    text = os.read(terminal, 10_000).decode()
    assert done.returncode == 0, done.stderr
    assert text.strip() == " ".join(pj.load(folder / "formal", lm).generate(SOURCE, **HOW).split("\n"))
