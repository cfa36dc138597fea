"""The steps of docs/adding_a_family.md: a family from outside the package trains, is saved, and opens again."""

import json

import numpy as np
import pytest

from prefix_jax import inference
from prefix_jax.models import FAMILIES, from_hf
from prefix_jax.training import pipeline
from tests import tiny

# GPT-2 with the norm of Llama and without positions of any kind.
FAMILY = """
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from prefix_jax.models.decoder_only import DecoderOnly
from prefix_jax.models.families import gpt2
from prefix_jax.models.families.family import Family
from prefix_jax.models.layers import MLP, Block, RMSNorm, SelfAttention
from prefix_jax.models.model_config import ModelConfig
from prefix_jax.models.parameters import embedding, linear, stacked


@dataclass(frozen=True, kw_only=True)
class ToyConfig(ModelConfig):
    family: ClassVar[str] = "toy"
    positions: ClassVar[str] = "relative"


class Toy(DecoderOnly):
    def make_block(self):
        c = self.model_config
        return Block(SelfAttention(c.kv_heads, 1, c.head_dim, 0.5), MLP(c.d_ff, gpt2.gelu), partial(RMSNorm, 1e-5))

    def make_norm(self):
        return RMSNorm(1e-5)


def read(c):
    return ToyConfig(
        vocab_size=c["vocab_size"], layers=c["depth"], d_model=c["width"], heads=c["heads"], kv_heads=c["heads"],
        head_dim=c["width"] // c["heads"], d_ff=2 * c["width"], norm_epsilon=1e-5, tie_embeddings=True, eos_id=1,
        bos_id=None, pad_id=0,
    )


def parameters(c, names):
    def layer(i):
        qkv = names(f"{i}.qkv", c.d_model, c.heads, 3, c.head_dim)
        out = names(f"{i}.out", c.heads, 1, c.head_dim, c.d_model)
        return {
            "attention_norm": {"scale": names(f"{i}.norm", c.d_model)},
            "attention": {"qkv": {"kernel": qkv}, "out": {"kernel": out}},
            "mlp_norm": {"scale": names(f"{i}.mlp_norm", c.d_model)},
            "mlp": {"up": {"kernel": linear(names(f"{i}.up", c.d_ff, c.d_model))},
                    "down": {"kernel": linear(names(f"{i}.down", c.d_model, c.d_ff))}},
        }

    return {"embedding": {"tokens": embedding(c, names, "words")}, "layers": stacked(c.layers, layer),
            "final_norm": {"scale": names("norm", c.d_model)}}


FAMILY = Family(
    title="Toy", model_config=ToyConfig, network=Toy, readers={"toy": read}, parameters=parameters,
    modules=lambda c: [], anchor="words",
)
"""


def save_toy(folder) -> None:
    from safetensors.numpy import save_file

    draw = np.random.default_rng(0)
    e, h, d = 16, 2, 8
    shapes = {"words": (400, e), "norm": (e,)}
    for i in range(2):
        shapes |= {f"{i}.qkv": (e, h, 3, d), f"{i}.out": (h, 1, d, e), f"{i}.norm": (e,), f"{i}.mlp_norm": (e,)}
        shapes |= {f"{i}.up": (2 * e, e), f"{i}.down": (e, 2 * e)}
    save_file({n: draw.normal(0, 0.3, s).astype(np.float32) for n, s in shapes.items()}, folder / "model.safetensors")
    config = {"model_type": "toy", "vocab_size": 400, "depth": 2, "width": e, "heads": h}
    (folder / "config.json").write_text(json.dumps(config))
    tiny.tokenizer(folder, tiny.texts())


@pytest.fixture
def toy(tmp_path, monkeypatch):
    (tmp_path / "toy_package.py").write_text(FAMILY)
    monkeypatch.syspath_prepend(tmp_path)
    import toy_package

    monkeypatch.setitem(FAMILIES, "toy", toy_package.FAMILY)
    monkeypatch.setenv("PREFIX_JAX_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "model"
    folder.mkdir()
    save_toy(folder)
    return folder


def test_a_family_from_elsewhere_trains_and_opens_again(toy, tmp_path):
    config = tiny.configuration(toy, tmp_path)
    config.training.update(steps=4, batch=4, tensorboard=False, evaluate_every=0)
    config.optimizer.learning_rate = 0.05
    outcome = pipeline.tune(config, tmp_path / "run", [])
    assert outcome.finished
    tuned = inference.open_tuned(tmp_path / "run")
    assert tuned.session.model_config.family == "toy" and tuned.kept.prefix is not None
    assert json.loads((tmp_path / "run/tuned/prefix.json").read_text())["spec"]["family"] == "toy"
    assert len(inference.write_texts(tuned.session, tuned.kept, [tiny.rows(1)[0]["source"]], progress=False)) == 1


def test_a_family_from_elsewhere_is_read_from_its_config(toy):
    assert from_hf({"model_type": "toy", "vocab_size": 9, "depth": 3, "width": 8, "heads": 2}).layers == 3
