"""Languages of tokenizers that mark them, against transformers' tokenizers and its `generate`."""

from pathlib import Path

import pytest

from prefix_jax import decoding, inference
from prefix_jax.data import languages, tokens
from prefix_jax.data.records import Record
from prefix_jax.data.tokens import Formats, Limits
from prefix_jax.errors import UserError
from prefix_jax.training import session
from tests import tiny

transformers = pytest.importorskip("transformers")
torch = pytest.importorskip("torch")

WORDS = ["▁the", "▁cat", "▁le", "▁chat", "▁sat", "▁on", "▁a", "▁mat"]
LETTERS = [*"abcdefghijklmnopqrstuvwxyz"]
SPECIAL = ["<s>", "<pad>", "</s>", "<unk>"]
PIECES = [(token, -2.0) for token in (*SPECIAL, "▁", *LETTERS, *WORDS)]
SOURCES, TARGETS = ["the cat sat", "a mat", "zebra on the mat"], ["le chat", "la cat a", "chat"]


def _nllb():
    vocab = {token: number for number, token in enumerate((*SPECIAL, "▁", *LETTERS, "▁t", "▁th", "▁the", "▁c", "ch"))}
    merges = [("▁", "t"), ("▁t", "h"), ("▁th", "e"), ("▁", "c"), ("c", "h")]
    codes = ["eng_Latn", "fra_Latn"]
    return transformers.NllbTokenizer(vocab=vocab, merges=merges, extra_special_tokens=codes)


# Of each tokenizer the two languages, and the formats that they make.
CASES = {
    "nllb": (_nllb, "eng_Latn", "fra_Latn", Formats("{eng_Latn}{source}{eos}", "{fra_Latn}{target}{eos}")),
    "mbart": (
        lambda: transformers.MBartTokenizer(vocab=PIECES),
        *("en_XX", "ro_RO"),
        Formats("{source}{eos}{en_XX}", "{target}{eos}{ro_RO}"),
    ),
    "mbart50": (
        lambda: transformers.MBart50Tokenizer(vocab=PIECES),
        *("en_XX", "ro_RO"),
        Formats("{en_XX}{source}{eos}", "{ro_RO}{target}{eos}"),
    ),
}


@pytest.fixture(scope="module", params=CASES)
def case(request, tmp_path_factory):
    make, source, target, formats = CASES[request.param]
    folder = tmp_path_factory.mktemp(request.param)
    make().save_pretrained(folder)
    return folder, source, target, formats


def test_ids_are_those_of_transformers(case):
    folder, source, target, formats = case
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    assert tokens.default_formats(tokenizer, True, source, target) == formats
    records = [
        Record(id=str(i), source=s, target=t, references=(t,), category=None)
        for i, (s, t) in enumerate(zip(SOURCES, TARGETS, strict=True))
    ]
    found = tokens.tokenise(records, tokenizer, formats, Limits())
    theirs = transformers.AutoTokenizer.from_pretrained(folder, src_lang=source, tgt_lang=target)
    expected = theirs(SOURCES, text_target=TARGETS)
    assert [found.sources[i].tolist() for i in range(3)] == expected["input_ids"]
    assert [found.targets[i].tolist() for i in range(3)] == expected["labels"]


def test_decoding_begins_as_shifted_labels_do(case):
    folder, source, target, formats = case
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    code = tokenizer.convert_tokens_to_ids(target)
    found = languages.begin(tokenizer, target)
    if formats.target.endswith(f"{{{target}}}"):
        from transformers.models.mbart.modeling_mbart import shift_tokens_right

        labels = transformers.AutoTokenizer.from_pretrained(folder, tgt_lang=target)(text_target=TARGETS[:1])
        shifted = shift_tokens_right(torch.tensor(labels["input_ids"]), tokenizer.pad_token_id)
        assert found == (shifted[0, 0].item(), None) == (code, None)
    else:
        assert found == (None, code)
    # The tokenizer is as it was.
    assert tokenizer("a").input_ids == transformers.AutoTokenizer.from_pretrained(folder)("a").input_ids


