"""The steps of docs/adding_a_method.md: a method from outside the package trains, is saved, and opens again."""

import json

import numpy as np
import pytest

from prefix_jax import inference
from prefix_jax.config import check_ranges, default_config
from prefix_jax.errors import UserError
from prefix_jax.reporting.report import write_report
from prefix_jax.training import pipeline
from tests import tiny

# The scale of the norm behind the last layer.
METHOD = """
import jax
import jax.numpy as jnp

from prefix_jax.models.adapter_layers import TUNED
from prefix_jax.tuning import Declaration, Method, TunedState


def section():
    return dict(
        # The start is the model's own scale times this.
        factor=1.0,
    )


def method(model, section, init_token_ids):
    def init(key, base):
        return jax.tree.map(lambda leaf: section.factor * leaf.astype(jnp.float32), base["params"]["final_norm"])

    return Method(init, lambda trainable, base, key=None: TunedState(None, {TUNED: {"final_norm": trainable}}))


METHOD = Declaration(
    name="norms", title="Norm tuning", section=section, build=method, kind=lambda section, share: "norms",
    label=lambda section, share: f"norms, times {section['factor']}", ranges={"above 0": ("factor",)},
    changes_base=True,
)
"""


@pytest.fixture
def package(tmp_path, monkeypatch):
    (tmp_path / "toy_methods").mkdir()
    (tmp_path / "toy_methods/norms.py").write_text(METHOD)
    (tmp_path / "toy_methods/empty.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    return "toy_methods.norms"


def configuration(method: str, source, folder):
    config = default_config(method)
    tiny_config = tiny.configuration(source, folder)
    for name in ("model", "data", "prefix"):
        config[name].update(tiny_config[name])
    config.training.update(steps=4, batch=4, tensorboard=False, evaluate_every=0)
    config.optimizer.learning_rate = 0.05
    return config


@pytest.mark.parametrize("others", ["", "prefix+"])
def test_a_method_from_elsewhere_trains_and_opens_again(others, package, tiny_models, tmp_path):
    config = configuration(others + package, tiny_models["llama"], tmp_path)
    config.norms.factor = 1.5
    assert pipeline.tune(config, tmp_path / "run", []).finished
    tuned = inference.open_tuned(tmp_path / "run")
    assert tuned.session.config.method == others + package and tuned.session.config.norms.factor == 1.5
    assert (tuned.kept.prefix is not None) == bool(others)
    scale = tuned.kept.collections["tuned"]["final_norm"]["scale"]
    frozen = tuned.session.base["params"]["final_norm"]["scale"]
    assert 0 < np.abs(np.asarray(scale) - 1.5 * np.asarray(frozen)).max() < 0.5
    assert len(inference.write_texts(tuned.session, tuned.kept, [tiny.rows(1)[0]["source"]], progress=False)) == 1
    record = json.loads((tmp_path / "run/config.json").read_text())
    width = tuned.session.model_config.d_model
    assert record["parameters"]["trained"] >= width and record["config"]["norms"] == {"factor": 1.5}
    write_report(tmp_path / "run")
    report = (tmp_path / "run/report.html").read_text()
    assert "Norm tuning" in report and "factor 1.5" in report and "some or all tuned" in report


def test_a_method_from_elsewhere_is_checked(package):
    config = default_config(package)
    config.norms.factor = -1.0
    with pytest.raises(UserError, match=r"norms.factor is -1.0; it must be above 0"):
        check_ranges(config)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("toy_methods.absent", 'the module "toy_methods.absent", which cannot be imported'),
        ("toy_methods.empty", 'has no "METHOD"'),
        ("norms", 'there is no method "norms"'),
    ],
)
def test_a_method_that_cannot_be_found_is_one_sentence(name, words, package):
    with pytest.raises(UserError, match=words):
        default_config(name)
