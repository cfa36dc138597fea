"""What goes into a tokenizer comes out of decoding, or the audit says that it does not."""

import dataclasses
import itertools
import random

import pytest
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from prefix_jax import tasks
from prefix_jax.data import audit, tokens
from prefix_jax.data.records import pair
from prefix_jax.data.texts import Printer
from prefix_jax.data.tokens import Formats, Limits
from prefix_jax.dependencies import DataAudit
from prefix_jax.errors import UserError

WORDS = [
    text for record in tasks.inputs("lighthouse", "validation", limit=40) for text in (record.source, record.target)
]
SPECIAL = ["<pad>", "</s>", "<unk>", "<s>", "<|im_end|>", "<sep1>"]
ROLES = dict(pad_token="<pad>", eos_token="</s>", unk_token="<unk>", bos_token="<s>")


def byte_bpe(**roles):
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=500, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    inner.train_from_iterator(WORDS, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=inner, **{**ROLES, **roles})


def gpt2():
    """One token for both ends and for the unknown."""
    return byte_bpe(**dict.fromkeys(("bos_token", "eos_token", "unk_token", "pad_token"), "<|im_end|>"))


def bart():
    """A post-processor frames every text."""
    found = byte_bpe()
    template = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 3), ("</s>", 1)])
    found.backend_tokenizer.post_processor = template
    return found


def t5():
    """Unigram pieces after NFKC, white space collapsed, no bytes: what the vocabulary lacks is unknown."""
    inner = Tokenizer(models.Unigram())
    inner.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")])
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=300, special_tokens=SPECIAL, unk_token="<unk>", show_progress=False)
    inner.train_from_iterator(WORDS, trainer)
    roles = {name: token for name, token in ROLES.items() if name != "bos_token"}
    return PreTrainedTokenizerFast(tokenizer_object=inner, **roles)


def words():
    """Whole words, lower case: hardly anything survives."""
    inner = Tokenizer(models.WordLevel(unk_token="<unk>"))
    inner.normalizer, inner.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.Whitespace()
    inner.train_from_iterator(WORDS, trainers.WordLevelTrainer(special_tokens=SPECIAL, show_progress=False))
    return PreTrainedTokenizerFast(tokenizer_object=inner, **ROLES)


FAMILIES = {make.__name__: make() for make in (byte_bpe, gpt2, bart, t5, words)}
TARGET_FORMATS = [
    "{target}{eos}", " {target} {eos}", "{target}<|im_end|>", "{target}<|im_end|>\n", "{target}\n", "{target}\n###",
    "{target} END{eos}", "{target}", "{target} ", "{eos}{target}{eos}", "<s>{target}</s>", "- {target} ###\n{eos}\n",
]  # fmt: skip
PIECES = [
    "Heron", "Light", " is", " a", "  ", "\n", "\t", "{", "}", "ﬁ", "é", "½", "漢字", "🙂", "<sep1>", "<|im_end|>",
    "</s>", "<unk>", "###", "END", ".", " .", "-", "\u00a0", "\u3000", "A", "ß", "END\n###",
]  # fmt: skip


def random_texts(seed: int, count: int) -> list[str]:
    drawn = random.Random(seed)
    texts = ["".join(drawn.choices(PIECES, k=drawn.randint(1, 6))).strip() for _ in range(count)]
    return [text for text in texts if text]


def prepared(texts, tokenizer, target_format, keep=""):
    records = [pair(f"source {i}", text, None, f"train-{i}", 0) for i, text in enumerate(texts)]
    data = tokens.tokenise(records, tokenizer, Formats("{source}\n", target_format), Limits())
    printer = Printer(tokenizer, tokens.frame(target_format, "target", tokenizer), (), keep)
    source = tokens.frame("{source}\n", "source", tokenizer)
    return data, printer, audit.measure(records, data, printer, source, target_format)


def written(ids, printer, junk):
    """What is printed where a model writes exactly a target's tokens, and then whatever it likes."""
    return printer.texts([printer.until_end([*ids.tolist(), *junk])])[0]


@pytest.mark.parametrize(("family", "form"), itertools.product(FAMILIES, TARGET_FORMATS))
def test_a_model_that_writes_the_targets_gives_their_texts_or_it_was_said(family, form):
    tokenizer = FAMILIES[family]
    texts = random_texts(TARGET_FORMATS.index(form), 60)
    data, printer, measured = prepared(texts, tokenizer, form)
    found = audit.findings(measured, data, 512, 100)
    junk = tokenizer("Heron Light", add_special_tokens=False)["input_ids"]
    ended = printer.closed or printer.tail
    outputs = [written(data.targets[i], printer, junk if ended else []) for i in range(len(texts))]
    assert measured["changed"]["count"] == sum(a != b for a, b in zip(outputs, texts, strict=True))
    assert ("changed" in found) == (outputs != texts)
    assert ("ends" in found) == (not printer.closed)


