"""From a document to a run directory with a prefix, with a tiny model."""

import dataclasses

import jax
import numpy as np
import pytest

import prefix_jax as pj
from prefix_jax import cli, documents
from prefix_jax.config import default_config
from prefix_jax.data.tokens import SoftTargets
from prefix_jax.distillation import distill, document, fidelity, framing, study
from prefix_jax.distillation.distill import Options
from prefix_jax.distillation.study import Asking
from prefix_jax.errors import UserError
from prefix_jax.training import loss
from prefix_jax.training.session import open_session
from prefix_jax.workdir import read_distillation
from tests import tiny

TEXT = " ".join(row["target"] for row in tiny.rows(4))
ASKED = [f"What does Place {i} serve ?" for i in range(10)]
QUICK = Options(length=8, questions=6, held_out=2, asking=Asking(chunk=24, question_tokens=8, answer_tokens=6), top_k=5)
CHANGES = {"training.steps": 4, "training.batch": 4, "training.tensorboard": False, "training.log_every": 1}


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    """A cache of the module's own, so that nothing is found that another test kept."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFIX_JAX_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    pytest.importorskip("torch")
    return tiny.save_model(tmp_path_factory.mktemp("models") / "llama", "llama", scale=8.0)


@pytest.fixture(scope="module")
def session(source):
    config = default_config()
    config.model.source = str(source)
    return open_session(distill.configured(config, QUICK, CHANGES))


def made(session, workdir, **changes):
    return distill.distill(session, TEXT, workdir, dataclasses.replace(QUICK, **changes), progress=False)


@pytest.fixture(scope="module")
def trained(session, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    return folder, distill.distill(
        session, TEXT, folder, dataclasses.replace(QUICK, method="train"), given=ASKED, progress=False
    )


def test_a_document_becomes_a_prefix_that_every_command_reads(session, source, tmp_path):
    """The model writes the questions itself."""
    found = made(session, tmp_path / "run")
    assert list(found.fidelity) == ["teacher", "bare", "first", "chunks", "closed_form"]
    assert found.fidelity["teacher"].kl == 0 and found.fidelity["teacher"].agreement == 1
    assert 0 < found.fidelity["closed_form"].kl < found.fidelity["bare"].kl
    record = read_distillation(tmp_path / "run")
    assert record["fidelity"]["closed_form"]["kl"] == found.fidelity["closed_form"].kl
    assert np.shape(record["errors"]["mass"]) == (2, 2)
    tuned = pj.load(tmp_path / "run")
    assert tuned.prefix.decoder.key.shape == (2, 2, 8, 8) and int(tuned.prefix.position_offset) == found.tokens
    np.testing.assert_array_equal(tuned.prefix.decoder.bias, found.prefix.decoder.bias)
    assert isinstance(tuned.generate("What is here ?", strategy="greedy", max_length=4), str)
    # The questions and answers are the run's data: those held out are its test split.
    assert tuned.evaluate("test", strategy="greedy", max_length=4).texts


def test_training_starts_with_the_closed_form_and_leaves_the_first_slot(session, trained, tmp_path):
    _, found = trained
    start = distill.distill(session, TEXT, tmp_path / "start", QUICK, given=ASKED, progress=False).prefix.decoder
    now = found.prefix.decoder
    for name in ("key", "value", "bias"):
        before, after = np.asarray(getattr(start, name)), np.asarray(getattr(now, name))
        np.testing.assert_array_equal(after[:, :, 0], before[:, :, 0])
        assert (after[:, :, 1:] != before[:, :, 1:]).any()
        # A few steps move little.
        np.testing.assert_allclose(after, before, atol=0.2)
    assert int(found.prefix.position_offset) == found.tokens


def test_the_same_command_resumes_and_another_document_is_refused(session, trained, monkeypatch):
    folder, found = trained
    monkeypatch.setattr(study, "answered", lambda *_: pytest.fail("answers are there"))
    options = dataclasses.replace(QUICK, method="train")
    again = distill.distill(session, TEXT, folder, options, given=ASKED, progress=False)
    for one, other in zip(jax.tree.leaves(again.prefix), jax.tree.leaves(found.prefix), strict=True):
        np.testing.assert_array_equal(one, other)
    with pytest.raises(UserError, match="another document"):
        distill.distill(session, TEXT + " More .", folder, options, given=ASKED, progress=False)
    with pytest.raises(UserError, match="by train"):
        distill.distill(session, TEXT, folder, QUICK, given=ASKED, progress=False)
    with pytest.raises(UserError, match="another given"):
        distill.distill(session, TEXT, folder, options, given=ASKED[:-1], progress=False)


def test_questions_are_the_same_whatever_others_are_asked(session, tmp_path):
    frame = framing.framed(session, TEXT)
    own = session.of(distill.with_document(session.config, frame, len(frame.ids), tmp_path))
    whole = study.questions(own, TEXT, range(7), QUICK.asking, progress=False)
    assert study.questions(own, TEXT, [5, 2], QUICK.asking, progress=False) == [whole[5], whole[2]]


def test_the_teachers_tokens_lie_at_their_targets(session, tmp_path):
    """In whatever row and place a record is packed."""
    frame = framing.framed(session, TEXT)
    folder = tmp_path / "rows"
    own = session.of(distill.with_document(session.config, frame, len(frame.ids), folder))
    rows = [{"number": i, "source": q, "target": f"it is {'so ' * i}."} for i, q in enumerate(ASKED[:5])]
    distill.write_study_splits(folder, {"test": rows})
    data = distill.token_ids(own, "test")
    teacher = document.read(own.model, own.base, np.asarray(frame.ids, np.int32))
    soft = fidelity.soft_targets(own, teacher, data, 3, rows=2)
    offsets = data.targets.offsets
    for i in range(len(data)):
        ids = np.concatenate([data.sources[i], data.targets[i]])[None]
        logits = own.model.apply(own.base, ids, prefix=teacher)[0, len(data.sources[i]) - 1 : -1]
        expected, places = jax.lax.top_k(jax.nn.log_softmax(logits), 3)
        np.testing.assert_array_equal(soft.ids[offsets[i] : offsets[i + 1]], places)
        np.testing.assert_allclose(soft.log_probs[offsets[i] : offsets[i + 1]], expected, atol=1e-4)
    # Packed in another order, each target keeps the tokens of its place.
    marked = SoftTargets(data.targets.ids[:, None], np.zeros((len(data.targets.ids), 1), np.float32))
    chosen = np.array([4, 1, 3])
    batches = fidelity.packed(own, dataclasses.replace(data, soft=marked).at(chosen), 3)
    batch = batches.batch_at(0)
    np.testing.assert_array_equal(batch.soft_ids[..., 0], batch.targets)
    assert batch.weights.sum() == data.targets.lengths[chosen].sum()


def test_divergences_are_those_of_all_tokens_where_all_are_known():
    rng = np.random.default_rng(0)
    logits, teacher = rng.normal(size=(2, 4, 12)).astype(np.float32)
    known = jax.nn.log_softmax(teacher)
    log_probs, ids = jax.lax.top_k(known, 12)
    own = jax.nn.log_softmax(logits)
    expected = (np.exp(known) * (known - own)).sum(-1)
    np.testing.assert_allclose(loss.divergences(logits, ids, log_probs), expected, atol=1e-4)
    few = loss.divergences(logits, ids[:, :5], log_probs[:, :5])
    assert (few <= expected + 1e-5).all() and (few > 0).all()
    np.testing.assert_allclose(loss.divergences(teacher, ids[:, :5], log_probs[:, :5]), 0, atol=1e-5)


def test_recovery_is_the_share_of_the_teachers_gain():
    bare, teacher = fidelity.Fidelity(1.0, 0.1, 4.0), fidelity.Fidelity(0.0, 1.0, 2.0)
    assert fidelity.Fidelity(0.3, 0.8, 2.5).recovery(bare, teacher) == 0.75
    assert np.isnan(bare.recovery(teacher, bare))


CHATML = (
    "{% for m in messages %}{% if loop.first and m.role != 'system' %}<s>system\nBe kind.</s>\n{% endif %}"
    "<s>{{ m.role }}\n{{ m.content }}</s>\n{% endfor %}{% if add_generation_prompt %}<s>assistant\n{% endif %}"
)


def test_in_a_chat_the_document_is_the_system_message(session):
    """Which the template would otherwise add of its own."""
    config = session.config.copy_and_resolve_references()
    config.data.chat_template = CHATML
    opened = session.of(config)
    frame = framing.framed(opened, TEXT)
    later = opened.of(config.copy_and_resolve_references())
    later.config.update_from_flattened_dict(dict(frame.options))
    prompt = later.chat.prompt(framing_conversation("Hello"), "input")[0]
    text = opened.tokenizer.decode([*frame.ids, *prompt])
    assert text == f"<s>system\n{TEXT}</s>\n<s>user\nHello</s>\n<s>assistant\n"
    config.data.chat_template = CHATML + "{{ raise_exception('no') if messages[0].role == 'system' }}"
    plain = framing.framed(session.of(config), TEXT)
    assert opened.tokenizer.decode(plain.ids) == TEXT


def framing_conversation(text):
    from prefix_jax.data.conversations import parse

    return parse(text)


@pytest.mark.parametrize(
    "words,said",
    [
        ([], "--model is missing"),
        (["--model=m"], "--document is missing"),
        (["--model=m", "--document=absent.txt", "--workdir=run"], "absent.txt"),
        (["--model=m", "--document=short.txt", "--workdir=run", "--method=best"], "method"),
    ],
)
def test_bad_input_is_one_sentence(words, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "short.txt").write_text("Short .", encoding="utf-8")
    assert cli.call(documents.main, documents.define_flags, words) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1 and not (tmp_path / "run").exists()


def test_a_document_shorter_than_the_prefix_is_refused(session, tmp_path):
    with pytest.raises(UserError, match="length is 500"):
        made(session, tmp_path / "run", length=500)
    assert not (tmp_path / "run").exists()