def _model(folder: Path, kind: str, size: int):
    """A random network, and what its generation_config.json says of forced and banned tokens."""
    torch.manual_seed(0)
    shape = dict(vocab_size=size, d_model=16, encoder_layers=1, decoder_layers=2, max_position_embeddings=40)
    heads = dict(encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=20, decoder_ffn_dim=20)
    config = getattr(transformers, f"{kind}Config")(**shape, **heads, init_std=0.5, tie_word_embeddings=False)
    network = getattr(transformers, f"{kind}ForConditionalGeneration")(config).eval()
    network.model.encoder.embed_tokens = network.model.decoder.embed_tokens = network.model.shared
    settings = dict(forced_eos_token_id=2, bad_words_ids=[[5], [6, 7], [2]], suppress_tokens=[8, 9, 1, 0])
    network.generation_config.update(**settings, decoder_start_token_id=2)
    network.save_pretrained(folder)
    return network


def test_texts_are_those_of_transformers(case, tmp_path):
    """The target language's token is forced, or begins decoding; generation_config.json forces and bans others."""
    folder, source, target, formats = case
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, src_lang=source)
    network = _model(folder, "M2M100" if "Latn" in source else "MBart", len(tokenizer))
    config = tiny.configuration(folder, tmp_path)
    config.data.update(source_language=source, target_language=target)
    config.decoding.update(strategy="beam", beams=2, max_length=7)
    opened = session.open_session(config)
    found = inference.write_texts(opened, None, SOURCES, progress=False, where="")
    code = tokenizer.convert_tokens_to_ids(target)
    last = formats.target.endswith(f"{{{target}}}")
    begin = dict(decoder_start_token_id=code) if last else dict(forced_bos_token_id=code)
    given = tokenizer(SOURCES, padding=True, return_tensors="pt")
    expected = network.generate(**given, **begin, num_beams=2, max_new_tokens=7)
    assert found == [text.strip() for text in tokenizer.batch_decode(expected, skip_special_tokens=True)]
    assert any(found) and opened.model_config.decoder_start == (code if last else 2)


def test_generation_config_goes_before_config(tmp_path):
    network = _model(tmp_path, "M2M100", 40)
    from prefix_jax.models import from_hf
    from prefix_jax.models.pretrained import directory

    config, _ = directory.read(tmp_path)
    model_config = from_hf(config)
    found = decoding.of_model({**config, "forced_bos_token_id": [4]}, model_config)
    assert found == (4, (2,), ((6, 7),), (8, 9, 1, 0, 5))  # the end token is no bad word
    network.generation_config.forced_eos_token_id = None
    network.generation_config.save_pretrained(tmp_path)
    assert decoding.of_model(directory.read(tmp_path)[0], model_config).forced_eos == ()
    with pytest.raises(UserError, match="99 among its bad_words_ids"):
        decoding.of_model({**config, "bad_words_ids": [[99]]}, model_config)
    with pytest.raises(UserError, match="a list of lists of token ids"):
        from_hf({**config, "bad_words_ids": [3]})


@pytest.mark.parametrize(
    ("source", "target", "says"),
    [("eng_Latn", "", "data.target_language"), ("eng_Latn", "xxx_Latn", '"xxx_Latn" is not a language')],
)
def test_a_missing_or_unknown_language_is_one_sentence(source, target, says):
    with pytest.raises(UserError, match=says):
        tokens.default_formats(_nllb(), True, source, target)


def test_a_tokenizer_without_languages_refuses_one(tmp_path):
    with pytest.raises(UserError, match="does not mark languages"):
        tokens.default_formats(tiny.tokenizer(tmp_path, tiny.texts()), True, "", "fra_Latn")


def test_targets_are_cut_by_the_vocabulary_of_targets():
    """Marian's tokenizer has two, of which `text_target` chooses the second."""

    class Two:
        bos_token_id, eos_token_id = None, 0

        def _switch_to_target_mode(self):
            pass

        def __call__(self, text=None, text_target=None, **options):
            return {"input_ids": [[1 if text_target is None else 2] * len(t) for t in text or text_target]}

    assert tokens.tokenise_sources(["ab"], Two(), "{source}{eos}", 9)[0].tolist() == [1, 1, 0]
    assert tokens.tokenise_targets(["abc"], Two(), "{target}{eos}")[0].tolist() == [2, 2, 2, 0]
