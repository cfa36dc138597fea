"""Text as it comes: the pieces make the whole, and stop strings end it wherever they fall."""

import itertools

import pytest

from prefix_jax.serving.text import TextStream

WORDS = ["Place 3 serves Thai food.", " in the centre\n", "naïve – 日本語 🙂", "  spaces  "]


@pytest.fixture(scope="module")
def tokenizer(tiny_models):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_models["gpt2"])


def streamed(tokenizer, ids, **options):
    decode = lambda some: tokenizer.decode(some, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    stream, pieces = TextStream(decode, **options), []
    for id in ids:
        pieces.append(stream.add(id))
        if stream.stopped:
            break
    return [*pieces, stream.end()], stream.stopped, decode


def test_the_pieces_make_the_whole_text(tokenizer):
    for text in WORDS:
        ids = tokenizer(text)["input_ids"]
        pieces, stopped, decode = streamed(tokenizer, ids)
        assert "".join(pieces) == decode(ids) and not stopped
        assert "\ufffd" not in "".join(pieces[:-1])


def test_white_space_at_the_ends_is_left_out(tokenizer):
    ids = tokenizer("  spaces  within \n")["input_ids"]
    assert "".join(streamed(tokenizer, ids, strip=True)[0]) == tokenizer.decode(ids).strip()


@pytest.mark.parametrize("stops", [["Thai"], ["ai f", "zzz"], ["food.", "Thai"], ["3 serves Thai"], ["not there"]])
def test_a_stop_string_ends_the_text_before_it(tokenizer, stops):
    ids = tokenizer(WORDS[0])["input_ids"]
    pieces, stopped, decode = streamed(tokenizer, ids, stops=stops)
    whole = decode(ids)
    places = [whole.find(stop) for stop in stops if stop in whole]
    assert "".join(pieces) == (whole[: min(places)] if places else whole) and stopped == bool(places)


def test_no_part_of_a_stop_string_is_shown():
    alphabet = dict(enumerate("ab"))
    decode = lambda ids: "".join(alphabet[id] for id in ids)
    for ids in itertools.product(range(2), repeat=7):
        stream, out = TextStream(decode, ["aba", "bb"]), ""
        for id in ids:
            out += stream.add(id)
            if stream.stopped:
                break
        out += stream.end()
        whole = decode(ids)
        found = [place for stop in ("aba", "bb") if (place := whole.find(stop)) >= 0]
        ends = [whole.find(stop) + len(stop) for stop in ("aba", "bb") if stop in whole]
        first = min(ends) if ends else None
        within = [whole.find(stop) for stop in ("aba", "bb") if stop in whole[:first]]
        assert out == (whole[: min(within)] if found else whole), whole
