"""Every family of the package is in the table of cases, and `python -m tests.parity` fails where a family is wrong."""

import pytest

from prefix_jax.models import FAMILIES
from tests.conftest import ROOT
from tests.parity import __main__ as command
from tests.parity import cases, measures


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_compared_in_every_way(family):
    (one, *_) = cases.of_family(family).values()
    cases.first(family, "decoding")
    cases.first(family, "lora")
    if not one.encoder_decoder:  # PEFT spreads a prefix of the others over the wrong layers
        cases.first(family, "peft")


def test_a_family_without_a_case_is_named(monkeypatch):
    monkeypatch.setattr(cases, "CASES", {"gpt2": cases.CASES["gpt2"]})
    with pytest.raises(AssertionError, match="the family bloom has no case"):
        cases.of_family("bloom")
    monkeypatch.setattr(cases, "CASES", {"gpt2": cases.Case("GPT2")})
    with pytest.raises(AssertionError, match="gpt2 .* has peft"):
        cases.first("gpt2", "peft")


@pytest.mark.parametrize(
    ("found", "code"),
    [
        (measures.Measure(9e-5), 0), (measures.Measure(2e-4), 1), (measures.Measure(float("nan")), 1),
        (measures.Measure(0, 12), 0), (measures.Measure(1, 12), 1),
    ],
)  # fmt: skip
def test_the_command_fails_above_its_limit(found, code, monkeypatch, capsys):
    monkeypatch.setattr(measures, "measures", lambda family: {"logits": measures.Measure(1e-6), "left": found})
    assert command.main(["gpt2", "t5"]) == code
    out, errors = capsys.readouterr()
    head, first, second = out.splitlines()
    assert head.split() == ["family", *measures.COLUMNS] and first.startswith("gpt2") and second.startswith("t5")
    assert errors.count("different tokens: left") == 2 * code


def test_the_documentation_shows_every_family_with_what_it_was_compared_for(monkeypatch, capsys):
    """Its figures are of one run; here a dash is where a family has no such comparison."""
    text = (ROOT / "docs" / "families.md").read_text(encoding="utf-8")
    shown = text.partition("<!-- parity -->")[2].partition("<!-- end of parity -->")[0].strip().splitlines()
    monkeypatch.setattr(measures, "measures", columns)
    command.main(["--markdown"])
    expected = capsys.readouterr().out.splitlines()
    assert shown[:2] == expected[:2] and len(shown) == len(expected)
    for mine, theirs in zip(shown[2:], expected[2:], strict=True):
        cells, others = ([cell.strip() for cell in line.split("|")] for line in (mine, theirs))
        assert cells[1] == others[1] and [cell == "-" for cell in cells] == [cell == "-" for cell in others]


def columns(family):
    """What `measures` has for a family, without measuring."""
    found = cases.of_family(family).values()
    one = next(iter(found))
    names = {"logits", "right", "packed", "gradient", "greedy", "beam", "LoRA", "prompt"}
    if not one.encoder_decoder:
        infix = any(case.peft is not None and case.kind not in ("Bloom", "Mpt") for case in found)
        names |= {"left", "prefix"} | ({"infix"} if infix else set())
    return {name: measures.Measure(1e-6) for name in names}


def test_an_unknown_family_is_named(capsys):
    assert command.main(["gpt9"]) == 2
    assert "no family gpt9; known: gpt2" in capsys.readouterr().err


def test_a_wrong_network_is_measured():
    """Of other weights than torch's, the logits are far away."""
    case = cases.CASES["gpt2"]
    pair = case.pair()
    _, model, variables = case.pair(n_inner=50)
    (name, measure), *_ = measures._decoder_only(pair._replace(model=model, variables=variables))
    assert name == "logits" and measure.value > 0.1 and not measure.good
