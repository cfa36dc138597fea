"""GPT-2 and the Llama family against transformers, on random weights: logits, and gradients of a prefix.

Every call of a case has the same shapes, so that it is compiled twice: without a prefix, and with one and its gradient.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prefix_jax.errors import UserError
from prefix_jax.models import from_hf
from prefix_jax.models.layers import INTERMEDIATES
from prefix_jax.models.pretrained import causes
from tests.models import torch_models as tm
from tests.models.torch_models import torch
from tests.parity.cases import CASES as ALL_CASES
from tests.parity.decoder_only import COLUMNS, LENGTH, ROWS, Calls, padding, tokens

CASES = {name: case for name, case in ALL_CASES.items() if not case.encoder_decoder}

TOLERANCE = 2e-5


@pytest.fixture(scope="module", params=CASES)
def calls(request):
    return Calls(CASES[request.param].pair())


def _close(found, expected, tolerance=TOLERANCE):
    np.testing.assert_allclose(found, expected, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("side", ["none", "right", "left"])
def test_trap_22_padding_parity(calls, side):
    _close(*calls.logits(side))


@pytest.mark.parametrize("side", ["none", "right", "left"])
def test_prefix_gradients_parity(calls, side):
    """Logits and gradients with a prefix, with and without padded rows."""
    logits, expected, gradients, leaves = calls.gradients(side)
    _close(logits, expected)
    tm.assert_gradients(gradients, leaves, 1e-4)


def test_packed_rows_parity(calls):
    """Sequences packed in a row (with padding) equal the same sequences in rows of their own, here and in torch."""
    for together, apart, expected in calls.packed():
        _close(together, expected)
        _close(together, apart, 1e-5)


def test_init_has_the_tree_of_the_weights(calls):
    model = calls.pair.model
    made = jax.eval_shape(lambda k: model.init(k, jnp.zeros((1, 3), int)), jax.random.key(0))["params"]
    shapes = jax.tree.map(lambda leaf: leaf.shape, dict(made))
    assert shapes == jax.tree.map(lambda leaf: leaf.shape, calls.pair.variables["params"])


def test_qwen2_windows_start_at_a_layer():
    """`max_window_layers` layers have none; transformers' default is 28, so that a short model has no window at all."""
    shapes = dict(vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=4, num_attention_heads=2)
    qwen2 = dict(model_type="qwen2", **shapes, use_sliding_window=True, sliding_window=16)
    assert from_hf(qwen2).sliding_window is None
    assert from_hf({**qwen2, "max_window_layers": 0}).sliding_window == 16
    assert from_hf({**qwen2, "max_window_layers": 0, "use_sliding_window": False}).sliding_window is None
    some = from_hf({**qwen2, "max_window_layers": 2})
    assert [kind.window for kind in some.layer_pattern] == [None, None, 16, 16]


@pytest.mark.parametrize("name", ["gemma3", "qwen3_windows_in_some_layers", "mistral_window"])
def test_trap_10_a_prefix_is_inside_every_window(name):
    """Every query of every layer sees all slots, however far behind it; tokens only inside the layer's window."""
    pair = CASES[name].pair()
    config, columns = pair.model_config, 30
    prefix = tm.random_prefix(config, LENGTH)
    _, state = pair.model.apply(pair.variables, tokens(0, 1, columns), prefix=prefix, mutable=[INTERMEDIATES])
    runs = state[INTERMEDIATES]["layers"]
    weights = np.concatenate([np.asarray(runs[start]["attention"]["weights"]) for start in sorted(runs, key=int)])
    assert weights.shape[0] == config.layers and weights.shape[-2:] == (columns, LENGTH + columns)
    assert (weights[..., :LENGTH] > 0).all()
    distance = np.arange(columns)[:, None] - np.arange(columns)
    for layer, kind in zip(weights, config.layer_pattern, strict=True):
        window = columns if kind.window is None else kind.window
        seen = (distance >= 0) & (distance < window)
        assert (layer[..., LENGTH:][..., ~seen] == 0).all() and (layer[..., LENGTH:][..., seen] > 0).all()


