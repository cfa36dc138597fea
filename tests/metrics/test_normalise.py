import json

from common import data_file

from prefix_jax.metrics import normalise


def test_dart_is_the_form_of_the_official_reference_files():
    items = json.loads(data_file("dart/dart-v1.1.1-full-test.json").read_text(encoding="utf-8-sig"))
    for place in range(3):
        lines = data_file(f"dart/all-delex-reference{place}.lex").read_text(encoding="utf-8").split("\n")
        texts = [[annotation["text"] for annotation in item["annotations"]] for item in items]
        assert lines[: len(items)] == [normalise.dart(row[place]) if place < len(row) else "" for row in texts]


def test_webnlg_is_split_ascii_and_lower_case():
    text = "Agra's Airport (AGR) – elevation 167.94m, in São Paulo."
    expected = "agra ' s airport ( agr ) - elevation 167 . 94m , in sao paulo ."
    assert normalise.webnlg_reference(text) == normalise.webnlg_hypothesis(text) == expected


def test_webnlg_order_differs_between_output_and_reference():
    # ½ is a word character, and " 1/2 " in ASCII: the reference is split before it becomes ASCII, the output after.
    assert normalise.webnlg_reference("x½").split() == ["x", "1/2"]
    assert normalise.webnlg_hypothesis("x½").split() == ["x", "1", "/", "2"]


def test_dart_keeps_letters_beyond_ascii():
    assert normalise.dart("Café-Bar:\n£20") == "café - bar : £ 20"
