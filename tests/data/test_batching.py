"""Packed batches: hand-made examples, the round trip to the records' own ids, purity in the step, parts and shards."""

import time

import jax
import numpy as np
import pytest

from prefix_jax import tasks
from prefix_jax.data import tokens
from prefix_jax.data.batching import Layout, PackedBatches, split
from prefix_jax.data.tokens import Limits, Ragged, TokenisedSet
from prefix_jax.errors import UserError
from prefix_jax.training.loss import record_count

START, PAD = 99, 77


def ragged(*sequences):
    lengths = [len(s) for s in sequences]
    return Ragged(np.concatenate([np.asarray(s, np.int32) for s in sequences]), np.cumsum([0, *lengths]))


def random_set(seed, count):
    rng = np.random.default_rng(seed)
    side = lambda low, high: ragged(*(rng.integers(1, 9999, rng.integers(low, high)) for _ in range(count)))
    return TokenisedSet(side(1, 40), side(1, 25))


LAYOUTS = [Layout(False, pad=PAD), Layout(True, decoder_start=START, pad=PAD)]


def test_trap_19_decoder_only_shift_by_hand():
    """Source 1 2 3, target 4 5; source 6, target 7 8 9: the state of each column predicts the token that follows it."""
    data = TokenisedSet(ragged([1, 2, 3], [6]), ragged([4, 5], [7, 8, 9]))
    batches = PackedBatches(data, Layout(False, pad=PAD), batch=2, row_length=10, shuffle=False)
    assert (batches.shape.rows, batches.steps_per_epoch) == (1, 1)
    batch = batches.batch_at(0)
    order = batches.records_at(0)[0].tolist()
    assert sorted(order) == [0, 1]
    if order == [0, 1]:
        assert batch.tokens[0].tolist() == [1, 2, 3, 4, 6, 7, 8, PAD, PAD, PAD]
        assert batch.positions[0].tolist() == [0, 1, 2, 3, 0, 1, 2, 0, 0, 0]
        assert batch.segment_ids[0].tolist() == [1, 1, 1, 1, 2, 2, 2, 0, 0, 0]
        assert batch.target_positions[0, :5].tolist() == [2, 3, 4, 5, 6]
        assert batch.targets[0, :5].tolist() == [4, 5, 7, 8, 9]
    else:
        assert batch.tokens[0].tolist() == [6, 7, 8, 1, 2, 3, 4, PAD, PAD, PAD]
        assert batch.target_positions[0, :5].tolist() == [0, 1, 2, 5, 6]
        assert batch.targets[0, :5].tolist() == [7, 8, 9, 4, 5]
    assert batch.weights[0].tolist() == [1.0] * 5 + [0.0] * (batch.weights.shape[1] - 5)
    assert batch.encoder_tokens is None


def test_targets_without_a_loss_are_read_and_not_predicted():
    """Source 1 2, target 3 4 5 6 of which 3 and 6 have a loss; the set at one place, and with virtual tokens before."""
    trained = np.array([True, False, False, True, True, True])
    data = TokenisedSet(ragged([1, 2], [7]), ragged([3, 4, 5, 6], [8, 9]), trained=trained, owners=np.array([0, 4]))
    batches = PackedBatches(data, Layout(False, pad=PAD), batch=2, row_length=7, shuffle=False)
    assert batches.sizes.tolist() == [[5, 2], [2, 2]] and batches.target_counts(np.array([1, 0])).tolist() == [2, 2]
    batch, order = batches.batch_at(0), batches.records_at(0)[0].tolist()
    predicted = {0: {3: [1, 2], 6: [1, 2, 3, 4, 5]}, 1: {8: [7], 9: [7, 8]}}
    expected = {id: seen for record in order for id, seen in predicted[record].items()}
    assert batch.weights[0].tolist() == [1.0] * 4 + [0.0] * (batch.weights.shape[1] - 4)
    assert batch.targets[0, :4].tolist() == list(expected)
    for place, id in zip(batch.target_positions[0, :4].tolist(), expected, strict=True):
        first = place - int(batch.positions[0, place])
        assert batch.tokens[0, first : place + 1].tolist() == expected[id]
    one = data.at(np.array([1])).reserving(2)
    assert one.trained.tolist() == [True, True] and one.owners.tolist() == [4]
    assert one.sources[0].tolist() == [0, 0, 7] and one.scored()[0][0].tolist() == [8, 9]