@pytest.mark.parametrize("family", FAMILIES)
def test_ordinary_texts_and_formats_find_nothing_but_what_is_there(family):
    tokenizer = FAMILIES[family]
    form = tokens.default_formats(tokenizer, family in ("t5", "bart")).target
    plain = ["light is a"] if family == "words" else WORDS
    _, printer, measured = prepared(plain, tokenizer, form)
    assert measured["changed"] == {"count": 0} and measured["ends"]["closed"]
    assert tokenizer.eos_token_id in printer.ends


@pytest.mark.parametrize(
    ("text", "keep", "fix"),
    [
        ("a <sep1> b", "", "keep_special_tokens=<sep1>"),
        ("a {b}", "", "vocabulary"),
        ("a  b", "", "write targets in the changed form"),
        ("a </s> b", "", '"</s>" inside a target ends it'),
        ("a <sep1> b", "<sep1>", ""),
        ("a <sep1> b", "all", ""),
    ],
)
def test_what_changes_a_target_is_named_with_its_fix(text, keep, fix):
    data, _, measured = prepared([text, "heron"], FAMILIES["t5"], "{target}{eos}", keep)
    line = audit.findings(measured, data, 512, 100).get("changed", "")
    assert fix in line and line.count("\n") == 0 and bool(line) == bool(fix)
    assert not line or all(part in line for part in ("1 of 2 targets", "train-0#0", repr(text)))


def test_kept_tokens_that_are_wrong_are_refused():
    frame = tokens.frame("{target}{eos}", "target", FAMILIES["t5"])
    with pytest.raises(UserError, match='did you mean "<sep1>"'):
        Printer(FAMILIES["t5"], frame, (), "<sep>1")
    with pytest.raises(UserError, match="ends a text"):
        Printer(FAMILIES["t5"], frame, (), "</s>")


def test_unknown_words_are_counted_and_the_first_is_shown():
    records = [pair("a {b}", "c", None, "train-7", 0), pair("a <unk>", "d", None, "train-8", 0)]
    tokenizer = FAMILIES["t5"]
    data = tokens.tokenise(records, tokenizer, Formats("{source}{eos}", "{target}{eos}"), Limits())
    printer = Printer(tokenizer, tokens.frame("{target}{eos}", "target", tokenizer), ())
    source = tokens.frame("{source}{eos}", "source", tokenizer)
    measured = audit.measure(records, data, printer, source, "{target}{eos}")
    line = audit.findings(measured, data, 512, 100)["unknown"]
    assert "1 of 2 sources" in line and "'{'" in line and "train-7#0" in line and "targets" not in line


def test_cut_sources_and_long_targets_are_counted():
    records = [pair("Heron Light " * n, "Heron Light " * n, None, f"train-{n}", 0) for n in range(1, 11)]
    tokenizer = FAMILIES["byte_bpe"]
    data = tokens.tokenise(records, tokenizer, Formats("{source}\n", "{target}{eos}"), Limits(source=12))
    printer = Printer(tokenizer, tokens.frame("{target}{eos}", "target", tokenizer), ())
    measured = audit.measure(records, data, printer, tokens.frame("{source}\n", "source", tokenizer), "")
    whole = [len(tokenizer(record.source + "\n", add_special_tokens=False)["input_ids"]) for record in records]
    target = [len(tokenizer(record.target, add_special_tokens=False)["input_ids"]) + 1 for record in records]
    found = audit.findings(measured, data, 12, sorted(target)[-3])
    assert (
        f"{sum(n > 12 for n in whole)} of 10 sources are cut to 12 tokens (the longest has {max(whole)})"
        in found["cut"]
    )
    assert f"2 of 10 targets are longer than decoding.max_length={sorted(target)[-3]}" in found["long"]


def test_strict_makes_findings_errors_and_loses_none(capsys):
    found = {"changed": "1 of 2 changed", "cut": "1 of 2 cut"}
    audit.say("train", found, frozenset())
    assert capsys.readouterr().err == "train: 1 of 2 changed\ntrain: 1 of 2 cut\n"
    with pytest.raises(UserError, match="train: 1 of 2 changed"):
        audit.say("train", found, audit.strict("all"))
    assert capsys.readouterr().err == "train: 1 of 2 cut\n"
    assert audit.strict(" cut, long") == {"cut", "long"} and audit.strict("") == frozenset()
    with pytest.raises(UserError, match='did you mean "changed"'):
        audit.strict("chnged")


def test_what_was_measured_is_kept(tmp_path):
    depends = DataAudit(1, 1, "k", "", "", False, 5, (1,), "", ["train-0"], ["a"], ["b"])
    made = iter(range(9))

    def kept(depends):
        return audit.kept(tmp_path, depends, lambda: {"records": next(made)})["records"]

    assert [kept(depends), kept(depends), kept(dataclasses.replace(depends, targets=["c"])), kept(depends)] == [
        0,
        0,
        1,
        0,
    ]
