"""EleutherAI's harness on our models, beside its own model class for transformers and PEFT."""

import json

import numpy as np
import pytest

import prefix_jax as pj
from prefix_jax.errors import UserError
from tests import tiny

pytest.importorskip("lm_eval")
pytest.importorskip("torch")

CONTEXTS = [f"name : Place {i} | food : Thai" for i in range(5)]
CHOICES = [" Place 1 serves food", " by the harbour .", " Thai"]


@pytest.fixture(scope="module", params=["gpt2", "t5"])
def both(request, tmp_path_factory):
    """Our model and the harness's, with the same prefix where PEFT has one."""
    import transformers as hf
    from lm_eval.models.huggingface import HFLM

    from prefix_jax.harness import PrefixLM

    family, folder = request.param, tmp_path_factory.mktemp(request.param)
    base = tiny.save_model(folder / "base", family)
    kind = hf.AutoModelForSeq2SeqLM if family == "t5" else hf.AutoModelForCausalLM
    model, tokenizer = kind.from_pretrained(base), hf.AutoTokenizer.from_pretrained(base)
    # The harness cuts embeddings to the tokenizer's size, which changes the probabilities.
    model.resize_token_embeddings(len(tokenizer))
    model.save_pretrained(base)
    if family == "t5":
        ours = PrefixLM(pretrained=str(base), max_length=64)
        return ours, HFLM(pretrained=str(base), device="cpu", dtype="float32", max_length=64)
    tuned = pj.tune(pj.load_model(base), [(c, CHOICES[0]) for c in CONTEXTS], pj.Prefix(length=3, hidden=16), steps=2)
    peft = tuned.to_peft(folder / "peft")
    tuned.save(folder / "run")
    theirs = HFLM(pretrained=str(base), peft=str(peft), device="cpu", dtype="float32", max_length=64)
    return PrefixLM(tuned=str(folder / "run"), max_length=64, batch_size=3), theirs


def asked(kind: str, *arguments: tuple) -> list:
    from lm_eval.api.instance import Instance

    return [Instance(kind, {}, one, i) for i, one in enumerate(arguments)]


def test_likelihoods_are_those_of_the_harness(both):
    ours, theirs = both
    pairs = [(context, choice) for context in [*CONTEXTS, CONTEXTS[0] * 8] for choice in CHOICES]
    requests = asked("loglikelihood", *pairs, ("", CHOICES[0]))
    found, right = ours.loglikelihood(requests), theirs.loglikelihood(requests, disable_tqdm=True)
    np.testing.assert_allclose([one[0] for one in found], [one[0] for one in right], atol=1e-4)
    assert [one[1] for one in found] == [one[1] for one in right]


def test_the_greedy_token_is_said_to_be_greedy(both):
    ours, _ = both
    context, every = ours.tok_encode(CONTEXTS[0]), range(3, 366)
    found = ours._loglikelihood_tokens([(("", ""), context, [token]) for token in every])
    assert [one[1] for one in found] == [one[0] == max(found)[0] for one in found]


def test_plain_text_in_windows_has_the_likelihood_of_the_harness(both):
    ours, theirs = both
    requests = asked("loglikelihood_rolling", *[(" ".join(CONTEXTS[:count]),) for count in (1, 2, 5)])
    right = theirs.loglikelihood_rolling(requests, disable_tqdm=True)
    np.testing.assert_allclose(ours.loglikelihood_rolling(requests), right, atol=1e-3, rtol=1e-6)


def test_texts_are_those_of_the_harness(both):
    ours, theirs = both
    how = {"until": ["harbour"], "max_gen_toks": 8, "do_sample": False}
    requests = asked("generate_until", *[(context, how) for context in CONTEXTS])
    found, right = ours.generate_until(requests), theirs.generate_until(requests, disable_tqdm=True)
    # The harness gives an encoder-decoder as many tokens more as its input has.
    assert found == (right if ours.backend == "causal" else [b[: len(a)] for a, b in zip(found, right, strict=True)])
    assert all(found)


def test_the_command_scores_a_local_task(tiny_models, tmp_path, monkeypatch, capsys):
    from prefix_jax.lm_eval import main

    rows = [{"q": context, "a": CHOICES, "gold": 0} for context in CONTEXTS]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "task.yaml").write_text(
        f"task: local\ndataset_path: json\ndataset_kwargs: {{data_files: {{test: {tmp_path}/rows.jsonl}}}}\n"
        "test_split: test\noutput_type: multiple_choice\ndoc_to_text: '{{q}}'\ndoc_to_choice: '{{a}}'\n"
        "doc_to_target: '{{gold}}'\nmetric_list: [{metric: acc}]\n"
    )
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    source = tiny_models["gpt2"]
    main(["--model_args", f"pretrained={source}", "--tasks", "local", "--include_path", str(tmp_path)])
    assert "|local" in capsys.readouterr().out


def test_the_command_adds_its_model_and_batches():
    from prefix_jax.lm_eval import with_defaults

    assert with_defaults(["--tasks", "x"]) == [
        "run", "--tasks", "x", "--model", "prefix_jax", "--batch_size", "16",
    ]  # fmt: skip
    assert with_defaults(["run", "-M", "hf", "-b", "2"]) == ["run", "-M", "hf", "-b", "2"]
    assert with_defaults(["ls", "tasks"]) == ["ls", "tasks"]


def test_what_cannot_be_asked_is_said(both):
    from prefix_jax.harness import PrefixLM

    ours, _ = both
    with pytest.raises(UserError, match="one of tuned=DIR and pretrained=MODEL"):
        PrefixLM()
    with pytest.raises(UserError, match="option typical_p is not known"):
        ours.generate_until(asked("generate_until", ("a", {"until": [], "typical_p": 0.5})))
    with pytest.raises(UserError, match="65 tokens, over max_length=64"):
        ours._loglikelihood_tokens([(("", ""), [3], [3] * 65)])
    if ours.backend == "causal":
        with pytest.raises(UserError, match="leaves no room"):
            ours.generate_until(asked("generate_until", ("a", {"until": [], "max_gen_toks": 64})))
