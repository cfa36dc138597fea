"""Tokenising: formats, cuts, limits, the cache."""

import numpy as np
import pytest

from prefix_jax import tasks
from prefix_jax.data import tokens
from prefix_jax.data.records import pair
from prefix_jax.data.tokens import Formats, Limits
from prefix_jax.dependencies import TokenIds
from prefix_jax.errors import UserError

GPT2 = Formats(" {source} {bos}", " {target} {eos}")


def record(source="name : Heron Light", target="Heron Light is a lighthouse."):
    return pair(source, target, None, "train-0", 0)


def test_gpt2_form_is_the_papers_text_tokenised_whole(bytes_tokenizer):
    """Li & Liang: ' {source} {bos} ' + target + ' {eos}', in one piece; here in two, with a boundary that is known."""
    records = tasks.pairs("lighthouse", "test", limit=50)
    data = tokens.tokenise(records, bytes_tokenizer, GPT2, Limits())
    for i, r in enumerate(records):
        whole = f" {r.source} <|endoftext|> {r.target} <|endoftext|>"
        wanted = bytes_tokenizer(whole, add_special_tokens=False)["input_ids"]
        assert [*data.sources[i], *data.targets[i]] == wanted
        assert data.sources[i][-1] == data.targets[i][-1] == bytes_tokenizer.eos_token_id


def test_t5_form_ends_in_eos(pieces_tokenizer):
    formats = tokens.default_formats(pieces_tokenizer, encoder_decoder=True)
    data = tokens.tokenise([record()], pieces_tokenizer, formats, Limits())
    for side, text in ((data.sources[0], record().source), (data.targets[0], record().target)):
        assert side[-1] == pieces_tokenizer.eos_token_id
        assert pieces_tokenizer.decode(side[:-1]) == text
    assert data.sources.ids.dtype == np.int32


def test_default_formats_follow_the_tokenizer(bytes_tokenizer, pieces_tokenizer):
    assert tokens.default_formats(bytes_tokenizer, False) == GPT2
    assert tokens.default_formats(pieces_tokenizer, False) == Formats("{source}\n", "{target}{eos}")
    assert tokens.default_formats(bytes_tokenizer, True) == Formats("{source}{eos}", "{target}{eos}")


def test_a_long_source_is_cut_and_the_formats_tail_stays(bytes_tokenizer):
    plain = tokens.tokenise_sources(["a b c d e f g h"], bytes_tokenizer, GPT2.source, 100)[0]
    cut = tokens.tokenise_sources(["a b c d e f g h"], bytes_tokenizer, GPT2.source, 6)[0]
    assert len(cut) == 6
    assert list(cut[:4]) == list(plain[:4])
    assert list(cut[-2:]) == list(plain[-2:])
    assert bytes_tokenizer.decode(plain[-2:]) == " <|endoftext|>"
    with pytest.raises(UserError, match="max_source_length"):
        tokens.tokenise_sources(["a b c d e f g h"], bytes_tokenizer, GPT2.source, 2)


def test_a_long_target_names_record_length_and_option(bytes_tokenizer):
    with pytest.raises(UserError, match=r"Record train-0#0 has a target of \d+ tokens, over the 5 .*max_target_length"):
        tokens.tokenise([record()], bytes_tokenizer, GPT2, Limits(target=5))


def test_what_exceeds_the_window_names_record_and_lengths(bytes_tokenizer):
    data = tokens.tokenise([record()], bytes_tokenizer, GPT2, Limits())
    total = int(data.sources.lengths[0] + data.targets.lengths[0])
    tokens.tokenise([record()], bytes_tokenizer, GPT2, Limits(window=total - 1))
    with pytest.raises(UserError, match=r"Record train-0#0 .* context length of \d+"):
        tokens.tokenise([record()], bytes_tokenizer, GPT2, Limits(window=total - 2))


@pytest.mark.parametrize(
    ("formats", "said"),
    [
        (Formats("{bos}", "{target}"), "source_format"),
        (Formats("{source}", "{target}{sep}"), '"{sep}"'),
        (Formats("{source}{source}", "{target}"), "once"),
    ],
)
def test_bad_formats(bytes_tokenizer, formats, said):
    with pytest.raises(UserError, match=said):
        tokens.tokenise([record()], bytes_tokenizer, formats, Limits())


def test_a_special_token_the_tokenizer_lacks(pieces_tokenizer):
    with pytest.raises(UserError, match=r"uses \{bos\}, which the tokenizer"):
        tokens.tokenise([record()], pieces_tokenizer, Formats("{bos}{source}", "{target}"), Limits())


def test_kept_ids_are_those_that_were_made(bytes_tokenizer, tmp_path):
    records = [record("ab", "c"), record("d", "e")]
    depends = TokenIds(tokens.VERSION, "key", "", "", False, (8, 8, 0), ["ab", "d"], ["c", "e"])
    made = tokens.kept(tmp_path, depends, lambda: tokens.tokenise(records, bytes_tokenizer, GPT2, Limits()))
    again = tokens.kept(tmp_path, depends, lambda: pytest.fail("tokenised a second time"))
    for one, other in zip((*made.sources, *made.targets), (*again.sources, *again.targets), strict=True):
        np.testing.assert_array_equal(one, other)
        assert one.dtype == other.dtype
