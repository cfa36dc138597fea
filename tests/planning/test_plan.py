"""Plans by the TPU's real compiler: what it multiplies agrees with a count by hand, and what is too large is told."""

import json

import jax
import pytest
from jax.sharding import SingleDeviceSharding

from prefix_jax.config import default_config
from prefix_jax.errors import UserError
from prefix_jax.models import from_hf
from prefix_jax.models.attention import KVSource, attend
from prefix_jax.models.masks import causal_interval
from prefix_jax.models.pretrained import load
from prefix_jax.planning import plan as planning
from prefix_jax.planning import report, shapes, topologies
from prefix_jax.planning.abstract import Work, base_shapes
from tests import runs

MODEL = {
    "model_type": "llama", "num_hidden_layers": 3, "hidden_size": 512, "num_attention_heads": 8, "head_dim": 128,
    "num_key_value_heads": 4, "intermediate_size": 1024, "vocab_size": 4096, "max_position_embeddings": 1024,
}  # fmt: skip
WORK = Work(rows=8, columns=256, targets=128)


@pytest.fixture
def compiler():
    pytest.importorskip("libtpu", reason="the TPU's compiler is absent: pip install 'jax[tpu]'")
    topologies.prepare_environment()


def configuration(**mesh: int):
    config = default_config()
    config.model.dtype = "bfloat16"
    config.prefix.update(length=16, reparameterisation="none")
    config.mesh.update(mesh)
    return config


def flops_by_hand(length: int, work: Work = WORK) -> int:
    """Forwards and back to the input through every frozen product; attention twice forwards and five products back."""
    tokens, e, heads, kv, d = work.rows * work.columns, 512, 8, 4, 128
    weights = e * kv * d * (heads // kv + 2) + e * heads * d + 3 * e * 1024
    attention = (2 + 5) * 2 * tokens * (work.columns + length) * heads * d
    return 3 * (2 * 2 * tokens * weights + attention) + 2 * 2 * work.rows * work.targets * e * 4096


@pytest.mark.slow
def test_flops_agree_with_a_count_by_hand(compiler):
    found = planning.plan(configuration(fsdp=2, tensor=2), from_hf(MODEL), topologies.parse("v5e:2x2"), WORK)
    assert found.cost is not None and not found.shortfall
    assert 4 * found.cost.flops == pytest.approx(flops_by_hand(16), rel=0.02)
    assert found.cost.collectives["all-gather"]["count"] >= 3 * 4  # a layer's weights, for each layer
    assert 0 < found.cost.compiler_seconds < 1 and found.tokens_per_second > 0
    assert "fits" in report.told("llama", found) and json.dumps(found.as_json())


@pytest.mark.slow
def test_attention_in_one_kernel_multiplies_the_same_and_writes_no_logits(compiler):
    """Grouped queries, over a mesh that divides rows and heads."""
    config, work = configuration(fsdp=2, tensor=2), Work(32, 1024, 128)
    config.model.attention = "fused"
    found = planning.plan(config, from_hf(MODEL), topologies.parse("v5e:2x2"), work)
    cost, pairs = found.cost, 32 * 1024 * (1024 + 16) * 8  # of queries and keys, of a layer's heads
    assert cost is not None and 4 * cost.flops == pytest.approx(flops_by_hand(16, work), rel=0.02)
    assert 4 * cost.kernel_flops == 3 * (2 + 5) * 2 * pairs * 128
    # All that moves is less than half of what logits alone would: in float32, written and read forwards and back.
    assert 4 * cost.bytes_moved < 3 * 2 * 2 * 4 * pairs / 2
    assert "kernels" in report.told("llama", found)


@pytest.mark.slow
@pytest.mark.parametrize(
    "topology",
    ["v5e:2x2", *(pytest.param(one, marks=pytest.mark.nightly) for one in ("v6e:2x2", "v5p:2x2x1"))],
)
@pytest.mark.parametrize(
    ("columns", "width", "dtype"), [(180, 64, "bfloat16"), (4096, 128, "bfloat16"), (512, 80, "float32")]
)
def test_the_kernels_compile_for_every_chip(compiler, topology, columns, width, dtype):
    device = topologies.devices(topologies.parse(topology))[0]
    sharding = SingleDeviceSharding(device)

    def array(*shape, dtype=dtype):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

    def loss(query, key, slots, ids):
        sources = (KVSource(slots, slots), KVSource(key, key, None, causal_interval(ids)))
        return attend(query, sources, 1.0, jax.numpy.dtype(dtype)).astype("float32").sum()

    arguments = array(2, 2, 2, columns, width), array(2, 2, columns, width), array(2, 100, width)
    gradient = jax.jit(jax.grad(loss, (0, 1, 2)))
    compiled = gradient.lower(*arguments, array(2, columns, dtype="int32")).compile()
    assert compiled.as_text().count('custom_call_target="tpu_custom_call"') == 2


@pytest.mark.slow
def test_relative_biases_go_into_the_kernel(compiler):
    """T5 with every weight tuned: the bias has a gradient."""
    config = configuration()
    config.method = "finetune"
    config.model.update(attention="fused", dtype="float32")
    model_config = from_hf({**shapes.KNOWN["t5-small"], "num_layers": 1, "vocab_size": 512})
    found = planning.plan(config, model_config, topologies.parse("v5e:1x1"), Work(2, 256, 128))
    assert found.cost is not None and found.cost.kernel_flops


@pytest.mark.slow
def test_weights_are_gathered_once_for_each_direction(compiler):
    """Two layers of GPT-J's size over 16 chips: a layer computed again has its weights for its gradient too."""
    config, work, e = configuration(fsdp=16), Work(64, 512, 128), 4096
    config.model.rematerialise = True
    model_config = from_hf({**shapes.KNOWN["gpt-j-6b-size"], "n_layer": 2})
    found = planning.plan(config, model_config, topologies.parse("v5e:4x4"), work)
    tokens = work.rows * work.columns
    # Forwards, again, and back; the last product of a layer is not wanted again.
    frozen = 3 * 2 * tokens * 12 * e * e - 2 * tokens * 4 * e * e
    attention = (2 + 2 + 5) * 2 * tokens * (work.columns + 16) * e
    by_hand = 2 * (frozen + attention) + 2 * 2 * work.rows * work.targets * e * 50400
    assert found.cost is not None and 16 * found.cost.flops == pytest.approx(by_hand, rel=0.02)
    gathered = 2 * (2 * 2 * 12 * e * e + 50400 * e)  # layers and the embedding, in bfloat16
    assert found.cost.collectives["all-gather"]["bytes"] == gathered
    assert found.cost.bytes_sent == pytest.approx(gathered * 15 / 16, rel=0.01)


@pytest.mark.slow
def test_what_does_not_fit_is_told_with_the_shortfall(compiler):
    model = {**MODEL, "num_hidden_layers": 1, "vocab_size": 2_500_000, "hidden_size": 2048, "head_dim": 256}
    found = planning.plan(configuration(), from_hf(model), topologies.parse("v5e:1x1"), Work(1, 128, 16))
    tables = 2 * 2 * 2048 * 2_500_000
    assert found.used > tables > found.available and found.shortfall == found.used - found.available
    assert "does not fit" in report.told("llama", found)


@pytest.mark.slow
def test_the_command_line_prints_json(compiler, tiny_models, tmp_path):
    recipe = runs.write_recipe(tmp_path / "recipe", tiny_models["gpt2"])
    words = ("--config", str(recipe), "--topology", "v5e:1x1", "--sequence_length", "64", "--targets", "32", "--json")
    out, _ = runs.run("plan", *words, cache=tmp_path / "cache")
    found = json.loads(out)
    assert found["fits"] and found["chips"] == 1 and found["rows"] == 4 and found["tokens_per_second"] > 0


@pytest.mark.slow
def test_search_ranks_the_meshes_it_compiled(compiler, tiny_models, tmp_path):
    recipe = runs.write_recipe(tmp_path / "recipe", tiny_models["gpt2"])
    words = ("--config", str(recipe), "--topology", "v5e:2x2", "--columns", "64", "--targets", "32", "--rows", "8")
    out, err = runs.run("plan", *words, "--search", "--most", "3", "--json", cache=tmp_path / "cache")
    found = json.loads(out)
    meshes = {tuple(plan["mesh"].values()) for plan in found}
    assert "--rows is now called --batch\n" in err and "--columns is now called --sequence_length\n" in err
    assert all(plan["rows"] == 8 and plan["columns"] == 64 for plan in found)
    assert len(meshes) == 3 and all(data * fsdp * tensor == 4 for data, fsdp, tensor in meshes)
    assert [plan["step_seconds"] for plan in found] == sorted(plan["step_seconds"] for plan in found)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--topology", "v9:4x4"), 'there is no TPU "v9"'),
        (("--topology", "v5e:4x4", "--config.model.source=gpt2-xxl"), 'did you mean "gpt2-xl"'),
        ((), "--topology is missing"),
    ],
)
def test_bad_input_is_one_sentence(words, expected, tiny_models, tmp_path):
    recipe = runs.write_recipe(tmp_path / "recipe", tiny_models["gpt2"])
    _, err = runs.run("plan", "--config", str(recipe), *words, cache=tmp_path / "cache", code=2)
    assert expected in err and "Traceback" not in err