def test_encoder_decoder_shift_by_hand():
    data = TokenisedSet(ragged([1, 2, 3]), ragged([4, 5]))
    batch = PackedBatches(data, Layout(True, START, PAD), batch=1, row_length=5).batch_at(0)
    assert batch.encoder_tokens[0].tolist() == [1, 2, 3, PAD, PAD]
    assert batch.encoder_positions[0].tolist() == [0, 1, 2, 0, 0]
    assert batch.encoder_segment_ids[0].tolist() == [1, 1, 1, 0, 0]
    assert batch.tokens[0, :2].tolist() == [START, 4]
    assert batch.segment_ids[0, :2].tolist() == [1, 1]
    assert batch.target_positions[0, :2].tolist() == [0, 1]
    assert batch.targets[0, :2].tolist() == [4, 5]


def unpack(batch, layout):
    """Returns the (source, target) ids of every segment, from the batch alone."""
    found = []
    for row in range(len(batch.tokens)):
        for segment in range(1, batch.segment_ids[row].max() + 1):
            columns = np.flatnonzero(batch.segment_ids[row] == segment)
            assert (np.diff(columns) == 1).all()
            assert batch.positions[row, columns].tolist() == list(range(len(columns)))
            mine = np.isin(batch.target_positions[row], columns) & (batch.weights[row] > 0)
            at, target = batch.target_positions[row, mine], batch.targets[row, mine]
            tokens_ = batch.tokens[row, columns]
            # Each target but the last is the token of the column after its own.
            assert batch.tokens[row, at[:-1] + 1].tolist() == target[:-1].tolist()
            if layout.encoder_decoder:
                assert tokens_[0] == layout.decoder_start
                assert at.tolist() == columns.tolist()
                inside = np.flatnonzero(batch.encoder_segment_ids[row] == segment)
                assert batch.encoder_positions[row, inside].tolist() == list(range(len(inside)))
                source = batch.encoder_tokens[row, inside]
            else:
                source = tokens_[: len(columns) - len(target) + 1]
                assert at[0] == columns[len(source) - 1]
            found.append((tuple(source.tolist()), tuple(target.tolist())))
    return found


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("seed", range(4))
def test_rows_unpack_to_every_record_once_an_epoch(layout, seed):
    data = random_set(seed, 150 + seed)
    batches = PackedBatches(data, layout, batch=7 + seed, seed=seed)
    wanted = sorted((tuple(data.sources[i].tolist()), tuple(data.targets[i].tolist())) for i in range(len(data)))
    for epoch in (0, 2):
        steps = range(epoch * batches.steps_per_epoch, (epoch + 1) * batches.steps_per_epoch)
        made = [batches.batch_at(step) for step in steps]
        assert sorted(pair for batch in made for pair in unpack(batch, layout)) == wanted
        assert sum(int(record_count(batch)) for batch in made) == len(data)
        assert len({batch.tokens.shape for batch in made}) == len({batch.targets.shape for batch in made}) == 1


