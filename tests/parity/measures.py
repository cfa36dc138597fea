"""The largest differences between a family here and in transformers or PEFT, by comparison."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from prefix_jax.decoding import GenerationConfig
from tests.decoding import reference
from tests.models import torch_models as tm
from tests.parity import adapters, cases, decoder_only, encoder_decoder

LIMIT = 1e-4
COLUMNS = (
    "logits", "right", "left", "packed", "gradient", "greedy", "beam", "prefix", "LoRA", "prompt", "infix",
)  # fmt: skip


class Measure(NamedTuple):
    """A comparison: the largest absolute difference, or with greedy decoding, how many of `rows` rows differ."""

    value: float
    rows: int = 0

    @property
    def good(self) -> bool:
        return self.value <= LIMIT

    def __str__(self) -> str:
        return f"{self.value:.0f} of {self.rows}" if self.rows else f"{self.value:.1e}"


def measures(family: str) -> dict[str, Measure]:
    """Returns the measures of a family by column, each the largest over the family's cases."""
    found: dict[str, Measure] = {}
    for name, case in cases.of_family(family).items():
        for column, measure in _of_case(name, case):
            before = found.get(column, Measure(0.0))
            found[column] = Measure(float(np.maximum(before.value, measure.value)), before.rows + measure.rows)
    return found


def _of_case(name: str, case: cases.Case) -> Iterator[tuple[str, Measure]]:
    pair = case.pair()
    yield from (_encoder_decoder if case.encoder_decoder else _decoder_only)(pair)
    if case.decoding is not None:
        bans = reference.BANS.get(name, {})
        written = reference.greedy(name, bans, range(2))
        yield "greedy", Measure(written.differ, written.compared)
        options = GenerationConfig(strategy="beam", max_length=12, beams=3, **bans)
        yield "beam", Measure(reference.beam(name, options, range(1)).difference)
    with tempfile.TemporaryDirectory() as folder:
        yield from _adapters(case, Path(folder))


def _adapters(case: cases.Case, folder: Path) -> Iterator[tuple[str, Measure]]:
    if case.peft is not None:
        pair = case.pair(**case.peft)
        yield "prefix", _largest(adapters.with_prefix(pair, folder / "prefix"))
        # transformers gives a slot of an infix a distance, and slots here have none.
        if pair.model_config.alibi is None:
            yield "infix", _largest(adapters.with_infix(pair))
    if case.lora is not None:
        pair = case.pair(**case.lora)
        yield "LoRA", _largest(adapters.with_lora(pair, folder / "lora"))
        yield "prompt", _largest(adapters.with_prompt(pair, folder / "prompt"))


def _decoder_only(pair: tm.Pair) -> Iterator[tuple[str, Measure]]:
    calls = decoder_only.Calls(pair)
    for column, side in (("logits", "none"), ("right", "right"), ("left", "left")):
        yield column, _largest(calls.logits(side))
        yield from _prefixed(column, calls.gradients(side))
    for together, _, expected in calls.packed():
        yield "packed", _largest((together, expected))


def _encoder_decoder(pair: tm.Pair) -> Iterator[tuple[str, Measure]]:
    calls = encoder_decoder.Calls(pair)
    for column, pads in (("logits", (0, 0, 0)), ("right", (0, 4, 8))):
        yield column, _largest(calls.compare_logits(pads))
    for kind in ("all", "subsets"):
        yield from _prefixed("right", calls.gradients(kind))
    for together, _, expected in calls.packed():
        yield "packed", _largest((together, expected))


def _prefixed(column: str, found: tuple) -> Iterator[tuple[str, Measure]]:
    logits, expected, gradients, leaves = found
    yield column, _largest((logits, expected))
    for name, leaf in leaves.items():
        site, part = name.split(".")
        theirs = leaf.grad.numpy()
        # Sums over all logits of a batch, and so as large as they are many.
        size = max(1.0, float(np.abs(theirs).max()))
        yield "gradient", _largest((gradients[site][part] / size, theirs / size))


def _largest(pair: tuple[Any, Any]) -> Measure:
    found, expected = (np.asarray(one) for one in pair)
    assert found.shape == expected.shape
    return Measure(float(np.abs(found - expected).max()))
