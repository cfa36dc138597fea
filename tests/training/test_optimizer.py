"""The optimizer against optax's own, and what masks must keep still."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from prefix_jax.config import default_config
from prefix_jax.errors import UserError
from prefix_jax.training.optimizer import hyperparameters_from, learning_rate, make_optimizer


def hyper(total: int = 100, **changes):
    section = default_config().optimizer
    section.update(changes)
    return hyperparameters_from(section, total)


def test_equals_optax_adamw_with_clipping():
    rng = np.random.default_rng(0)
    values = {"a": jnp.array(rng.normal(size=(3, 4))), "b": jnp.array(rng.normal(size=5))}
    mask = jax.tree.map(lambda _: True, values)
    ours = make_optimizer(hyper(clip=0.7, weight_decay=0.1, b2=0.99), mask)
    theirs = optax.chain(
        optax.clip_by_global_norm(0.7), optax.scale_by_adam(0.9, 0.99, 1e-8), optax.add_decayed_weights(0.1)
    )
    state, reference = ours.init(values), theirs.init(values)
    for _ in range(3):
        grads = jax.tree.map(lambda v: jnp.array(rng.normal(size=v.shape)), values)
        mine, state = ours.update(grads, state, values)
        wanted, reference = theirs.update(grads, reference, values)
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-7), mine, wanted)


def test_trap_17_masked_out_leaves_stay_and_do_not_count_in_the_clipping():
    values = {"moves": jnp.ones(3), "stays": jnp.ones(3)}
    mask = {"moves": True, "stays": False}
    grads = {"moves": jnp.full(3, 0.1), "stays": jnp.full(3, 1e6)}
    optimizer = make_optimizer(hyper(clip=1.0), mask)
    updates, _ = optimizer.update(grads, optimizer.init(values), values)
    assert not np.any(updates["stays"])
    alone = make_optimizer(hyper(clip=1.0), {"moves": True})
    wanted, _ = alone.update(
        {"moves": grads["moves"]}, alone.init({"moves": values["moves"]}), {"moves": values["moves"]}
    )
    np.testing.assert_array_equal(updates["moves"], wanted["moves"])


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant"])
def test_schedules_equal_optax(schedule: str):
    ours = hyper(schedule=schedule, learning_rate=0.5, warmup_steps=10, final_fraction=0.0)
    after = {
        "linear": optax.linear_schedule(0.5, 0.0, 90),
        "cosine": optax.cosine_decay_schedule(0.5, 90),
        "constant": optax.constant_schedule(0.5),
    }[schedule]
    for step in (10, 11, 40, 99, 100, 150):
        np.testing.assert_allclose(learning_rate(ours, step), after(step - 10), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose([learning_rate(ours, s) for s in (0, 4, 9)], [0.05, 0.25, 0.5], rtol=1e-6)


def test_an_unknown_schedule_is_one_sentence():
    with pytest.raises(UserError, match="optimizer.schedule"):
        hyper(schedule="cosin")