@pytest.mark.parametrize("layout", LAYOUTS)
def test_trap_22_padding_has_position_0_segment_0_weight_0(layout):
    batches = PackedBatches(random_set(1, 60), layout, batch=8)
    for step in range(batches.steps_per_epoch):
        batch = batches.batch_at(step)
        empty = batch.segment_ids == 0
        assert (batch.tokens[empty] == PAD).all()
        assert (batch.positions[empty] == 0).all()
        unused = batch.weights == 0
        assert (batch.targets[unused] == 0).all()
        assert (batch.target_positions[unused] == batch.tokens.shape[1] - 1).all()
        assert set(np.unique(batch.weights)) <= {0.0, 1.0}
        assert batch.weights.dtype == np.float32
        assert {a.dtype for a in jax.tree.leaves(batch)} == {np.dtype(np.int32), np.dtype(np.float32)}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_resume_sees_the_very_batches(layout):
    data = random_set(3, 200)
    through = PackedBatches(data, layout, batch=9, seed=5)
    steps = 3 * through.steps_per_epoch
    seen = [through.batch_at(step) for step in range(steps)]
    for step in (steps - 1, 0, through.steps_per_epoch, 17):
        fresh = PackedBatches(data, layout, batch=9, seed=5).batch_at(step)
        assert jax.tree.all(jax.tree.map(np.array_equal, fresh, seen[step]))
    assert not np.array_equal(seen[0].tokens, seen[through.steps_per_epoch].tokens)
    other = PackedBatches(data, layout, batch=9, seed=6)
    assert other.records_at(0)[0].tolist() != through.records_at(0)[0].tolist()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_parts_are_the_batch_s_rows(layout):
    batches = PackedBatches(random_set(4, 120), layout, batch=12, rows_multiple=4)
    batch = batches.batch_at(1)
    assert batch.tokens.shape[0] % 4 == 0
    parts = split(batch, 2)
    assert parts.tokens.shape == (2, batch.tokens.shape[0] // 2, batch.tokens.shape[1])
    for whole, part in zip(*map(jax.tree.leaves, (batch, parts)), strict=True):
        assert np.array_equal(np.concatenate(list(part)), whole)
    assert split(batch, 1) is batch
    with pytest.raises(UserError, match="rows_multiple=97"):
        split(batch, 97)


def test_statistics_count_what_the_batches_hold():
    layout = LAYOUTS[1]
    batches = PackedBatches(random_set(5, 300), layout, batch=10)
    made = list(batches.epoch())
    numbers = batches.statistics()
    share = lambda arrays: float(np.mean([np.mean(a != 0) for a in arrays]))
    assert numbers["fill_source"] == pytest.approx(share([b.encoder_segment_ids for b in made]))
    assert numbers["fill_targets"] == pytest.approx(share([b.weights for b in made]))
    assert numbers["records_per_step"] == pytest.approx(10)


def test_no_records_and_rows_too_short_are_said():
    none = Ragged(np.zeros(0, np.int32), np.zeros(1, np.int64))
    with pytest.raises(UserError, match="no records"):
        PackedBatches(TokenisedSet(none, none), LAYOUTS[0], 4)
    with pytest.raises(UserError, match=r"row_length to at least \d+"):
        PackedBatches(random_set(0, 50), LAYOUTS[0], 4, row_length=8)


def test_batch_is_a_pytree_that_jit_takes():
    batch = PackedBatches(random_set(0, 20), LAYOUTS[0], 4).batch_at(0)
    total = jax.jit(lambda b: (b.weights.sum(), b.encoder_tokens is None))(batch)
    assert (float(total[0]), bool(total[1])) == (float(batch.weights.sum()), True)


def test_the_embedded_set_from_text_to_rows(bytes_tokenizer, pieces_tokenizer):
    """With both tokenizers: rows are full, batches quick, and the ids decode to the records' texts."""
    records = tasks.pairs("lighthouse", "train")
    for tokenizer, layout in ((bytes_tokenizer, Layout(False)), (pieces_tokenizer, Layout(True))):
        formats = tokens.default_formats(tokenizer, layout.encoder_decoder)
        data = tokens.tokenise(records, tokenizer, formats, Limits(target=256))
        batches = PackedBatches(data, layout, batch=16)
        assert batches.steps_per_epoch == -(-len(records) // 16)
        assert batches.statistics()["fill"] > 0.85
        index = int(batches.records_at(3)[0][0])
        source, target = unpack(batches.batch_at(3), layout)[0]
        assert records[index].target in tokenizer.decode(target)
        assert records[index].source in tokenizer.decode(source)
        times = []
        for step in range(40):
            began = time.perf_counter()
            batches.batch_at(step)
            times.append(time.perf_counter() - began)
        assert np.median(times) < 0.002


def test_evaluation_keeps_about_the_records_order():
    batches = PackedBatches(random_set(6, 100), LAYOUTS[0], batch=10, shuffle=False)
    assert max(batches.records_at(0)[0]) < 10 + 64


@pytest.mark.parametrize("layout", LAYOUTS, ids=["decoder_only", "encoder_decoder"])
@pytest.mark.parametrize("row_length, alone", [(64, True), (200, False)])
def test_a_run_knows_whether_each_row_holds_one_record(layout, row_length, alone):
    """In all batches alike, or a step would be compiled twice."""
    rng = np.random.default_rng(0)
    side = lambda low, high: ragged(*(rng.integers(1, 99, rng.integers(low, high)) for _ in range(24)))
    batches = PackedBatches(TokenisedSet(side(34, 50), side(2, 9)), layout, batch=4, row_length=row_length)
    made = [batches.batch_at(step) for step in range(2 * batches.steps_per_epoch)]
    assert {batch.alone for batch in made} == {alone}
    assert (max(int(batch.segment_ids.max()) for batch in made) == 1) == alone