def _alibi_of_slots_without_distances(mask, heads, dtype):
    """BLOOM's biases, `[B H, T, P + T]`, where each slot has that of the query's own position."""
    config = {**CASES["bloom"].options, "model_type": "bloom", "n_head": heads}
    slopes = torch.tensor(from_hf(config).alibi.slopes, dtype=dtype)
    places = (mask[:, LENGTH:].cumsum(1) - 1).clamp(min=0)[:, None, None]
    keys = places.expand(-1, heads, places.shape[-1], -1)
    slots = keys.transpose(-1, -2)[..., :1].expand(-1, -1, -1, LENGTH)
    return (torch.cat([slots, keys], -1) * slopes[:, None, None]).flatten(0, 1)


@pytest.mark.parametrize("side", ["none", "left"])
def test_alibi_leaves_slots_without_a_bias(side):
    """Unless they have distances: every query sees them as near as its own token."""
    calls = Calls(CASES["bloom"].pair())
    calls.prefix = calls.prefix.replace(distances=False)
    token_ids, (mask, _) = tokens(), padding(side)
    cotangent = np.random.default_rng(1).standard_normal((ROWS, COLUMNS, 61), np.float32) * mask[..., None]
    gradients, logits = calls.prefixed(token_ids, mask, cotangent.astype(np.float32))
    leaves, network = tm.leaves_of(calls.prefix), calls.pair.torch
    network.transformer.build_alibi_tensor = _alibi_of_slots_without_distances
    seen = torch.tensor(np.pad(mask, [(0, 0), (LENGTH, 0)], constant_values=1))
    expected = network(torch.tensor(token_ids), attention_mask=seen, past_key_values=tm.cache_of(leaves, ROWS)).logits
    (expected * torch.tensor(cotangent)).sum().backward()
    _close(logits[mask == 1], expected.detach().numpy()[mask == 1])
    tm.assert_gradients(gradients, leaves, 1e-4)


@pytest.mark.parametrize("name", ["mpt", "falcon_rw"])
def test_alibi_of_slots_without_distances_knows_no_offset(name):
    calls = Calls(CASES[name].pair())
    token_ids, mask = tokens(), np.ones((ROWS, COLUMNS), int)
    placed = calls.prefixed(token_ids, mask)[1]
    calls.prefix = calls.prefix.replace(distances=False)
    calls.step.clear_cache()
    plain = calls.prefixed(token_ids, mask)[1]
    calls.prefix = calls.prefix.replace(position_offset=jnp.int32(0))
    calls.step.clear_cache()
    _close(calls.prefixed(token_ids, mask)[1], plain)
    assert np.abs(placed - plain).max() > 1e-2


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (dict(model_type="gpt_neo", vocab_size=8, num_layers=3, hidden_size=8, num_heads=2), "attention_types"),
        (dict(model_type="opt", layer_norm_elementwise_affine=False), "layer_norm_elementwise_affine"),
        (dict(model_type="codegen", n_layer=1, n_embd=12, n_head=6), "n_head=6"),
        (dict(model_type="bloom", apply_residual_connection_post_layernorm=True), "post_layernorm"),
        (dict(model_type="mpt", attn_config={"qk_ln": True}), "qk_ln"),
        (dict(model_type="mpt", attn_config={"alibi": False}), "alibi"),
        (dict(model_type="mpt", no_bias=False), "no_bias"),
        (dict(model_type="falcon", vocab_size=8, num_hidden_layers=1, hidden_size=8, num_attention_heads=2,
              new_decoder_architecture=True, parallel_attn=False), "parallel_attn"),
        (dict(model_type="falcon", vocab_size=8, num_hidden_layers=1, hidden_size=8, num_attention_heads=2,
              num_ln_in_parallel_attn=2), "num_ln_in_parallel_attn"),
        (dict(model_type="falcon", alibi="yes"), "alibi"),
    ],
)  # fmt: skip
def test_what_no_network_here_computes_is_refused(config, words):
    with pytest.raises(UserError, match=words):
        from_hf(config)


def test_megatron_names_are_told_from_those_of_transformers():
    for name in ("transformer.h.0.self_attention.query_key_value.weight", "h.11.mlp.dense_h_to_4h.bias"):
        causes.refuse_names([name], "the checkpoint")
    for name in (
        "language_model.encoder.layers.0.self_attention.query_key_value.weight",
        "model.decoder.layers.0.mlp.linear_fc1.weight",
        "language_model.embedding.word_embeddings.weight",
    ):
        with pytest.raises(UserError, match="Megatron"):
            causes.refuse_names([name], "the checkpoint")
