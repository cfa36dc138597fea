"""Lazy leaves: the same as numpy's own operations under any slice, and they read no more than they must."""

import subprocess
import sys
import textwrap

import numpy as np
import pytest

from prefix_jax.models import leaves
from prefix_jax.models.leaves import Leaf, from_array


def random_index(rng, shape):
    def part(size):
        a, b = sorted(rng.integers(0, size + 1, 2))
        return slice(int(a), int(b)) if rng.random() < 0.7 else slice(None)

    return tuple(part(n) for n in shape)


def chains(rng):
    """Pairs of a leaf and the array it should be."""
    x, y = (rng.normal(size=(12, 10)).astype(np.float32) for _ in range(2))
    a, b = from_array(x), from_array(y)
    yield leaves.transpose(a, (1, 0)), x.T
    yield leaves.split(a, 0, (3, 2, 2)), x.reshape(3, 2, 2, 10)
    yield leaves.split(a, 1, (5, 1, 2)), x.reshape(12, 5, 1, 2)
    yield leaves.merge(leaves.split(a, 0, (3, 4)), 0, 2), x
    yield (
        leaves.merge(leaves.transpose(leaves.split(a, 0, (3, 2, 2)), (0, 2, 1, 3)), 0, 3),
        (x.reshape(3, 2, 2, 10).swapaxes(1, 2).reshape(12, 10)),
    )
    yield leaves.stack([a, b, a], 1), np.stack([x, y, x], 1)
    yield leaves.concatenate([a, b], 1), np.concatenate([x, y], 1)
    fused = leaves.concatenate([leaves.split(a, 0, (3, 4)), leaves.split(b, 0, (3, 4))], 1)
    array = np.concatenate([x.reshape(3, 4, 10), y.reshape(3, 4, 10)], 1)
    yield leaves.transpose(leaves.stack([fused, fused]), (0, 3, 1, 2)), np.stack([array] * 2).transpose(0, 3, 1, 2)
    yield leaves.cast(a, np.float16), x.astype(np.float16)
    q = rng.integers(-128, 128, (12, 10)).astype(np.int8)
    for size in (1, 10):
        scale, zero = rng.random(size, np.float32), rng.integers(-9, 9, size).astype(np.int8)
        want = (q.astype(np.float32) - zero.astype(np.float32)) * scale
        yield leaves.affine(from_array(q), scale, zero), want


@pytest.mark.parametrize("seed", range(5))
def test_any_slice_is_numpys(seed):
    rng = np.random.default_rng(seed)
    for leaf, array in chains(rng):
        assert leaf.shape == array.shape
        assert leaf.dtype == array.dtype
        np.testing.assert_array_equal(leaf.all(), array)
        for _ in range(20):
            index = random_index(rng, leaf.shape)
            np.testing.assert_array_equal(leaf.read(index), array[index])


def test_a_shard_reads_only_its_rows():
    read = []

    def record(name):
        array = np.arange(8 * 6).reshape(8, 6)

        def reader(index):
            part = array[index]
            read.append((name, part.size))
            return part

        return Leaf(array.shape, array.dtype, reader)

    q = [leaves.split(record(i), 0, (4, 2)) for i in range(3)]
    kernel = leaves.transpose(leaves.stack(q), (0, 3, 1, 2))  # [L, E, K, D]
    kernel.read((slice(1, 2), slice(None), slice(2, 4), slice(None)))
    assert read == [(1, 4 * 6)]
    read.clear()
    leaves.concatenate(q, 0).read((slice(5, 6), slice(None), slice(0, 3)))
    assert read == [(1, 2 * 3)]


def test_wrong_shapes_are_refused():
    a = from_array(np.zeros((4, 3)))
    with pytest.raises(ValueError, match="cannot divide"):
        leaves.split(a, 0, (3, 2))
    with pytest.raises(ValueError, match="differ"):
        leaves.stack([a, from_array(np.zeros((4, 4)))])
    with pytest.raises(ValueError, match="steps of 1"):
        leaves.concatenate([a, a], 0).read((slice(0, 8, 2), slice(None)))


SHARDED = """
    import sys
    import jax, numpy as np
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", 8)
    from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
    from prefix_jax.models import from_hf, leaves, pretrained
    from prefix_jax.models.pretrained import loading, mapping

    mesh = jax.make_mesh((2, 4), ("data", "tensor"), axis_types=(AxisType.Auto,) * 2)
    checkpoint = pretrained.open_checkpoint(sys.argv[1])
    total, largest = {}, 0

    def watch(name, leaf):
        def read(index):
            global largest
            part = leaf.read(index)
            total[name] = total.get(name, 0) + part.size
            largest = max(largest, part.size)
            return part
        return leaves.Leaf(leaf.shape, leaf.dtype, read)

    table = {n: watch(n, l) for n, l in checkpoint.table.items()}
    model_config = from_hf(checkpoint.config)
    tree = mapping.to_tree(model_config, table)

    # What loading itself reads of a tied head's corner is not counted.
    total.clear()
    largest = 0

    def rule(path, leaf):
        path = jax.tree_util.keystr(path, simple=True, separator="/")
        rules = {"qkv/kernel": P(None, None, "tensor"), "qkv/bias": P(None, "tensor"),
                 "attention/out/kernel": P(None, "tensor"), "gate/kernel": P(None, None, "tensor"),
                 "up/kernel": P(None, None, "tensor"),
                 "down/kernel": P(None, "tensor"), "tokens": P("tensor")}
        for end, part in rules.items():
            if path.endswith(end):
                return NamedSharding(mesh, part)
        return NamedSharding(mesh, P())

    def shardings(abstract):
        return jax.tree_util.tree_map_with_path(rule, abstract)

    params = leaves.materialise(tree, shardings)
    for name, leaf in checkpoint.table.items():
        # Replicas over `data` and over all devices included, each number is read once.
        assert total[name] == np.prod(leaf.shape), (name, total[name], leaf.shape)
    biggest = max(np.prod(l.shape) for l in checkpoint.table.values())
    assert largest * 4 <= biggest, (largest, biggest)
    kernel = params["layers"]["attention"]["qkv"]["kernel"]
    assert {s.data.shape[2] for s in kernel.addressable_shards} == {kernel.shape[2] // 4}
    whole = pretrained.load(sys.argv[1]).params
    jax.tree.map(np.testing.assert_array_equal, params, whole)
    loaded = pretrained.load(sys.argv[1], sharding=lambda spec: shardings).params
    jax.tree.map(np.testing.assert_array_equal, loaded, whole)
    one = pretrained.load(sys.argv[1], "bfloat16", sharding=lambda spec: NamedSharding(mesh, P())).params
    assert all(x.sharding.is_fully_replicated and len(x.sharding.device_set) == 8 for x in jax.tree.leaves(one))
    print("sharded well")
"""


def test_sharded_loading_reads_each_shard_once(tmp_path):
    """On 8 simulated devices: every tensor is read once, in parts of a quarter, and the result is the whole load's."""
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    sizes = {
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 6,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
    }
    config = transformers.LlamaConfig(vocab_size=512, hidden_size=16, tie_word_embeddings=False, **sizes)
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path)
    command = [sys.executable, "-c", textwrap.dedent(SHARDED), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "sharded well" in done.stdout, done.stderr