def test_rows_that_the_mesh_does_not_divide_are_refused():
    with pytest.raises(UserError, match="6 rows cannot be divided over 4 x 1 devices; set --batch to a multiple of 4"):
        planning.plan(configuration(), from_hf(MODEL), topologies.parse("v5e:2x2"), Work(6, 128, 16))


def test_candidates_divide_heads_rows_and_width():
    config, model_config = configuration(), from_hf(MODEL)
    found = list(planning.candidates(config, model_config, topologies.parse("v5e:4x4"), Work(8, 128, 16)))
    assert planning.Mesh(1, 8, 2) in found and planning.Mesh(2, 1, 8) in found
    assert all(m.data * m.fsdp * m.tensor == 16 and 8 % m.tensor == 0 and 8 % (m.data * m.fsdp) == 0 for m in found)


@pytest.mark.parametrize("family", ["gpt2", "llama", "t5"])
def test_abstract_parameters_are_those_that_are_loaded(family, tiny_models):
    loaded = load(str(tiny_models[family]), "bfloat16")
    shapes_of = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), loaded.params)
    assert shapes_of == jax.tree.map(
        lambda leaf: (leaf.shape, leaf.dtype), base_shapes(loaded.model_config, "bfloat16")
    )


@pytest.mark.parametrize(
    ("name", "millions"),
    [("pythia-6.9b", 6857), ("gpt2-xl", 1558), ("t5-11b", 11307), ("gpt-j-6b-size", 5_850), ("llama-2-70b", 68_977)],
)
def test_known_shapes_have_the_published_number_of_parameters(name, millions):
    model_config = shapes.spec_of(name)
    found = sum(leaf.size for leaf in jax.tree.leaves(base_shapes(model_config, "bfloat16")))
    assert found == pytest.approx(1e6 * millions, rel=0.01)
