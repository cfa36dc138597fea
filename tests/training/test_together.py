"""Members of one program: each equals the run it would be alone."""

import jax
import numpy as np
import pytest

from prefix_jax.config import default_config
from prefix_jax.training import loop, session
from prefix_jax.training.trainer import prepare, prepare_together
from tests import tiny
from tests.runs import lines

# Differ in everything that members may differ in.
ROWS = [
    {"prefix.length": 2, "optimizer.learning_rate": 1e-2},
    {"prefix.length": 5, "optimizer.weight_decay": 0.1, "training.seed": 7},
    {"prefix.length": 5, "prefix.initialisation": "random", "optimizer.warmup_steps": 1},
]


@pytest.fixture
def base_config(tmp_path, monkeypatch):
    monkeypatch.setenv("PREFIX_JAX_CACHE", str(tmp_path / "cache"))
    config = default_config()
    config.data.update(task="text", path=str(tiny.save_rows(tmp_path / "rows.jsonl", 40)))
    config.prefix.update(hidden=16, dropout=0.2)
    config.training.update(
        steps=6, batch=4, log_every=2, evaluate_every=3, evaluate_records=8, checkpoint_every=4, tensorboard=False,
    )  # fmt: skip
    return config


def changed(config, row: dict):
    config = config.copy_and_resolve_references()
    config.update_from_flattened_dict(row)
    return config


@pytest.mark.parametrize(
    ("family", "options"),
    [
        ("llama", {}),
        ("t5", {"prefix.reparameterisation": "none", "training.ema": 0.9}),
        ("gpt2", {"prefix.position_offset": "zero", "training.accumulation": 2, "training.loss": "examples"}),
        ("llama", {"prefix.layers": "1", "training.patience": 1, "optimizer.schedule": "constant"}),
    ],
)
def test_each_member_equals_its_solo_run(family, options, base_config, tiny_models, tmp_path):
    config = changed(base_config, {"model.source": str(tiny_models[family]), **options})
    opened = session.open_session(config)
    runs = [(changed(config, row), tmp_path / f"together{i}") for i, row in enumerate(ROWS)]
    together = loop.train(prepare_together(opened, runs, tmp_path / "together", []))
    for i, (row, member) in enumerate(zip(ROWS, together, strict=True)):
        folder = tmp_path / f"alone{i}"
        (alone,) = loop.train(prepare(opened.of(changed(config, row)), folder, []))
        assert (member.step, member.finished) == (alone.step, alone.finished)
        for got, expected in zip(jax.tree.leaves(member.trainable), jax.tree.leaves(alone.trainable), strict=True):
            np.testing.assert_allclose(got, expected, rtol=2e-4, atol=2e-5)
        for name in ("loss", "validation_loss", "gradient_norm", "learning_rate"):
            got, expected = lines(tmp_path / f"together{i}", name), lines(folder, name)
            assert got.keys() == expected.keys()
            np.testing.assert_allclose(list(got.values()), list(expected.values()), rtol=2e-5)


def test_a_member_that_diverges_leaves_the_others_alone(base_config, tiny_models, tmp_path):
    config = changed(base_config, {"model.source": str(tiny_models["llama"]), "optimizer.clip": 0.0})
    rows = [{"optimizer.learning_rate": 1e38}, {"optimizer.learning_rate": 1e-3}]
    runs = [(changed(config, row), tmp_path / str(i)) for i, row in enumerate(rows)]
    bad, good = loop.train(prepare_together(session.open_session(config), runs, tmp_path / "together", []))
    assert bad.diverged and not good.diverged
    (alone,) = loop.train(prepare(session.open_session(runs[1][0]), tmp_path / "alone", []))
    for got, expected in zip(jax.tree.leaves(good.trainable), jax.tree.leaves(alone.trainable), strict=True):
        np.testing.assert_allclose(got, expected, rtol=2e-4, atol=2e-5)


def test_a_resumed_group_ends_bit_equal(base_config, tiny_models, tmp_path, monkeypatch):
    config = changed(base_config, {"model.source": str(tiny_models["llama"])})
    opened = session.open_session(config)

    def run(name: str, steps: int):
        length = {"training.steps": steps, "optimizer.schedule": "constant"}
        runs = [(changed(config, {**row, **length}), tmp_path / name / str(i)) for i, row in enumerate(ROWS)]
        return loop.train(prepare_together(opened, runs, tmp_path / name, []))

    run("stopped", 4)
    for got, expected in zip(run("stopped", 6), run("whole", 6), strict=True):
        for a, b in zip(jax.tree.leaves(got.trainable), jax.tree.leaves(expected.trainable), strict=True):
            np.testing.assert_array_equal(a, b)


def test_members_keep_the_length_of_their_own_method(base_config, tiny_models, tmp_path):
    """Infixes of 4 beside an unused section that says 2."""
    options = {"model.source": str(tiny_models["gpt2"]), "method": "infix", "infix.length": 4, "infix.hidden": 16}
    config = changed(base_config, {**options, "prefix.length": 2, "training.steps": 2})
    opened = session.open_session(config)
    runs = [(changed(config, {"training.seed": seed}), tmp_path / str(seed)) for seed in (1, 2)]
    for member in loop.train(prepare_together(opened, runs, tmp_path / "together", [])):
        assert member.trainable["decoder"]["embedding"].shape[0] == 4
