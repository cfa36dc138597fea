"""Damaged files of outside, a thousand of a fixed seed: read, or refused in a sentence (`make fuzz`: 20,000)."""

import contextlib
import io
import json
import random

import pytest

from tests.faults import instrument
from tests.faults.mutations import mutated_value, text_of
from tests.faults.readers import READERS
from tests.faults.samples import Samples

COUNT, SEED = 1000, 20


@pytest.mark.slow
def test_damaged_files_are_read_or_refused_in_a_sentence(tiny_models, tmp_path, monkeypatch):
    monkeypatch.setenv("PREFIX_JAX_CACHE", str(tmp_path / "cache"))
    samples = Samples(tmp_path, tiny_models)
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        found, seconds = instrument.run(samples, SEED, COUNT)
    assert not sum(one.failed for one in found.values()), instrument.summary(found, seconds)
    refused, read = (sum(getattr(one, name) for one in found.values()) for name in ("refused", "read"))
    assert refused > COUNT // 3 and read > COUNT // 5, "the damage is neither none nor all there is"


def test_mutants_are_those_of_their_seed_and_of_every_kind():
    value = {"a": [1, {"b": "c"}], "d": None, "e": 2.5}

    def made() -> list[bytes]:
        return [text_of(rng, mutated_value(rng, value)) for rng in map(random.Random, range(200))]

    texts = made()
    assert texts == made()
    assert len(set(texts)) > 150
    joined = b" ".join(texts)
    for kind in (b"NaN", b"null", b"<script>", b"18446744073709551615", b"\\u001b", b'"e": [2.5]'):
        assert kind in joined, kind


def test_what_a_reader_does_wrong_is_told(tmp_path):
    def read(folder, _):
        json.loads((folder / "x.json").read_bytes().decode())["a"]

    def make(folder, _):
        (folder / "x.json").write_text('{"a": 1, "b": 2}')

    reader = instrument.Reader("one", make, read, 1)
    bench = instrument.Bench(reader, Samples(tmp_path))
    outcome = instrument.drive(bench, 0, range(60))
    kinds = {place.split()[0] for place in outcome.failures}
    assert {"KeyError", "JSONDecodeError", "RecursionError"} <= kinds and outcome.failed + outcome.read == 60


@pytest.mark.parametrize("bad", ["slow", "large"])
def test_time_and_memory_are_bounded(bad, monkeypatch):
    monkeypatch.setattr(instrument, "SECONDS", 0.05)
    error = instrument.TooSlow if bad == "slow" else MemoryError
    with pytest.raises(error), instrument.bounded():
        while bad == "slow":
            pass
        bytearray(8 * instrument.BYTES)


def test_every_reader_has_a_share():
    counts = instrument.counts(COUNT)
    assert len(counts) == len(READERS) and all(count >= 5 for count in counts.values())
