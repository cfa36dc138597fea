"""Plans: every record once, whole steps, full rows."""

import time

import numpy as np
import pytest

from prefix_jax import tasks
from prefix_jax.data import packing
from prefix_jax.data.packing import Shape, choose_shape, make_plan
from prefix_jax.dependencies import PackingPlan


def check(plan, epoch):
    """The properties of every epoch."""
    laid = plan.epoch(epoch)
    assert sorted(laid.records.tolist()) == list(range(len(plan.sizes)))
    assert len(laid.starts) == plan.steps + 1
    assert (np.diff(laid.starts) >= 1).all()
    for start, end in zip(laid.starts[:-1], laid.starts[1:], strict=True):
        rows, sizes = laid.rows[start:end], plan.sizes[laid.records[start:end]]
        assert (np.diff(rows) >= 0).all()
        assert rows.max() < plan.shape.rows
        for side, capacity in ((0, plan.shape.first), (1, plan.shape.second)):
            assert np.bincount(rows, sizes[:, side]).max() <= capacity
    return laid


@pytest.mark.parametrize("seed", range(6))
def test_every_record_once_an_epoch_whatever_the_sizes(seed):
    rng = np.random.default_rng(seed)
    count, batch = int(rng.integers(1, 400)), int(rng.integers(1, 40))
    sizes = np.stack([rng.integers(1, 200, count), rng.geometric(0.05, count)], axis=1)
    shape = choose_shape(sizes, batch, rows_multiple=int(rng.integers(1, 4)))
    plan = make_plan(sizes, shape, batch, seed)
    for epoch in (0, 1, 7):
        check(plan, epoch)


@pytest.mark.parametrize("shuffle", [True, False])
def test_rows_that_are_too_short_cost_steps_never_records(shuffle):
    sizes = np.stack([np.random.default_rng(0).integers(30, 100, 300)] * 2, axis=1)
    plan = make_plan(sizes, Shape(2, 100, 100), 16, 0, shuffle)
    assert plan.steps > 300 / 16
    for epoch in range(3):
        check(plan, epoch)


def test_an_epoch_that_fits_in_no_order_takes_the_groups_of_the_first(monkeypatch):
    sizes = np.stack([np.random.default_rng(0).integers(10, 60, 200)] * 2, axis=1)
    plan = make_plan(sizes, choose_shape(sizes, 8), 8, 0)
    first = check(plan, 0)
    attempt = packing.Plan.attempt
    monkeypatch.setattr(packing.Plan, "attempt", lambda self, n, k: attempt(self, n, k) if n == 0 else None)
    later = check(plan, 3)
    groups = lambda p: {tuple(p.records[a:b]) for a, b in zip(p.starts[:-1], p.starts[1:], strict=True)}
    assert groups(later) == groups(first)
    assert later.records.tolist() != first.records.tolist()


def test_epochs_and_seeds_give_other_orders_the_same_ones_the_same():
    sizes = np.stack([np.random.default_rng(0).integers(10, 60, 200)] * 2, axis=1)
    shape = choose_shape(sizes, 8)
    orders = [make_plan(sizes, shape, 8, seed).epoch(e).records.tolist() for seed, e in ((0, 0), (0, 1), (1, 0))]
    assert orders[0] != orders[1] != orders[2] != orders[0]
    assert make_plan(sizes, shape, 8, 0).epoch(1).records.tolist() == orders[1]


def test_rows_divide_into_parts():
    sizes = np.stack([np.random.default_rng(0).integers(10, 60, 500)] * 2, axis=1)
    for multiple in (2, 3, 4):
        assert choose_shape(sizes, 16, rows_multiple=multiple).rows % multiple == 0


@pytest.fixture(scope="module")
def e2e_sizes(real_data, pieces_tokenizer):
    """Lengths of E2E's training set under a small tokenizer: words and marks, about as T5's pieces."""
    records = tasks.pairs("e2e", "train", str(real_data / "e2e"))
    count = lambda text: len(text.split()) + text.count("-") + sum(len(w) > 8 for w in text.split()) + 1
    return np.array([(count(r.source), count(r.target)) for r in records])


@pytest.mark.parametrize("batch", [10, 16])
@pytest.mark.parametrize("joined", [True, False])
def test_e2e_rows_are_full_and_steps_whole(e2e_sizes, batch, joined):
    source, target = e2e_sizes.T
    sizes = np.stack([source + target - 1 if joined else source, target], axis=1)
    shape = choose_shape(sizes, batch)
    plan = make_plan(sizes, shape, batch, 0)
    assert plan.steps == -(-len(sizes) // batch)
    used = sizes.sum(axis=0) / (plan.steps * shape.rows * np.array([shape.first, shape.second]))
    fill = used[0] if joined else sizes.sum() / (plan.steps * shape.rows * (shape.first + shape.second))
    assert fill >= 0.93, (shape, used)
    began = time.process_time()
    counts = np.diff(check(plan, 1).starts)
    assert time.process_time() - began < 6
    assert (counts == batch).mean() > 0.99


def test_a_kept_plan_is_the_plan_that_was_made(tmp_path):
    sizes = np.stack([np.random.default_rng(0).integers(10, 60, 300)] * 2, axis=1)
    seed = 2**63
    made = make_plan(sizes, choose_shape(sizes, 8), 8, seed)
    depends = PackingPlan(packing.VERSION, np.__version__, sizes, 8, seed, True, 0, 1, None)
    packing.kept(tmp_path, depends, lambda: made)
    found = packing.kept(tmp_path, depends, lambda: pytest.fail("planned a second time"))
    assert (found.shape, found.batch, found.steps, found.seed, found.shuffle) == (made.shape, 8, made.steps, seed, True)
    for epoch in (0, 1):
        for name in ("records", "rows", "starts"):
            np.testing.assert_array_equal(getattr(found.epoch(epoch), name), getattr(made.epoch(epoch), name))
